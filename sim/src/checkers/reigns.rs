//! One primary per epoch, and none that answers after a higher epoch did.

use std::collections::BTreeMap;

use moorline_types::Epoch;

use super::{Rule, Violation};

/// One run of one server's process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Boot {
    pub(crate) server: usize,
    pub(crate) life: u32,
}

/// Who answered in which epoch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reigns {
    answered: BTreeMap<Epoch, Boot>,
}

impl Reigns {
    /// A read or a change is answered in `epoch` by `boot`.
    pub(crate) fn answered(&mut self, epoch: Epoch, boot: Boot) -> Result<(), Violation> {
        if let Some((highest, by)) = self.answered.last_key_value()
            && *highest > epoch
        {
            let reason = format!(
                "server {} answers in epoch {epoch} after server {} did in epoch {highest}",
                boot.server + 1,
                by.server + 1
            );
            return Err(Violation::new(Rule::Reigns, reason));
        }
        let known = self.answered.entry(epoch).or_insert(boot);
        if *known != boot {
            let reason = format!(
                "epoch {epoch} belongs to run {} of server {} and run {} of server {} answers in it",
                known.life,
                known.server + 1,
                boot.life,
                boot.server + 1
            );
            return Err(Violation::new(Rule::Reigns, reason));
        }
        Ok(())
    }

    /// How many epochs had an answer.
    pub(crate) fn count(&self) -> usize {
        self.answered.len()
    }
}
