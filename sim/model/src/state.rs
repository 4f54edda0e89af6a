//! The state of everything: replicas, master, and the ghost that no replica can see.

use crate::log::{Log, Record};
use crate::set::Set;
use crate::world::{EPOCHS_MAX, LOG_MAX, REPLICAS, World};
use std::fmt;
use std::hash::{Hash, Hasher};

/// What a replica is, in the epoch that it promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// Idle, replica or fenced: it leads nothing.
    Follower,
    /// Collecting promises.
    Candidate,
    /// Its mark is appended and not yet committed.
    Opening,
    /// Its mark is committed. It serves while its lease is live.
    Primary,
}

/// One replica and its server.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Replica {
    pub(crate) log: Log,
    /// Durable: the highest epoch promised.
    pub(crate) promised: u8,
    /// Kept only for [`crate::Mutant::LongestByPromised`]: the epoch promised before.
    pub(crate) promised_before: u8,
    pub(crate) role: Role,
    /// False once the store is not the recorded one.
    pub(crate) vote: bool,
    /// `received`: since it last held all that its leader held, it has not restarted (PROM-12).
    pub(crate) intact: bool,
    /// It was cut into what a leader gave up, and does not yet hold that leader's mark (CUT-6).
    pub(crate) gave_up: bool,
    /// In a session with the primary of `promised`, cut if need be: its log is a prefix of that primary's.
    pub(crate) aligned: bool,
    /// Kept only for [`crate::Mutant::NoSilenceAfterRestart`]: it forgot the leases that it granted.
    pub(crate) forgot: bool,
    /// A candidate's answers, itself included.
    pub(crate) answers: Set,
    /// Whose grants it holds. Whether that is a live lease is the policy's to say.
    pub(crate) lease: Set,
    /// `sync_all`: whose copies a record needs.
    pub(crate) required: Set,
    /// Kept only for [`crate::Mutant::GrowWithoutLease`]: required, not recorded.
    pub(crate) joining: Set,
    /// A leader's knowledge of each peer's flushed frontier in its epoch.
    pub(crate) acked: [u8; REPLICAS],
}

impl Replica {
    /// Whether it ships, and counts, as the leader of the epoch that it promised.
    pub(crate) fn leads(&self) -> bool {
        matches!(self.role, Role::Opening | Role::Primary)
    }

    /// Loses what a crash loses, except the log.
    pub(crate) fn forget_volatile(&mut self) {
        self.stand_down();
        self.aligned = false;
    }

    /// Gives up any lead and everything that goes with it.
    pub(crate) fn stand_down(&mut self) {
        self.role = Role::Follower;
        self.answers = Set::EMPTY;
        self.lease = Set::EMPTY;
        self.required = Set::EMPTY;
        self.joining = Set::EMPTY;
        self.acked = [0; REPLICAS];
    }

    fn renamed(&self, names: [usize; REPLICAS]) -> Self {
        let mut acked = [0; REPLICAS];
        for (member, &name) in names.iter().enumerate() {
            acked[name] = self.acked[member];
        }
        Self {
            answers: self.answers.renamed(names),
            lease: self.lease.renamed(names),
            required: self.required.renamed(names),
            joining: self.joining.renamed(names),
            acked,
            ..*self
        }
    }

    /// What does not name other replicas, for sorting.
    fn key(&self) -> (u64, u8, Role, [bool; 4]) {
        (
            self.log.key(),
            self.promised,
            self.role,
            [self.vote, self.intact, self.gave_up, self.aligned],
        )
    }
}

/// An epoch that was minted and whose candidate, in the boot it was minted for, has not yet begun.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Reign {
    /// `None` once begun, or once the named boot is gone.
    pub(crate) candidate: Option<u8>,
    /// `sync_all`: the in-sync set that the epoch was minted with.
    pub(crate) in_sync: Set,
}

/// The master: what it published.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Master {
    pub(crate) epoch: u8,
    /// `sync_all`: the recorded in-sync set.
    pub(crate) in_sync: Set,
    /// By epoch; entries 0 and 1 are unused.
    pub(crate) reigns: [Reign; EPOCHS_MAX + 1],
}

/// What went wrong at a step, where the state after it could not show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// A commit or a serving primary contradicted what had been committed.
    Lost = 1,
    /// A commit without the durable copies that the policy names.
    Copies = 2,
    /// A commit of something that was never written, or written once and committed twice.
    Invented = 4,
    /// A cut took away a record that had been committed up to the epoch of the cut.
    Cut = 8,
    /// Two boots acted in one epoch.
    TwoBoots = 16,
}

/// What an observer outside remembers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ghost {
    /// Every record ever committed, by LSN.
    pub(crate) committed: [Record; LOG_MAX],
    /// The epoch whose leader committed it, by LSN.
    pub(crate) committed_in: [u8; LOG_MAX],
    /// How many those are.
    pub(crate) committed_through: u8,
    /// The highest epoch in which anybody could serve.
    pub(crate) served: u8,
    /// [`Wrong`]s, as bits.
    pub(crate) wrong: u8,
    pub(crate) writes: u8,
    pub(crate) restarts: u8,
    pub(crate) wipes: u8,
}

/// The whole state.
#[derive(Clone, PartialEq, Eq)]
pub struct State {
    pub(crate) replicas: [Replica; REPLICAS],
    pub(crate) master: Master,
    pub(crate) ghost: Ghost,
}

impl State {
    /// Epoch 1 under replica 0: its mark is committed on all three stores; nobody holds a lease yet.
    pub(crate) fn initial(world: &World) -> Self {
        let mut log = Log::EMPTY;
        log.append(Record::mark(1));
        log.flush();
        let follower = Replica {
            log,
            promised: 1,
            promised_before: 0,
            role: Role::Follower,
            vote: true,
            intact: true,
            gave_up: false,
            aligned: true,
            forgot: false,
            answers: Set::EMPTY,
            lease: Set::EMPTY,
            required: Set::EMPTY,
            joining: Set::EMPTY,
            acked: [0; REPLICAS],
        };
        let in_sync = match world.policy {
            crate::Policy::SyncQuorum => Set::EMPTY,
            crate::Policy::SyncAll => Set::ALL,
        };
        let mut replicas = [follower; REPLICAS];
        replicas[0] = Replica {
            role: Role::Primary,
            aligned: false,
            required: in_sync,
            acked: [0, 1, 1],
            ..follower
        };
        let mut committed = [Record::default(); LOG_MAX];
        committed[0] = Record::mark(1);
        let mut committed_in = [0; LOG_MAX];
        committed_in[0] = 1;
        let ghost = Ghost {
            committed,
            committed_in,
            committed_through: 1,
            served: 1,
            wrong: 0,
            writes: 0,
            restarts: 0,
            wipes: 0,
        };
        let master = Master {
            epoch: 1,
            in_sync,
            reigns: [Reign::default(); EPOCHS_MAX + 1],
        };
        Self {
            replicas,
            master,
            ghost,
        }
        .canonical()
    }

    pub(crate) fn note(&mut self, wrong: Wrong) {
        self.ghost.wrong |= wrong as u8;
    }

    pub(crate) fn has(&self, wrong: Wrong) -> bool {
        self.ghost.wrong & wrong as u8 != 0
    }

    /// One state for all that differ only in the names of replicas: nothing in the protocol but the
    /// master's tie-break looks at a name, so what one can do, all can.
    #[must_use]
    pub(crate) fn canonical(self) -> Self {
        let keys = [0, 1, 2].map(|member: usize| self.replicas[member].key());
        if keys[0] < keys[1] && keys[1] < keys[2] {
            return self;
        }
        let mut best: Option<([u8; ENCODED], Self)> = None;
        for order in ORDERS {
            // `order[new] = old`; only sorted orders compete.
            if keys[order[0]] > keys[order[1]] || keys[order[1]] > keys[order[2]] {
                continue;
            }
            let renamed = self.reordered(order);
            let encoded = renamed.encode();
            if best.as_ref().is_none_or(|(least, _)| encoded < *least) {
                best = Some((encoded, renamed));
            }
        }
        best.map(|(_, state)| state).expect("some order is sorted")
    }

    fn reordered(&self, order: [usize; REPLICAS]) -> Self {
        let mut names = [0; REPLICAS];
        for (new, &old) in order.iter().enumerate() {
            names[old] = new;
        }
        let mut state = self.clone();
        state.replicas = order.map(|old| self.replicas[old].renamed(names));
        state.master.in_sync = self.master.in_sync.renamed(names);
        for reign in &mut state.master.reigns {
            reign.in_sync = reign.in_sync.renamed(names);
            reign.candidate = reign
                .candidate
                .map(|old| u8::try_from(names[usize::from(old)]).expect("three replicas"));
        }
        state
    }

    /// A compact encoding of everything: equal encodings are equal states.
    fn encode(&self) -> [u8; ENCODED] {
        let mut bytes = [0; ENCODED];
        let mut at = 0;
        let mut push = |byte: u8| {
            bytes[at] = byte;
            at += 1;
        };
        for replica in &self.replicas {
            replica
                .log
                .key()
                .to_le_bytes()
                .into_iter()
                .for_each(&mut push);
            push((replica.promised << 4) | replica.promised_before);
            let flags = [
                replica.vote,
                replica.intact,
                replica.gave_up,
                replica.aligned,
                replica.forgot,
            ];
            push(flags.iter().fold(replica.role as u8, |bits, &flag| {
                (bits << 1) | u8::from(flag)
            }));
            push((replica.answers.bits() << 4) | replica.lease.bits());
            push((replica.required.bits() << 4) | replica.joining.bits());
            push((replica.acked[0] << 4) | replica.acked[1]);
            push(replica.acked[2]);
        }
        push((self.master.epoch << 4) | self.master.in_sync.bits());
        for reign in &self.master.reigns[2..] {
            push((reign.candidate.map_or(15, |name| name) << 4) | reign.in_sync.bits());
        }
        self.ghost
            .committed
            .iter()
            .for_each(|record| push(record.bits()));
        self.ghost
            .committed_in
            .iter()
            .for_each(|&epoch| push(epoch));
        push((self.ghost.committed_through << 4) | self.ghost.served);
        push(self.ghost.wrong);
        push((self.ghost.writes << 4) | (self.ghost.restarts << 2) | self.ghost.wipes);
        bytes
    }
}

/// Bytes of an encoded state: replicas, master, ghost.
const ENCODED: usize = REPLICAS * 14 + 1 + (EPOCHS_MAX - 1) + 2 * LOG_MAX + 3;
const ORDERS: [[usize; REPLICAS]; 6] = [
    [0, 1, 2],
    [0, 2, 1],
    [1, 0, 2],
    [1, 2, 0],
    [2, 0, 1],
    [2, 1, 0],
];

impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hasher.write(&self.encode());
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, replica) in self.replicas.iter().enumerate() {
            write!(
                f,
                "      r{name} {:?} promised=e{} {:?}",
                replica.role, replica.promised, replica.log
            )?;
            if !replica.vote {
                f.write_str(" no-vote")?;
            }
            if !replica.intact {
                f.write_str(" memory-lost")?;
            }
            if replica.gave_up {
                f.write_str(" gave-up")?;
            }
            if replica.aligned {
                f.write_str(" in-session")?;
            }
            if !replica.answers.is_empty() {
                write!(f, " answers={:?}", replica.answers)?;
            }
            if replica.leads() {
                write!(f, " acked={:?} lease={:?}", replica.acked, replica.lease)?;
            }
            if !replica.required.is_empty() {
                write!(f, " required={:?}", replica.required)?;
            }
            writeln!(f)?;
        }
        let through = usize::from(self.ghost.committed_through);
        write!(f, "      master e{}", self.master.epoch)?;
        if !self.master.in_sync.is_empty() {
            write!(f, " in_sync={:?}", self.master.in_sync)?;
        }
        write!(f, "; committed {:?}", &self.ghost.committed[..through])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::enabled;
    use crate::rules::step;
    use crate::world::Size;
    use crate::{AckPoint, Policy};

    /// A walk that visits states of all kinds: it takes the enabled actions in turn.
    fn walk(world: &World, steps: usize, stride: usize) -> Vec<State> {
        let mut states = vec![State::initial(world)];
        let mut actions = Vec::new();
        for at in 0..steps {
            let state = states.last().expect("it has the first");
            enabled(world, state, &mut actions);
            let Some(&action) = actions.get((at * stride) % actions.len().max(1)) else {
                break;
            };
            actions.clear();
            let after = step(world, state, action);
            states.push(after);
        }
        states
    }

    #[test]
    fn renaming_replicas_does_not_make_another_state() {
        let world = World::new(Policy::SyncAll, AckPoint::Received, Size::Large);
        for stride in 1..60 {
            for state in walk(&world, 60, stride) {
                for order in ORDERS {
                    assert_eq!(state.reordered(order).canonical(), state, "{order:?}");
                }
            }
        }
    }

    #[test]
    fn different_states_have_different_encodings() {
        let world = World::new(Policy::SyncAll, AckPoint::Received, Size::Large);
        let mut states = Vec::new();
        for stride in 1..30 {
            states.extend(walk(&world, 40, stride));
        }
        for (at, a) in states.iter().enumerate() {
            for b in &states[at + 1..] {
                assert_eq!(a == b, a.encode() == b.encode());
            }
        }
    }
}
