//! The log on a device that can lose, tear and keep back what was not flushed.

#![allow(missing_docs, clippy::unwrap_used, clippy::cast_possible_truncation)]
#![cfg(not(loom))]

mod crash;
mod device;
mod driving;
mod opening;
mod rig;
