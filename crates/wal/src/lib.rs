//! The log of one replica: records, frames, ring, group commit, opening, retained history.
