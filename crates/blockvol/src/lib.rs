//! One replica's store on a block device: superblocks, block map, extents, flusher, opening; and the devices that act.
