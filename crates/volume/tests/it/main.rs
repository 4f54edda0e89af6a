//! A few nodes, driven through their events and actions alone.

// A failed unwrap is a failed test, and the master and the disk are small.
#![allow(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    clippy::wildcard_enum_match_arm
)]

mod opening;
mod pace;
mod rebuild;
mod repair;
mod roles;
mod world;
