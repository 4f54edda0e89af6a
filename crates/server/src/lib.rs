//! The `moorline` binary's library: sockets, ring, timers and files around machines that decide.
//!
//! | file | holds |
//! |---|---|
//! | `serve.rs` | a volume server, from its settings to its end |
//! | `driver.rs` | the one loop: drain what is ready, handle each, submit once, act |
//! | `transport.rs` | connections between servers: hello, frames |
//! | `master_link.rs` | the connection to the master |
//! | `nbd_front.rs` | NBD listeners and clients |
//! | `stores.rs` | the files and devices that stores lie on |
//! | `master_service.rs` | the master as a process |
//! | `metrics.rs` | figures for monitoring, over HTTP |
//! | `inbox.rs` `ready.rs` `socket.rs` `clock.rs` `note.rs` `causes.rs` | what the loop stands on |
//! | `config.rs` | what a process is told at its start |
//! | `cli.rs` `dev.rs` | commands · a cluster on one machine |

#![forbid(unsafe_code)]

mod causes;
pub mod cli;
mod clock;
pub mod config;
pub mod dev;
mod driver;
mod inbox;
mod master_link;
pub mod master_service;
mod metrics;
mod nbd_front;
mod note;
mod ready;
pub mod serve;
mod socket;
mod stores;
mod transport;
