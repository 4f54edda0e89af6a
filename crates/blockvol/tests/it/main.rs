//! The store on a simulated disk: crashes at any operation, faults, wrong devices.

// A failed unwrap is a failed test, and the disk is small.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod crash;
mod disk;
mod opening;
mod running;
mod world;
