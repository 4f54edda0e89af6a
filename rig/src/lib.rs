//! A power-cut disk: a FUSE file that can lose or tear what was not synced.
