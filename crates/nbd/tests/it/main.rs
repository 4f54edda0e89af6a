//! The protocol from the client's side: every option, every command, and what is wrong with them.

// Helpers of tests are not recognised as tests; and what is not expected is a failure, whatever it is.
#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)]

mod client;
mod handshake;
mod reply;
mod session;
