//! Deterministic simulator of a whole cluster.
