//! The moorline binary's library: sockets, ring, timers, files, configuration and commands.
