//! The `moorline` binary's library: sockets, ring, timers and files around machines that decide.

#![forbid(unsafe_code)]

pub mod config;
