//! Replicas at rest: byte-equal, and nothing of what recovery took is held any more.

use moorline_blockvol::inspect::{DigestThrough, inspect};
use moorline_types::{Lsn, ServerId};
use moorline_volume::Replica;
use moorline_wal::{PinHolder, RecordAt};
use moorline_wire::control::PeerState;

use super::{World, hosts::Host, phases::Phase};
use crate::checkers::{Rule, Violation};

impl World {
    pub(super) fn resting(&mut self) {
        let Some(volume) = self.volume else { return };
        let Some((head, tail)) = self.leaders_log() else {
            return;
        };
        let at_rest = self.hosts.iter().all(|host| {
            host.replaced
                || host.node.as_ref().is_some_and(|node| {
                    node.volume(volume).is_some_and(|replica| {
                        let store = replica.store();
                        let at = store.frontiers();
                        let whole = at.head == head && at.applied == head && at.checkpoint == head;
                        // What lacks records that nobody has any more was told so.
                        (whole && store.is_at_rest()) || store.durable().needs_rebuild
                    })
                })
        });
        if at_rest && self.excess().is_none() {
            let sound = self
                .hosts
                .iter()
                .filter_map(|host| self.sound_replica(host, tail));
            let bounded = sound.count() as u64;
            *self.counts.notes.entry("bounded_replicas").or_default() += bounded;
            self.compare(head, tail);
            self.phase = Phase::Over;
        }
    }

    /// Head and tail of the log of who serves.
    fn leaders_log(&self) -> Option<(Lsn, Lsn)> {
        let host = &self.hosts[self.serving_host()?];
        let at = host
            .node
            .as_ref()?
            .volume(self.volume?)?
            .store()
            .frontiers();
        Some((at.head, at.tail))
    }

    /// Replicas at rest are byte-equal.
    fn compare(&mut self, head: Lsn, tail: Lsn) {
        let mut seen: Option<(usize, Option<String>)> = None;
        let mut verdict = Ok(());
        let notes = &mut self.counts.notes;
        let damaged_replicas = notes.entry("damaged_replicas").or_default();
        for (index, host) in self.hosts.iter().enumerate() {
            let rebuild = host
                .node
                .as_ref()
                .zip(self.volume)
                .is_some_and(|(node, volume)| {
                    node.volume(volume).is_some_and(|replica| {
                        let store = replica.store();
                        // What the primary reclaimed nobody can send any more.
                        store.durable().needs_rebuild || store.frontiers().head < tail
                    })
                });
            if host.replaced || rebuild {
                continue;
            }
            let found = host
                .disks
                .values()
                .next()
                .and_then(|disk| inspect(disk, DigestThrough::Record(head)).ok())
                .and_then(|found| found.store?.digest);
            let damaged = found
                .as_ref()
                .is_some_and(|digest| !digest.damaged_blocks.is_empty());
            if damaged && host.corrupted {
                *damaged_replicas += 1;
                continue;
            }
            let digest = found.and_then(|digest| digest.sha256);
            match &seen {
                Some((first, known)) if *known != digest || digest.is_none() => {
                    let reason = format!(
                        "s{} and s{} differ at rest at {head}: {known:?} {digest:?}",
                        first + 1,
                        index + 1
                    );
                    verdict = Err(Violation::new(Rule::Replicas, reason));
                }
                Some(_) => {}
                None => seen = Some((index, digest)),
            }
        }
        self.check(verdict);
    }

    /// What is still held though nothing goes on: a pin, a session, memory, a full log. A replica
    /// that has lost something is not asked, nor is its primary about it: it waits for an operator.
    pub(super) fn excess(&self) -> Option<String> {
        let (_, tail) = self.leaders_log()?;
        let sound: Vec<(&Host, &Replica)> = self
            .hosts
            .iter()
            .filter_map(|host| Some((host, self.sound_replica(host, tail)?)))
            .collect();
        let is_sound = |server: &ServerId| sound.iter().any(|(host, _)| host.server == *server);
        let held = sound.iter().find_map(|(host, replica)| {
            let held = held_by(replica, &is_sound)?;
            Some(format!("{}: {held}", host.server))
        });
        held.or_else(|| {
            let report = self.hosts[self.serving_host()?].reported.as_ref()?;
            let peers = report.peers.iter();
            peers
                .filter(|peer| is_sound(&peer.server))
                .find(|peer| peer.state != PeerState::InSync || peer.session.is_some())
                .map(|peer| format!("peer {}: {:?} {:?}", peer.server, peer.state, peer.session))
        })
    }

    /// The replica of a host that lost nothing and has all that its primary's log no longer has.
    fn sound_replica<'a>(&self, host: &'a Host, tail: Lsn) -> Option<&'a Replica> {
        let replica = host.node.as_ref()?.volume(self.volume?)?;
        let store = replica.store();
        let lost = store.durable().needs_rebuild || store.frontiers().head < tail;
        let sound = !host.replaced && !host.corrupted && !lost && store.failed().is_none();
        sound.then_some(replica)
    }
}

/// Of the log, in percent: above this a checkpoint goes to both superblocks, which frees what lies
/// below it. One superblock's write may have to wait for the next pass.
const LOG_PERCENT_AT_REST: u8 = 75;

/// What a replica holds that one at rest does not. A session of a peer that is not sound never
/// ends: it follows, and is never called in sync.
fn held_by(replica: &Replica, is_sound: &dyn Fn(&ServerId) -> bool) -> Option<String> {
    let store = replica.store();
    let log = store.log();
    let ends = |holder: &PinHolder| match holder {
        PinHolder::CatchUp { server, .. } | PinHolder::Rebuild { server, .. } => is_sound(server),
        PinHolder::Promotion { .. } | PinHolder::Operation { .. } => true,
    };
    if let Some(pin) = log.pins().iter().find(|pin| ends(&pin.holder)) {
        return Some(format!("{pin:?}"));
    }
    if store.dirty_bytes() > 0 {
        return Some(format!("{} bytes are dirty", store.dirty_bytes()));
    }
    if store.fill() > LOG_PERCENT_AT_REST {
        let limit = store.log_limit();
        return Some(format!("its log is {} % full: {limit:?}", store.fill()));
    }
    let (mut lsn, head) = (log.tail(), log.head());
    while lsn < head {
        lsn = lsn.next();
        if let Some(RecordAt::Memory(_)) = log.record(lsn) {
            return Some(format!("record {lsn} is in memory"));
        }
    }
    None
}
