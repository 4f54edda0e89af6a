//! What the machines' tests share: facts in plain numbers, and actions in one word each.

use moorline_types::{Epoch, EpochStart, Instant, Lsn, OpenCount, SessionId};

use crate::{
    Action, Actions, Answer, Checkpoint, Fact, HandshakeFailure, Image, PinKind, PinRefusal,
    PinRefusedReason, PrimaryFacts, RebuildFacts, ReplicaFacts,
};

pub(crate) const PRIMARY_HISTORY: [EpochStart; 2] = [start(1, 1), start(2, 51)];
pub(crate) const OLD_HISTORY: [EpochStart; 1] = [start(1, 1)];

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

/// Every fact there is, in a form that some phase takes in.
pub(crate) fn all_facts() -> Vec<Fact<'static>> {
    vec![
        answered(&PRIMARY_HISTORY, 60),
        Fact::RebuildOffered(REBUILD),
        Fact::HandshakeRefused(HandshakeFailure::NotMember),
        Fact::PlanBound,
        Fact::PinRefused(REFUSED_PIN),
        Fact::PinBroken {
            pin: PinKind::History,
            lsn: Lsn::new(30),
        },
        Fact::TruncationRecorded {
            through: Lsn::new(50),
        },
        acked(45),
        joined(75),
        Fact::InSyncRecorded,
        Fact::ExtentsLaid { extents: 4 },
        Fact::BaseWhole {
            committed: Lsn::new(60),
        },
        Fact::ReadFailed,
        Fact::CancelRequested,
    ]
}

pub(crate) const fn fact_name(fact: &Fact<'_>) -> &'static str {
    match fact {
        Fact::HandshakeAnswered { .. } => "handshake_answered",
        Fact::RebuildOffered(_) => "rebuild_offered",
        Fact::HandshakeRefused(_) => "handshake_refused",
        Fact::PlanBound => "plan_bound",
        Fact::PinRefused(_) => "pin_refused",
        Fact::PinBroken { .. } => "pin_broken",
        Fact::TruncationRecorded { .. } => "truncation_recorded",
        Fact::Acknowledged { .. } => "acknowledged",
        Fact::Joined { .. } => "joined",
        Fact::InSyncRecorded => "in_sync_recorded",
        Fact::ExtentsLaid { .. } => "extents_laid",
        Fact::BaseWhole { .. } => "base_whole",
        Fact::ReadFailed => "read_failed",
        Fact::CancelRequested => "cancel_requested",
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
        Action::JoinForRebuild { .. } => "JoinForRebuild".into(),
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
