//! Scenarios over the whole master: a small world with its store, servers and clock.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test looks for one variant among many"
)]

mod consent;
mod creation;
mod old_copy;
mod properties;
mod registration;
mod reigns;
mod world;
