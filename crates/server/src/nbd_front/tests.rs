//! Clients over real sockets.
