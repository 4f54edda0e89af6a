//! Parses, wires and waits.
fn main() {}
