//! One cluster in one thread: machines, disks, network, master, clients, and the events between.
//!
//! | file | holds |
//! |---|---|
//! | `world/hosts.rs` | servers: batches of events into `volume::Node`, actions carried out |
//! | `world/links.rs` | connections between machines |
//! | `world/authority.rs` | the master's process |
//! | `world/clients.rs` | closed-loop clients |
//! | `world/acts.rs` | disturbances carried out, and healed |
//! | `world/ailments.rs` | what disks do wrong |
//! | `world/strikes.rs` | losses of power at persist points |
//! | `world/phases.rs` | set-up, work, healing, read-back |
//! | `world/rest.rs` | replicas at rest |

mod acts;
mod ailments;
mod authority;
mod clients;
mod hosts;
mod links;
mod phases;
mod rest;
mod strikes;

use std::{
    cmp::{Ordering, Reverse},
    collections::{BTreeMap, BinaryHeap},
};

use moorline_types::{BufferPool, ServerId, VolumeId};
use moorline_volume::DeviceKey;

use self::{authority::MasterHost, clients::Client, hosts::Host, phases::Phase, strikes::Strikes};
use crate::{
    checkers::{Rule, Violation, lineage::Lineage, reigns::Reigns},
    content::OpNo,
    dice::Dice,
    faults::{Act, Pace, Patience, Recipe},
    history::{History, seconds},
    mutants::{Mutant, Planted},
    network::{ConnNo, End, Network, Party},
    plan::Plan,
    watch::{Spot, SpotKind, Watch},
};

/// Something that will happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Happens {
    /// A server's process handles what is ready.
    Step { host: usize, life: u32 },
    /// A server's deadline may have come.
    Wake { host: usize, life: u32 },
    /// A disk operation ends.
    DiskDone {
        host: usize,
        life: u32,
        device: DeviceKey,
        token: u64,
    },
    /// A dial ends.
    Dialed {
        host: usize,
        life: u32,
        to: usize,
        /// Whether somebody is there.
        address: Address,
    },
    /// A message arrives.
    Arrives { conn: ConnNo, to: End },
    /// An end of a connection learns that it is over.
    Lost {
        conn: ConnNo,
        party: Party,
        life: u32,
    },
    /// A connection ends.
    Breaks { conn: ConnNo },
    /// A server's process tries to reach the master.
    DialsMaster { host: usize, life: u32 },
    /// The master's deadline may have come.
    MasterWakes { life: u32 },
    /// A transaction of the master is durable.
    MasterCommits { life: u32 },
    /// A client does its next thing.
    ClientTurn { client: usize },
    /// A client has waited long enough.
    ClientGivesUp { client: usize, op: OpNo },
    /// A disturbance of the plan begins.
    Fault { index: usize },
    /// A part of a disturbance.
    Does(Act),
    /// A machine that lost its power has it again.
    Restarts { host: usize },
    /// The master's process starts again.
    MasterRestarts,
    /// The run goes on to what follows.
    PhaseDue,
}

/// Whether a server is at the address that was dialed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Address {
    Current,
    Former,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Scheduled {
    at: u64,
    seq: u64,
    what: Happens,
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.seq).cmp(&(other.at, other.seq))
    }
}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// What a run came to, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events handled.
    pub events: u64,
    /// Simulated time, in nanoseconds.
    pub simulated_ns: u64,
    /// Requests asked for.
    pub ops: u64,
    /// Requests done.
    pub done: u64,
    /// Requests whose outcome their client does not know.
    pub unknown: u64,
    /// Requests refused without effect.
    pub rejected: u64,
    /// Epochs in which something was answered.
    pub reigns: u64,
    /// Bytes on the network.
    pub network_bytes: u64,
    /// Notable events of servers, by name.
    pub notes: BTreeMap<&'static str, u64>,
    /// Disturbances, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Persist points passed, by what became durable there.
    pub persist_points: BTreeMap<&'static str, u64>,
    /// Persist points at which the power went, by what would have become durable, and when.
    pub struck: BTreeMap<(&'static str, &'static str), u64>,
    /// The same for the second time in a run, while what the first one hit recovers.
    pub struck_again: BTreeMap<(&'static str, &'static str), u64>,
    /// Digest over all that happened, in order.
    pub trace: u64,
}

/// Whether a timeline is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Timeline {
    /// No line.
    Off,
    /// The lines are kept.
    Kept,
}

thread_local! {
    /// Every run of a thread takes its buffers from here: the next run needs what this one gives
    /// back. What a buffer held before must not matter to a run; that it does not is tested.
    static POOL: BufferPool = BufferPool::new();
}

/// A whole cluster. A clone goes on from the same moment, and the two know nothing of each other.
#[derive(Clone)]
pub(crate) struct World {
    now: u64,
    seq: u64,
    queue: BinaryHeap<Reverse<Scheduled>>,
    dice: Dice,
    plan: Plan,
    planted: Planted,
    pool: BufferPool,
    hosts: Vec<Host>,
    network: Network,
    master: MasterHost,
    clients: Vec<Client>,
    history: History,
    reigns: Reigns,
    lineage: Lineage,
    phase: Phase,
    volume: Option<VolumeId>,
    violation: Option<Violation>,
    /// When the phase must be over.
    deadline: u64,
    /// The run of the master that was asked for the volume.
    asked_for_volume: Option<u32>,
    healed_at: u64,
    pace: Pace,
    patience: Patience,
    /// How often a process ended.
    memories_lost: usize,
    strikes: Strikes,
    /// Copies that were made of this world, each struck at a persist point.
    copies: Vec<World>,
    /// What the world that this one is a copy of had counted.
    copied: Counts,
    counts: Counts,
    timeline: Timeline,
    lines: Vec<String>,
    watch: Watch,
    /// Seeds the parts of disturbances, each for itself.
    salt: u64,
}

impl World {
    pub(crate) fn new(dice: Dice, plan: Plan, mutant: Option<Mutant>, timeline: Timeline) -> Self {
        let pool = POOL.with(BufferPool::clone);
        let mut dice = dice;
        let salt = dice.bits();
        let mut world = Self {
            now: 0,
            seq: 0,
            queue: BinaryHeap::new(),
            dice,
            planted: Planted::one(mutant),
            network: Network::new(pool.clone()),
            pool,
            hosts: Vec::new(),
            master: MasterHost::new(plan.clocks[plan.replicas], plan.master_strike),
            clients: Vec::new(),
            history: History::new(),
            reigns: Reigns::default(),
            lineage: Lineage::default(),
            phase: Phase::SetUp,
            volume: None,
            violation: None,
            deadline: u64::MAX,
            asked_for_volume: None,
            healed_at: 0,
            pace: Pace::AsPlanned,
            patience: Patience::Usual,
            memories_lost: 0,
            strikes: Strikes::new(plan.strike),
            copies: Vec::new(),
            copied: Counts::default(),
            counts: Counts::default(),
            timeline,
            lines: Vec::new(),
            watch: Watch::default(),
            salt,
            plan,
        };
        let recalls =
            |recipe: &Recipe| matches!(recipe, Recipe::Replay { .. } | Recipe::ForgedEpoch { .. });
        if world.plan.faults.iter().any(|(_, recipe)| recalls(recipe)) {
            world.network.remember();
        }
        world.begin();
        world
    }

    /// Runs to the end, to the first broken rule, or until there are copies to be run.
    pub(crate) fn run(&mut self) {
        while self.violation.is_none() && self.phase != Phase::Over && self.copies.is_empty() {
            let Some(Reverse(next)) = self.queue.pop() else {
                self.broken(Violation::new(
                    Rule::Liveness,
                    format!("nothing will ever happen again in phase {:?}", self.phase),
                ));
                break;
            };
            self.now = next.at;
            self.counts.events += 1;
            self.hash(next);
            self.happen(next.what);
        }
        self.counts = self.counts_by_now();
    }

    fn counts_by_now(&self) -> Counts {
        Counts {
            simulated_ns: self.now,
            reigns: self.reigns.count() as u64,
            network_bytes: self.network.bytes,
            ..self.counts.clone()
        }
    }

    fn happen(&mut self, what: Happens) {
        match what {
            Happens::Step { host, life } => self.step(host, life),
            Happens::Wake { host, life } => self.wake(host, life),
            Happens::DiskDone {
                host,
                life,
                device,
                token,
            } => self.disk_done(host, life, device, token),
            Happens::Dialed {
                host,
                life,
                to,
                address,
            } => self.dialed(host, life, (to, address)),
            Happens::Arrives { conn, to } => self.arrives(conn, to),
            Happens::Lost { conn, party, life } => self.lost(conn, party, life),
            Happens::Breaks { conn } => self.break_conn(conn),
            Happens::DialsMaster { host, life } => self.dials_master(host, life),
            Happens::MasterWakes { life } => self.master_wakes(life),
            Happens::MasterCommits { life } => self.master_commits(life),
            Happens::ClientTurn { client } => self.client_turn(client),
            Happens::ClientGivesUp { client, op } => self.client_gives_up(client, op),
            Happens::Fault { index } => self.fault(index),
            Happens::Does(act) => self.does(act),
            Happens::Restarts { host } => self.start_host(host),
            Happens::MasterRestarts => self.start_master(),
            Happens::PhaseDue => self.phase_due(),
        }
    }

    fn at(&mut self, at: u64, what: Happens) {
        self.seq += 1;
        let seq = self.seq;
        let at = at.max(self.now);
        self.queue.push(Reverse(Scheduled { at, seq, what }));
    }

    fn after(&mut self, delay: u64, what: Happens) {
        self.at(self.now + delay, what);
    }

    /// The order of the run: every call gives a later one.
    fn tick(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }

    pub(crate) fn broken(&mut self, violation: Violation) {
        if self.violation.is_none() {
            self.line(|| format!("VIOLATION {violation}"));
            self.violation = Some(violation);
        }
    }

    fn check(&mut self, result: Result<(), Violation>) {
        if let Err(violation) = result {
            self.broken(violation);
        }
    }

    /// Adds to the timeline, if one is kept.
    fn line(&mut self, text: impl FnOnce() -> String) {
        if self.timeline == Timeline::Kept {
            let text = format!("{:>12.6} {}", seconds(self.now), text());
            self.lines.push(text);
        }
    }

    fn hash(&mut self, next: Scheduled) {
        let kind: u64 = match next.what {
            Happens::Step { host, .. } => 1 << 8 | host as u64,
            Happens::Wake { host, .. } => 2 << 8 | host as u64,
            Happens::DiskDone { host, token, .. } => token << 16 | 3 << 8 | host as u64,
            Happens::Dialed { host, .. } => 4 << 8 | host as u64,
            Happens::Arrives { conn, .. } => conn.0 << 16 | 5 << 8,
            Happens::Lost { conn, .. } => conn.0 << 16 | 6 << 8,
            Happens::Breaks { conn } => conn.0 << 16 | 7 << 8,
            Happens::DialsMaster { host, .. } => 8 << 8 | host as u64,
            Happens::MasterWakes { .. } => 9 << 8,
            Happens::MasterCommits { .. } => 10 << 8,
            Happens::ClientTurn { client } => 11 << 8 | client as u64,
            Happens::ClientGivesUp { client, .. } => 12 << 8 | client as u64,
            Happens::Fault { index } => 13 << 8 | index as u64,
            Happens::Does(_) => 14 << 8,
            Happens::PhaseDue => 15 << 8,
            Happens::Restarts { host } => 16 << 8 | host as u64,
            Happens::MasterRestarts => 17 << 8,
        };
        self.mix(next.at);
        self.mix(kind);
    }

    fn mix(&mut self, word: u64) {
        let mixed = (self.counts.trace ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.counts.trace = mixed.rotate_left(29);
    }

    /// The names of servers, by number.
    fn server_name(index: usize) -> ServerId {
        let name = format!("s{}", index + 1);
        name.parse().expect("a short name of letters and digits")
    }

    /// Adds to what a person looks at, if a timeline is kept.
    fn spot(&mut self, server: Option<usize>, kind: SpotKind, text: impl FnOnce() -> String) {
        if self.timeline == Timeline::Kept {
            self.watch.spots.push(Spot {
                at_ns: self.now,
                server,
                kind,
                text: text(),
            });
        }
    }

    pub(crate) fn finish(self) -> Ended {
        Ended {
            plan: self.plan,
            counts: self.counts,
            copied: self.copied,
            violation: self.violation,
            lines: self.lines,
            watch: self.watch,
            history: self.history,
        }
    }
}

/// What is left of a run.
pub(crate) struct Ended {
    pub(crate) plan: Plan,
    pub(crate) counts: Counts,
    pub(crate) copied: Counts,
    pub(crate) violation: Option<Violation>,
    pub(crate) lines: Vec<String>,
    pub(crate) watch: Watch,
    pub(crate) history: History,
}
