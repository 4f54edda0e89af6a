//! What a person looks at afterwards: frontiers, epochs, sessions and faults over simulated time.

/// Where one replica was at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sample {
    /// Simulated nanoseconds.
    pub at_ns: u64,
    /// Which server, from 0.
    pub server: usize,
    /// The last record appended.
    pub head: u64,
    /// The last record that is durable in the log.
    pub flushed: u64,
    /// The last record known to be committed.
    pub committed: u64,
    /// The last record that the blocks durably hold.
    pub checkpoint: u64,
    /// Records above are retained.
    pub tail: u64,
    /// The assignment part of the promised epoch.
    pub epoch: u64,
}

/// What kind of moment it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SpotKind {
    /// The run goes on to another phase.
    Phase,
    /// A disturbance begins.
    Fault,
    /// A process starts.
    Up,
    /// A process ends.
    Down,
    /// It begins to serve.
    Serves,
    /// It serves no longer.
    Rests,
    /// Something in the recovery of a peer.
    Session,
    /// Anything else worth a look.
    Event,
}

/// Something that happened at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Spot {
    /// Simulated nanoseconds.
    pub at_ns: u64,
    /// Which server, from 0; none for the whole cluster.
    pub server: Option<usize>,
    /// What kind.
    pub kind: SpotKind,
    /// For people.
    pub text: String,
}

/// All that was watched in a run.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    /// In order of time.
    pub samples: Vec<Sample>,
    /// In order of time.
    pub spots: Vec<Spot>,
}

impl Watch {
    /// Adds a sample unless the server stands where it stood.
    pub(crate) fn sample(&mut self, sample: Sample) {
        let last = self.samples.iter().rev().take(64);
        let known = last.into_iter().find(|last| last.server == sample.server);
        let same = |known: &Sample| {
            Sample {
                at_ns: sample.at_ns,
                ..*known
            } == sample
        };
        if !known.is_some_and(same) {
            self.samples.push(sample);
        }
    }
}
