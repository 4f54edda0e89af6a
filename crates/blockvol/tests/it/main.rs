//! The store on a simulated disk: crashes at any operation, faults, wrong devices.

mod crash;
mod disk;
mod opening;
mod running;
mod world;
