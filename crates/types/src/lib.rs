//! The vocabulary: LSNs, epochs, ids, time, geometry, device operations and payload buffers.
