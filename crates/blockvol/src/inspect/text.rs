//! An inspection, for people.

use std::fmt;

use moorline_types::ByteCount;

use super::{DigestView, Inspection, LogView, StoreView};

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "device       {}", ByteCount::new(self.device_bytes))?;
        for copy in &self.superblocks {
            write!(f, "superblock {} {}", copy.copy, copy.state)?;
            if let (Some(generation), Some(checkpoint)) = (copy.generation, copy.checkpoint) {
                write!(f, ", generation {generation}, checkpoint {checkpoint}")?;
            }
            writeln!(f)?;
        }
        match &self.store {
            Some(store) => store.fmt(f),
            None => writeln!(f, "no valid superblock: this is no store, or a ruined one"),
        }
    }
}

impl fmt::Display for StoreView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = ByteCount::new(self.size_blocks.bytes());
        writeln!(
            f,
            "volume       {} ({}), {size}",
            self.volume_name, self.volume
        )?;
        writeln!(f, "server       {}, cluster {}", self.server, self.cluster)?;
        writeln!(
            f,
            "store        {}, opened {} times",
            self.store_uuid, self.open
        )?;
        let clean = if self.clean_shutdown { "yes" } else { "no" };
        writeln!(f, "closed clean {clean}")?;
        for (set, word) in [
            (self.memory_lost, "memory_lost"),
            (self.incomplete, "incomplete"),
            (self.needs_rebuild, "needs_rebuild"),
        ] {
            if set {
                writeln!(f, "marked       {word}")?;
            }
        }
        if let Some(promise) = &self.promised {
            let (epoch, server, boot) = (promise.epoch, &promise.server, &promise.boot);
            writeln!(f, "promised     epoch {epoch} to {server}, boot {boot}")?;
        }
        if let Some(line) = &self.line {
            writeln!(
                f,
                "line         epoch {}, config {}",
                line.epoch, line.config
            )?;
        }
        writeln!(
            f,
            "frontiers    head {}, committed {}, applied {}, checkpoint {}, tail {}",
            self.log.head, self.committed_lsn, self.applied_lsn, self.checkpoint_lsn, self.log.tail
        )?;
        for start in &self.history {
            writeln!(f, "epoch        {} from {}", start.epoch, start.first)?;
        }
        for given_up in &self.given_up {
            writeln!(f, "given up     {given_up}")?;
        }
        self.log.fmt(f)?;
        match &self.digest {
            Some(digest) => digest.fmt(f),
            None => Ok(()),
        }
    }
}

impl fmt::Display for LogView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = ByteCount::new(self.bytes);
        write!(
            f,
            "log          {} frames, {bytes}, {} cuts",
            self.frames, self.cuts
        )?;
        if let Some(torn) = self.torn {
            write!(f, ", torn end {torn}")?;
        }
        if let Some(after) = self.damaged_after {
            write!(f, ", DAMAGED after {after}")?;
        }
        if let Some(error) = &self.error {
            write!(f, ", CANNOT BE OPENED: {error}")?;
        }
        writeln!(f)
    }
}

impl fmt::Display for DigestView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.sha256 {
            Some(hash) => writeln!(
                f,
                "digest       {hash} through {}, {} blocks",
                self.through, self.data_blocks
            ),
            None => writeln!(
                f,
                "digest       none: blocks {:?} are damaged",
                self.damaged_blocks
            ),
        }
    }
}
