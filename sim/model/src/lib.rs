//! A stateright model of the replication protocol.
