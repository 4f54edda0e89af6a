//! Lease renewal: one request per pair of servers for all their volumes.

use std::collections::{BTreeMap, VecDeque};

use moorline_types::Instant;
use moorline_wire::{LeaseAsked, LeaseGrant, LeaseRefusal, LeaseRefused, LeaseRequest, Message};

use super::{Action, LinkId, Node, Peer};
use crate::replica::{DEFAULT_LEASE, Replica};

/// Requests without an answer that are remembered per connection.
const OUTSTANDING_MAX: usize = 16;

/// When leases were asked for.
#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub(super) struct LeaseRounds {
    next: Instant,
    /// Send times of this boot's requests on each connection: an answer to anything else is
    /// nothing.
    outstanding: BTreeMap<LinkId, VecDeque<u64>>,
}

impl LeaseRounds {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            next: now,
            outstanding: BTreeMap::new(),
        }
    }

    /// Asks for a round at `at` if that is sooner than the next one.
    pub(super) fn urge(&mut self, at: Option<Instant>) {
        if let Some(at) = at {
            self.next = self.next.min(at);
        }
    }

    pub(super) fn forget(&mut self, link: LinkId) {
        self.outstanding.remove(&link);
    }

    pub(super) fn next_deadline<'a>(
        &self,
        mut volumes: impl Iterator<Item = &'a Replica>,
    ) -> Option<Instant> {
        volumes.any(Replica::leads).then_some(self.next)
    }

    fn sent(&mut self, link: LinkId, at: u64) {
        let outstanding = self.outstanding.entry(link).or_default();
        outstanding.push_back(at);
        while outstanding.len() > OUTSTANDING_MAX {
            outstanding.pop_front();
        }
    }

    /// Whether `at` was asked on `link`; once per request.
    fn take(&mut self, link: LinkId, at: u64) -> bool {
        let Some(outstanding) = self.outstanding.get_mut(&link) else {
            return false;
        };
        match outstanding.iter().position(|&sent| sent == at) {
            Some(place) => {
                outstanding.drain(..=place);
                true
            }
            None => false,
        }
    }
}

impl Node {
    /// Sends a round of requests when one is due.
    pub(super) fn lease_round(&mut self, now: Instant, out: &mut Vec<Action>) {
        let mut leading = self
            .volumes
            .values()
            .filter(|replica| replica.leads())
            .peekable();
        if now < self.leases.next || leading.peek().is_none() {
            return;
        }
        let interval = leading.map(Replica::renewal_interval).min();
        self.leases.next = now.after(interval.unwrap_or(DEFAULT_LEASE / 4));
        for (server, link) in self.links.dialed_servers() {
            let volumes: Vec<LeaseAsked> = self
                .volumes
                .values()
                .filter_map(|replica| {
                    let (epoch, config) = replica.lease_wanted(server)?;
                    let ttl = replica.lease_term().as_millis();
                    Some(LeaseAsked {
                        volume: replica.volume(),
                        epoch,
                        config,
                        boot: self.me.boot,
                        ttl_ms: u32::try_from(ttl).unwrap_or(u32::MAX),
                    })
                })
                .collect();
            if volumes.is_empty() {
                continue;
            }
            let sent_ns = now.as_nanos();
            self.leases.sent(link, sent_ns);
            let message = Message::LeaseRequest(LeaseRequest { sent_ns, volumes });
            out.push(Action::Send { link, message });
        }
    }

    pub(super) fn lease_request(
        &mut self,
        now: Instant,
        link: LinkId,
        peer: &Peer,
        request: &LeaseRequest,
        out: &mut Vec<Action>,
    ) {
        let (mut granted, mut refused) = (Vec::new(), Vec::new());
        for asked in &request.volumes {
            let Some(replica) = self.volumes.get_mut(&asked.volume) else {
                let reason = LeaseRefusal::UnknownVolume;
                refused.push(LeaseRefused {
                    volume: asked.volume,
                    epoch: asked.epoch,
                    reason,
                });
                continue;
            };
            match replica.on_lease_asked(now, &self.me, peer, asked) {
                Ok(grant) => granted.push(grant),
                Err(refusal) => refused.push(refusal),
            }
        }
        let grant = LeaseGrant {
            sent_ns: request.sent_ns,
            granted,
            refused,
        };
        out.push(Action::Send {
            link,
            message: Message::LeaseGrant(grant),
        });
    }

    pub(super) fn lease_grant(
        &mut self,
        now: Instant,
        link: LinkId,
        peer: &Peer,
        grant: LeaseGrant,
        out: &mut Vec<Action>,
    ) {
        if !self.leases.take(link, grant.sent_ns) {
            return;
        }
        let sent = Instant::from_nanos(grant.sent_ns);
        for granted in grant.granted {
            self.with(now, granted.volume, out, |replica, ctx| {
                replica.on_lease_granted(ctx, &peer.server, granted.epoch, granted.store, sent);
            });
        }
    }
}
