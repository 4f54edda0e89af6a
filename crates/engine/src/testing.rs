//! What the machines' tests share: facts in plain numbers, and actions in one word each.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{Display, Write as _},
};

use moorline_types::{Epoch, EpochStart, Instant, Lsn, OpenCount, SessionId};

use crate::{
    Action, Actions, Answer, Checkpoint, Fact, HandshakeFailure, Image, PinKind, PinRefusal,
    PinRefusedReason, PrimaryFacts, RebuildFacts, ReplicaFacts,
};

pub(crate) const PRIMARY_HISTORY: [EpochStart; 2] = [start(1, 1), start(2, 51)];
pub(crate) const OLD_HISTORY: [EpochStart; 1] = [start(1, 1)];
/// Of a reign that began after the primary's.
pub(crate) const NEWER_HISTORY: [EpochStart; 2] = [start(1, 1), start(3, 51)];

const fn start(epoch: u64, first: u64) -> EpochStart {
    EpochStart {
        epoch: Epoch::new(epoch, 0),
        first: Lsn::new(first),
    }
}

pub(crate) const fn at(secs: u64) -> Instant {
    Instant::from_nanos(secs * 1_000_000_000)
}

pub(crate) const fn id(serial: u64) -> SessionId {
    SessionId::new(OpenCount::new(3), serial)
}

/// A primary in epoch 2 since record 51: tail 10, committed 60, head 70.
pub(crate) const fn primary() -> PrimaryFacts<'static> {
    PrimaryFacts {
        history: &PRIMARY_HISTORY,
        head: Lsn::new(70),
        committed: Lsn::new(60),
        tail: Lsn::new(10),
        checkpoint: Lsn::new(10),
        lowest_pin: None,
        given_up: &[],
    }
}

/// A replica that holds records 1 through `head`: the primary's, or those of epoch 1 only.
pub(crate) const fn replica(history: &'static [EpochStart], head: u64) -> ReplicaFacts<'static> {
    ReplicaFacts {
        history,
        head: Lsn::new(head),
        flushed: Some(Lsn::new(head)),
        applied: Lsn::ZERO,
        checkpoint: Lsn::ZERO,
        tail: Lsn::ZERO,
        committed: Lsn::ZERO,
        image: Image::Whole,
        given_up: &[],
    }
}

pub(crate) const fn answered(history: &'static [EpochStart], head: u64) -> Fact<'static> {
    Fact::HandshakeAnswered {
        primary: primary(),
        replica: replica(history, head),
    }
}

pub(crate) const fn acked(flushed: u64) -> Fact<'static> {
    Fact::Acknowledged {
        flushed: Lsn::new(flushed),
        head: Lsn::new(80),
    }
}

pub(crate) const fn joined(join_point: u64) -> Fact<'static> {
    Fact::Joined {
        join_point: Lsn::new(join_point),
    }
}

pub(crate) const REBUILD: RebuildFacts = RebuildFacts {
    checkpoint: Checkpoint::Trusted(Lsn::new(10)),
    tail: Lsn::new(10),
    head: Lsn::new(70),
    committed: Lsn::new(60),
    trusted_common: None,
    source_map_from: Lsn::ZERO,
    replica_map_from: Lsn::ZERO,
    image_extents: 4,
    delta_extents: 0,
};

pub(crate) const REFUSED_PIN: PinRefusal = PinRefusal {
    pin: PinKind::History,
    lsn: Lsn::new(30),
    reason: PinRefusedReason::Reclaimed,
};

/// Every fact there is, in every form that some phase tells apart, with its name.
pub(crate) fn named_facts() -> Vec<(&'static str, Fact<'static>)> {
    let with = |primary, replica| Fact::HandshakeAnswered { primary, replica };
    let ahead = |committed| ReplicaFacts {
        committed: Lsn::new(committed),
        ..replica(&OLD_HISTORY, 80)
    };
    let level = PrimaryFacts {
        committed: Lsn::new(50),
        ..primary()
    };
    let news = ReplicaFacts {
        committed: Lsn::new(65),
        ..replica(&PRIMARY_HISTORY, 65)
    };
    let above_head = PrimaryFacts {
        committed: Lsn::new(71),
        ..primary()
    };
    let no_head = RebuildFacts {
        head: Lsn::new(59),
        ..REBUILD
    };
    let (pin, lsn) = (PinKind::History, Lsn::new(30));
    let cut = |n| Fact::TruncationRecorded {
        through: Lsn::new(n),
    };
    vec![
        ("answered(zero_gap)", answered(&PRIMARY_HISTORY, 60)),
        ("answered(news)", with(primary(), news)),
        ("answered(gap)", answered(&OLD_HISTORY, 40)),
        ("answered(divergent)", answered(&OLD_HISTORY, 80)),
        ("answered(cut_only)", with(level, replica(&OLD_HISTORY, 55))),
        ("answered(too_old)", answered(&OLD_HISTORY, 9)),
        (
            "answered(impossible)",
            with(above_head, replica(&OLD_HISTORY, 40)),
        ),
        ("answered(committed_missing)", with(primary(), ahead(51))),
        ("answered(newer_epoch)", answered(&NEWER_HISTORY, 60)),
        ("rebuild_offered", Fact::RebuildOffered(REBUILD)),
        ("rebuild_offered(impossible)", Fact::RebuildOffered(no_head)),
        (
            "handshake_refused",
            Fact::HandshakeRefused(HandshakeFailure::NotMember),
        ),
        ("plan_bound", Fact::PlanBound),
        ("pin_refused", Fact::PinRefused(REFUSED_PIN)),
        ("pin_broken", Fact::PinBroken { pin, lsn }),
        ("truncation_recorded(50)", cut(50)),
        ("truncation_recorded(49)", cut(49)),
        ("acknowledged(40)", acked(40)),
        ("acknowledged(55)", acked(55)),
        ("acknowledged(60)", acked(60)),
        ("acknowledged(75)", acked(75)),
        ("acknowledged(81)", acked(81)),
        ("joined(9)", joined(9)),
        ("joined(59)", joined(59)),
        ("joined(75)", joined(75)),
        ("in_sync_recorded", Fact::InSyncRecorded),
        ("extents_laid(3)", Fact::ExtentsLaid { extents: 3 }),
        ("extents_laid(4)", Fact::ExtentsLaid { extents: 4 }),
        ("extents_laid(5)", Fact::ExtentsLaid { extents: 5 }),
        (
            "base_whole",
            Fact::BaseWhole {
                committed: Lsn::new(60),
            },
        ),
        (
            "base_whole(below its base)",
            Fact::BaseWhole {
                committed: Lsn::new(9),
            },
        ),
        ("read_failed", Fact::ReadFailed),
        ("executor_panicked", Fact::ExecutorPanicked),
        ("cancel_requested", Fact::CancelRequested),
    ]
}

/// Every fact there is.
pub(crate) fn all_facts() -> Vec<Fact<'static>> {
    named_facts().into_iter().map(|(_, fact)| fact).collect()
}

/// Steps from one state to another and what makes them, gathered from what was done.
#[derive(Default)]
pub(crate) struct Edges(BTreeMap<(String, String), BTreeSet<&'static str>>);

impl Edges {
    /// Notes a step.
    pub(crate) fn add(&mut self, from: &dyn Display, to: &dyn Display, by: &'static str) {
        let steps = self
            .0
            .entry((from.to_string(), to.to_string()))
            .or_default();
        // What an event carries is told in the tables.
        steps.insert(by.split('(').next().expect("a split has a first part"));
    }

    /// A Mermaid diagram of all steps but those to `end`, then those as a table.
    pub(crate) fn draw(&self, start: &str, end: &str) -> String {
        let mut text = format!("```mermaid\nstateDiagram-v2\n    [*] --> {start}\n");
        let words = |by: &BTreeSet<&str>| by.iter().copied().collect::<Vec<_>>().join(", ");
        for ((from, to), by) in self.0.iter().filter(|((_, to), _)| to != end) {
            writeln!(text, "    {from} --> {to} : {}", words(by)).unwrap();
        }
        writeln!(text, "```\n\n| To `{end}` from | by |\n|---|---|").unwrap();
        for ((from, _), by) in self.0.iter().filter(|((_, to), _)| to == end) {
            writeln!(text, "| `{from}` | {} |", words(by)).unwrap();
        }
        text
    }
}

/// An answer in few words.
pub(crate) fn answer(answer: &Answer) -> String {
    match answer {
        Answer::Done => "done".into(),
        Answer::Unchanged(known) => format!("{known:?}").to_lowercase(),
        Answer::Refused(refusal) => format!("refused: {refusal}"),
    }
}

/// Actions in one word each; events as `!name`.
pub(crate) fn brief(out: &Actions) -> String {
    let words: Vec<String> = out.iter().map(|directed| word(&directed.action)).collect();
    words.join(" ")
}

fn word(action: &Action) -> String {
    match action {
        Action::Connect { .. } => "Connect".into(),
        Action::SendHandshake { .. } => "SendHandshake".into(),
        Action::BindPlan(_) => "BindPlan".into(),
        Action::SendTruncate { through, .. } => format!("SendTruncate({through})"),
        Action::StartShipping { range, .. } => format!("StartShipping{range}"),
        Action::Join { after, .. } => format!("Join({after})"),
        Action::JoinForRebuild { base, .. } => format!("JoinForRebuild({base})"),
        Action::RequestGrowth { join_point, .. } => format!("RequestGrowth({join_point})"),
        Action::StartBase { .. } => "StartBase".into(),
        Action::RaiseCommitted { through } => format!("RaiseCommitted({through})"),
        Action::Release { cause, .. } => format!("Release({cause:?})"),
        Action::TellNeedsRebuild { .. } => "TellNeedsRebuild".into(),
        Action::StopVolume(_) => "StopVolume".into(),
        Action::Transitioned { from, to, .. } => format!("{from}->{to}"),
        Action::Moved { from, to } => format!("[{from}->{to}]"),
        Action::Emit(event) => format!("!{}", event.what.name()),
    }
}
