//! A reference model: what a registry of replicas is, said as plainly as possible.
//!
//! It knows no phases. An attempt is a list of what has happened to it, and where it stands is read
//! off that list. Slow, small, and written from the rules rather than from the engine.

use std::collections::BTreeMap;

use moorline_engine::{Bucket, SessionKind};

/// The primary of every run: head 20, committed 12, tail 5, all records of epoch 1.
pub(crate) const HEAD: u64 = 20;
pub(crate) const COMMITTED: u64 = 12;
pub(crate) const TAIL: u64 = 5;
/// Acknowledgements above are a lie.
pub(crate) const HEAD_NOW: u64 = 30;
/// Every base is of the checkpoint, which is the tail.
const BASE: u64 = TAIL;
/// Extents of every base.
pub(crate) const EXTENTS: u64 = 3;

/// An answer, as far as the model tells them apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Said {
    Done,
    Unchanged,
    Refused,
}

use Said::{Done, Refused, Unchanged};

/// What happens within a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fact {
    /// The replica holds records 1 through `head`, durably through `flushed`.
    Answered {
        head: u64,
        flushed: u64,
    },
    Offered,
    NotMember,
    Bound,
    PinRefused,
    PinBroken,
    Cut(u64),
    Acked(u64),
    Joined(u64),
    Recorded,
    Laid(u64),
    Whole(u64),
    ReadFailed,
    Panicked,
    Cancelled,
}

/// What is to be done for a replica, once it answered.
#[derive(Clone, Copy, Debug)]
struct Need {
    cut: Option<u64>,
    /// Shipped before the join: nothing when the two are equal.
    from: u64,
    target: u64,
}

/// One attempt, as the list of what happened to it.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    id: u64,
    epoch: u64,
    kind: SessionKind,
    linked: bool,
    need: Option<Need>,
    offered: bool,
    bound: bool,
    cut: bool,
    durable: Option<u64>,
    joined: Option<u64>,
    recorded: bool,
    laid: u64,
    whole: Option<u64>,
    over: bool,
}

impl Attempt {
    fn catches_up(&self) -> bool {
        self.kind == SessionKind::CatchUp
    }

    fn judged(&self) -> bool {
        self.need.is_some() || self.offered
    }

    fn asks(&self) -> bool {
        self.linked && !self.judged()
    }

    fn has_gap(&self) -> bool {
        self.need.is_some_and(|need| need.from < need.target)
    }

    fn waits_for_pin(&self) -> bool {
        (self.has_gap() || self.offered) && !self.bound
    }

    fn waits_for_cut(&self) -> bool {
        let needs = self.need.is_some_and(|need| need.cut.is_some());
        needs && !self.waits_for_pin() && !self.cut
    }

    fn ready(&self) -> bool {
        self.judged() && !self.waits_for_pin() && !self.waits_for_cut()
    }

    fn ships(&self) -> bool {
        let short = |need: Need| self.durable < Some(need.target);
        self.catches_up() && self.ready() && self.need.is_some_and(short)
    }

    fn joins(&self) -> bool {
        self.ready() && !self.ships() && (self.catches_up() || self.joined.is_none())
    }

    fn lays(&self) -> bool {
        !self.catches_up() && self.joined.is_some()
    }

    fn proven(&self) -> bool {
        if self.catches_up() {
            self.joins() && self.joined.is_some() && self.durable >= self.joined && self.recorded
        } else {
            self.whole
                .is_some_and(|target| self.durable.unwrap_or(0) >= target)
        }
    }

    fn counts(&self) -> bool {
        self.catches_up() && self.ready()
    }

    fn bucket(&self) -> Bucket {
        if !self.judged() || (self.catches_up() && self.waits_for_pin()) {
            Bucket::Connecting
        } else if !self.catches_up() {
            Bucket::Rebuilding
        } else if self.joins() {
            Bucket::Joining
        } else {
            Bucket::CatchingUp
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mark {
    Nothing,
    InSync,
    Degraded,
}

#[derive(Clone, Debug)]
struct Peer {
    version: u64,
    mark: Mark,
    needs_rebuild: bool,
    latest: Option<Attempt>,
}

impl Peer {
    fn live(&mut self) -> Option<&mut Attempt> {
        self.latest.as_mut().filter(|attempt| !attempt.over)
    }

    /// The live attempt is over; the mark says what is left.
    fn end(&mut self, mark: Mark) {
        if let Some(attempt) = self.live() {
            attempt.over = true;
        }
        self.mark = mark;
    }

    fn lose_standing(&mut self) {
        if self.live().is_some() || self.mark == Mark::InSync {
            self.end(Mark::Nothing);
        }
    }
}

/// The primary's registry.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) epoch: u64,
    line: Option<(u64, u64)>,
    peers: BTreeMap<u64, Peer>,
    /// Recoveries begun so far.
    pub(crate) started: usize,
    /// Ids given out, used or not.
    ids: u64,
}

impl Model {
    pub(crate) fn new(epoch: u64) -> Self {
        Self {
            epoch,
            line: None,
            peers: BTreeMap::new(),
            started: 0,
            ids: 0,
        }
    }

    pub(crate) fn bucket(&self, server: u64) -> Option<Bucket> {
        let peer = self.peers.get(&server)?;
        let live = peer.latest.filter(|attempt| !attempt.over);
        Some(match (live, peer.needs_rebuild, peer.mark) {
            (Some(attempt), _, _) => attempt.bucket(),
            (None, true, _) => Bucket::NeedsRebuild,
            (None, false, Mark::Nothing) => Bucket::Disconnected,
            (None, false, Mark::InSync) => Bucket::InSync,
            (None, false, Mark::Degraded) => Bucket::Degraded,
        })
    }

    /// The id and epoch of the latest attempt.
    pub(crate) fn latest(&self, server: u64) -> Option<(u64, u64)> {
        let attempt = self.peers.get(&server)?.latest?;
        Some((attempt.id, attempt.epoch))
    }

    /// Whether acknowledgements of the latest attempt count towards a commit.
    pub(crate) fn counts(&self, server: u64) -> bool {
        let Some(peer) = self.peers.get(&server) else {
            return false;
        };
        let standing = |attempt: &Attempt| !attempt.over || peer.mark == Mark::InSync;
        peer.latest
            .is_some_and(|a| standing(&a) && a.counts() && a.epoch == self.epoch)
    }

    /// Members as (server, endpoint version).
    pub(crate) fn assigned(&mut self, epoch: u64, config: u64, members: &[(u64, u64)]) -> Said {
        if members.is_empty() || epoch < self.epoch {
            return Refused;
        }
        let known = self.line.filter(|line| line.0 == epoch);
        match known.map(|line| config.cmp(&line.1)) {
            Some(std::cmp::Ordering::Less) => return Refused,
            Some(std::cmp::Ordering::Equal) => return Unchanged,
            Some(std::cmp::Ordering::Greater) | None => {}
        }
        let new_reign = self.line.is_none_or(|line| line.0 < epoch);
        self.peers
            .retain(|server, _| members.iter().any(|member| member.0 == *server));
        let newer = epoch > self.epoch;
        self.epoch = epoch;
        for &(server, version) in members {
            let wanted = match self.peers.get_mut(&server) {
                Some(peer) => {
                    let moved = version > peer.version;
                    if moved {
                        peer.version = version;
                    }
                    if moved || newer {
                        peer.lose_standing();
                    }
                    moved || new_reign
                }
                None => {
                    let fresh = Peer {
                        version,
                        mark: Mark::Nothing,
                        needs_rebuild: false,
                        latest: None,
                    };
                    self.peers.insert(server, fresh);
                    true
                }
            };
            if wanted {
                self.request(server, SessionKind::CatchUp);
            }
        }
        self.line = Some((epoch, config));
        Done
    }

    pub(crate) fn raised(&mut self, to: u64) -> Said {
        if to <= self.epoch {
            return if to == self.epoch { Unchanged } else { Refused };
        }
        self.epoch = to;
        self.peers.values_mut().for_each(Peer::lose_standing);
        Done
    }

    pub(crate) fn request(&mut self, server: u64, kind: SessionKind) -> Said {
        self.ids += 1;
        let (id, epoch) = (self.ids, self.epoch);
        let Some(peer) = self.peers.get_mut(&server) else {
            return Refused;
        };
        let rebuilds = kind == SessionKind::Rebuild;
        let busy = peer.live().is_some() || peer.mark == Mark::InSync;
        if busy || rebuilds != peer.needs_rebuild {
            return Refused;
        }
        peer.mark = Mark::Nothing;
        peer.latest = Some(Attempt {
            id,
            epoch,
            kind,
            linked: false,
            need: None,
            offered: false,
            bound: false,
            cut: false,
            durable: None,
            joined: None,
            recorded: false,
            laid: 0,
            whole: None,
            over: false,
        });
        self.started += 1;
        Done
    }

    pub(crate) fn link_up(&mut self, server: u64) -> Said {
        let Some(peer) = self.peers.get_mut(&server) else {
            self.ids += 1;
            return Refused;
        };
        if peer.live().is_none() {
            if peer.mark == Mark::InSync {
                self.ids += 1;
                return Unchanged;
            }
            if self.request(server, SessionKind::CatchUp) == Refused {
                return Refused;
            }
        } else {
            self.ids += 1;
        }
        let attempt = self.peers.get_mut(&server).and_then(Peer::live);
        let attempt = attempt.expect("live, or begun above");
        if std::mem::replace(&mut attempt.linked, true) {
            return Unchanged;
        }
        Done
    }

    pub(crate) fn link_lost(&mut self, server: u64) -> Said {
        self.unhealthy(server, Mark::Nothing)
    }

    pub(crate) fn silent(&mut self, server: u64) -> Said {
        self.unhealthy(server, Mark::Degraded)
    }

    fn unhealthy(&mut self, server: u64, left: Mark) -> Said {
        let Some(peer) = self.peers.get_mut(&server) else {
            return Refused;
        };
        match (peer.live().map(|attempt| attempt.linked), peer.mark) {
            (Some(false), _) | (None, Mark::Nothing) => Unchanged,
            (None, Mark::Degraded) if left == Mark::Degraded => Unchanged,
            (Some(true), _) | (None, Mark::InSync | Mark::Degraded) => {
                peer.end(left);
                Done
            }
        }
    }

    /// A fact told in the name of session `id` of `epoch`.
    pub(crate) fn told(&mut self, server: u64, (id, epoch): (u64, u64), fact: Fact) -> Said {
        let now = self.epoch;
        let Some(peer) = self.peers.get_mut(&server) else {
            return Refused;
        };
        let Some(attempt) = peer.live().filter(|live| live.id == id && epoch == now) else {
            return Refused;
        };
        let verdict = happen(attempt, fact);
        if attempt.proven() {
            let rebuilt = !attempt.catches_up();
            peer.end(if rebuilt { Mark::Nothing } else { Mark::InSync });
            if rebuilt {
                peer.needs_rebuild = false;
            }
        }
        match verdict {
            Verdict::Said(said) => said,
            Verdict::Ends(mark) => {
                peer.end(mark);
                Done
            }
            Verdict::TooOld => {
                peer.end(Mark::Nothing);
                peer.needs_rebuild = true;
                Done
            }
        }
    }
}

enum Verdict {
    Said(Said),
    Ends(Mark),
    TooOld,
}

fn when(holds: bool, change: impl FnOnce() -> Said) -> Verdict {
    Verdict::Said(if holds { change() } else { Refused })
}

fn ends_when(holds: bool, mark: Mark) -> Verdict {
    if holds {
        Verdict::Ends(mark)
    } else {
        Verdict::Said(Refused)
    }
}

fn happen(a: &mut Attempt, fact: Fact) -> Verdict {
    match fact {
        Fact::Answered { head, flushed } if a.catches_up() && a.asks() => {
            let common = head.min(HEAD);
            let from = flushed.min(common);
            if from < TAIL {
                return Verdict::TooOld;
            }
            let (cut, target) = ((head > HEAD).then_some(HEAD), COMMITTED.max(from));
            a.need = Some(Need { cut, from, target });
            a.durable = Some(from);
            Verdict::Said(Done)
        }
        Fact::Answered { .. } => Verdict::Said(Refused),
        Fact::Offered => when(!a.catches_up() && a.asks(), || {
            a.offered = true;
            // An empty log above the base is durable.
            a.durable = Some(BASE);
            Done
        }),
        Fact::NotMember => ends_when(a.asks(), Mark::Nothing),
        Fact::Bound => when(a.waits_for_pin(), || {
            a.bound = true;
            Done
        }),
        Fact::PinRefused => {
            let joins = a.joins() && a.joined.is_none();
            ends_when(a.waits_for_pin() || joins, Mark::Nothing)
        }
        Fact::PinBroken => ends_when(a.judged(), Mark::Degraded),
        Fact::ReadFailed | Fact::Panicked => {
            ends_when(a.judged() && !a.waits_for_pin(), Mark::Nothing)
        }
        Fact::Cancelled => Verdict::Ends(Mark::Nothing),
        Fact::Cut(through) => {
            let required = a.need.and_then(|need| need.cut);
            when(a.waits_for_cut() && required == Some(through), || {
                a.cut = true;
                Done
            })
        }
        Fact::Acked(flushed) => {
            let heard = a.ships() || a.lays() || a.joins();
            when(heard && flushed <= HEAD_NOW, || {
                if a.durable >= Some(flushed) {
                    return Unchanged;
                }
                a.durable = Some(flushed);
                Done
            })
        }
        Fact::Joined(at) => {
            let shipped = a.need.map_or(BASE, |need| need.target);
            when(a.joins(), || match a.joined {
                None if at >= shipped => {
                    a.joined = Some(at);
                    Done
                }
                Some(before) if before == at => Unchanged,
                None | Some(_) => Refused,
            })
        }
        Fact::Recorded => when(a.catches_up() && a.joins() && a.joined.is_some(), || {
            if std::mem::replace(&mut a.recorded, true) {
                return Unchanged;
            }
            Done
        }),
        Fact::Laid(extents) => when(a.lays() && a.whole.is_none() && extents <= EXTENTS, || {
            if extents <= a.laid {
                return Unchanged;
            }
            a.laid = extents;
            Done
        }),
        Fact::Whole(target) => {
            let ready = a.lays() && a.whole.is_none() && a.laid == EXTENTS && target >= BASE;
            when(ready, || {
                a.whole = Some(target);
                Done
            })
        }
    }
}
