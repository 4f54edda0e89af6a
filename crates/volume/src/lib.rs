//! One replica of one volume, and one server's whole head; no I/O.
