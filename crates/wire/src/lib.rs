//! Replication frames, control messages and their codec.
