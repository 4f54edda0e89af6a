//! Scenarios over the whole master.
