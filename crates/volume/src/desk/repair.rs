//! Reads that met a damaged block: they wait until it is repaired, or known to be lost.

use moorline_blockvol::{ReadFault, ReadToken, Store};
use moorline_types::{BlockIndex, DeviceOp};

use super::{Desk, Waiting, answer, covering, read::client_error};
use crate::{
    client::{ClientOp, ClientReply},
    node::Action,
};

/// Whether a read that failed is kept until its block is repaired.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Held {
    /// It is.
    Yes,
    /// Nobody waits for it, or it waited for more blocks than it has.
    No,
}

impl Desk {
    /// Keeps the request that `token` was read for until `block` is repaired.
    pub(crate) fn hold_for_repair(&mut self, token: ReadToken, block: BlockIndex) -> Held {
        if self.merges.iter_mut().any(|merge| merge.hold_edge(token)) {
            return Held::Yes;
        }
        let Some(reading) = self.reads.get_mut(&token) else {
            return Held::No;
        };
        let range = reading.range;
        // A device that loses what was repaired must not keep its clients for ever.
        let room = |repairs: u32| repairs <= covering(range).count();
        let Some(mut ticket) = (reading.ticket).take_if(|ticket| room(ticket.repairs)) else {
            return Held::No;
        };
        self.reads.remove(&token);
        ticket.repairs += 1;
        let op = ClientOp::Read(range);
        self.held.push((block, Waiting { ticket, op }));
        Held::Yes
    }

    /// A good copy of `block` is in memory, or a newer version: what waited for it is read again.
    pub(crate) fn repaired(
        &mut self,
        block: BlockIndex,
        store: &mut Store,
        ops: &mut Vec<DeviceOp>,
        out: &mut Vec<Action>,
    ) {
        let released = self
            .held
            .extract_if(.., |(waits_for, _)| *waits_for == block);
        self.waiting.extend(released.map(|(_, entry)| entry));
        let mut index = 0;
        while index < self.merges.len() {
            let merge = &mut self.merges[index];
            match merge.waits_for(block) {
                true => match merge.read_edges(&mut self.tokens, store, ops) {
                    Ok(()) => index += 1,
                    Err(fault) => {
                        let merge = self.merges.remove(index);
                        self.fail_merge(merge, &fault, out);
                    }
                },
                false => index += 1,
            }
        }
    }

    /// Nobody has a good copy of `block`: what waited for it fails, and nothing else.
    pub(crate) fn not_repaired(
        &mut self,
        block: BlockIndex,
        fault: &ReadFault,
        out: &mut Vec<Action>,
    ) {
        let lost = self
            .held
            .extract_if(.., |(waits_for, _)| *waits_for == block);
        for (_, entry) in lost {
            let reply = ClientReply::Failed(client_error(fault));
            answer(out, &entry.ticket, reply);
        }
        let lost: Vec<_> = self
            .merges
            .extract_if(.., |merge| merge.waits_for(block))
            .collect();
        for merge in lost {
            self.fail_merge(merge, fault, out);
        }
    }
}
