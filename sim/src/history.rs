//! What clients asked and heard, in the world's order of events.

use moorline_types::Epoch;

use crate::content::OpNo;

/// A point in the run: two events never share one.
pub(crate) type Tick = u64;

/// What a request does to its sectors.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum What {
    /// Writes its mark.
    Write,
    /// Writes zeroes, or trims.
    Zero,
    /// Found these, one per sector; empty until it was answered.
    Read(Vec<OpNo>),
    /// A barrier.
    Flush,
}

/// What the client knows of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// No answer yet, or none that will ever come: it may take effect.
    Unknown,
    /// Done.
    Done(Tick),
    /// Refused, guaranteed without effect.
    Rejected,
}

/// One request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Op {
    pub(crate) client: usize,
    pub(crate) what: What,
    pub(crate) first: u64,
    pub(crate) sectors: u64,
    pub(crate) forced: bool,
    pub(crate) invoked: Tick,
    pub(crate) at_ns: u64,
    pub(crate) outcome: Outcome,
    /// The reign that answered.
    pub(crate) epoch: Option<Epoch>,
}

impl Op {
    pub(crate) fn touches(&self, sector: u64) -> bool {
        (self.first..self.first + self.sectors).contains(&sector)
    }
}

/// Every request of a run, by its number.
#[derive(Clone, Debug)]
pub(crate) struct History {
    ops: Vec<Op>,
}

impl History {
    pub(crate) fn new() -> Self {
        // Number 0 is the new volume.
        let nothing = Op {
            client: usize::MAX,
            what: What::Zero,
            first: 0,
            sectors: u64::MAX,
            forced: true,
            invoked: 0,
            at_ns: 0,
            outcome: Outcome::Done(0),
            epoch: None,
        };
        Self { ops: vec![nothing] }
    }

    pub(crate) fn invoke(&mut self, op: Op) -> OpNo {
        self.ops.push(op);
        OpNo(u32::try_from(self.ops.len() - 1).expect("a run is short"))
    }

    pub(crate) fn get(&self, op: OpNo) -> Option<&Op> {
        self.ops.get(op.0 as usize)
    }

    pub(crate) fn get_mut(&mut self, op: OpNo) -> &mut Op {
        &mut self.ops[op.0 as usize]
    }

    /// All requests but the new volume.
    pub(crate) fn all(&self) -> impl Iterator<Item = (OpNo, &Op)> {
        (0..).map(OpNo).zip(&self.ops).skip(1)
    }

    /// The requests that touch a sector, as lines of text.
    pub(crate) fn about(&self, sector: u64) -> Vec<String> {
        self.all()
            .filter(|(_, op)| op.touches(sector))
            .map(|(number, op)| {
                let found = match &op.what {
                    What::Read(found) => {
                        let place = usize::try_from(sector - op.first).unwrap_or(usize::MAX);
                        found
                            .get(place)
                            .map_or(String::new(), |op| format!(" found {}", op.0))
                    }
                    What::Write | What::Zero | What::Flush => String::new(),
                };
                let name = match op.what {
                    What::Write => "write",
                    What::Zero => "zero",
                    What::Read(_) => "read",
                    What::Flush => "flush",
                };
                format!(
                    "{:>12.6} op {} client {} {name} sectors [{}, {}) invoked {} {:?}{found}",
                    seconds(op.at_ns),
                    number.0,
                    op.client,
                    op.first,
                    op.first + op.sectors,
                    op.invoked,
                    op.outcome,
                )
            })
            .collect()
    }
}

/// Nanoseconds as seconds, for people.
pub(crate) fn seconds(ns: u64) -> f64 {
    std::time::Duration::from_nanos(ns).as_secs_f64()
}
