//! Snapshots for operators: what each replica is doing, and why.

use moorline_types::{Instant, Lsn, ReplicaId};

use crate::{
    sender::{Bucket, DegradedReason, NeedsRebuildReason, Sender},
    session::{
        Cause, Invalidation, Phase, PhaseName, RebuildJoining, Session, SessionKind, SessionStamp,
    },
};

/// One replica, as its sender sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SenderStatus {
    /// The replica.
    pub replica: ReplicaId,
    /// How it is counted.
    pub bucket: Bucket,
    /// Why it is degraded, if so.
    pub degraded: Option<DegradedReason>,
    /// Why only a rebuild helps, if so.
    pub needs_rebuild: Option<NeedsRebuildReason>,
    /// The latest session, live or not.
    pub session: Option<SessionStatus>,
}

/// One session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionStatus {
    /// Id and epoch.
    pub stamp: SessionStamp,
    /// What it may do.
    pub kind: SessionKind,
    /// Why it began.
    pub cause: Cause,
    /// Where it stands.
    pub phase: PhaseName,
    /// When it began.
    pub created: Instant,
    /// How it ended, if it was invalidated.
    pub ended: Option<Invalidation>,
    /// How far it is, where that can be said.
    pub progress: Option<Progress>,
}

/// How far a session is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// In records.
    Records {
        /// Where it began; records above it were missing.
        from: Lsn,
        /// Durable at the replica, clamped to the target.
        recovered_to: Lsn,
        /// The frozen target or the join point.
        target: Lsn,
    },
    /// In extents of the base.
    Extents {
        /// Laid.
        laid: u64,
        /// To lay.
        total: u64,
    },
}

impl Progress {
    /// Whole percent done, 100 when there is nothing to do.
    #[must_use]
    pub fn percent(self) -> u8 {
        let (done, all) = match self {
            Self::Records {
                from,
                recovered_to,
                target,
            } => (
                recovered_to.min(target).distance_from(from),
                target.distance_from(from),
            ),
            Self::Extents { laid, total } => (laid.min(total), total),
        };
        if all == 0 {
            return 100;
        }
        u8::try_from(u128::from(done) * 100 / u128::from(all)).unwrap_or(100)
    }
}

impl Sender {
    /// A snapshot.
    #[must_use]
    pub fn status(&self) -> SenderStatus {
        SenderStatus {
            replica: self.replica().clone(),
            bucket: self.bucket(),
            degraded: self.degraded(),
            needs_rebuild: self.needs_rebuild(),
            session: self.session().map(Session::status),
        }
    }
}

impl Session {
    /// A snapshot.
    #[must_use]
    pub fn status(&self) -> SessionStatus {
        SessionStatus {
            stamp: self.stamp(),
            kind: self.kind(),
            cause: self.cause(),
            phase: self.phase().name(),
            created: self.created(),
            ended: match self.phase() {
                Phase::Invalidated(why) => Some(*why),
                Phase::Init
                | Phase::Connecting
                | Phase::Handshake { .. }
                | Phase::Planned(_)
                | Phase::Truncating(_)
                | Phase::CatchingUp(_)
                | Phase::Joining(_)
                | Phase::SourceSelected { .. }
                | Phase::RebuildJoining(_)
                | Phase::Transferring(_)
                | Phase::Replaying(_)
                | Phase::Completed { .. } => None,
            },
            progress: progress(self.phase()),
        }
    }
}

fn progress(phase: &Phase) -> Option<Progress> {
    match phase {
        Phase::CatchingUp(catching_up) => Some(Progress::Records {
            from: catching_up.range.after(),
            recovered_to: catching_up.acked,
            target: catching_up.range.through(),
        }),
        Phase::Joining(joining) => joining.join_point.map(|target| Progress::Records {
            from: joining.after,
            recovered_to: joining.frontier.min(target),
            target,
        }),
        Phase::SourceSelected { extents, .. }
        | Phase::RebuildJoining(RebuildJoining { extents, .. }) => Some(Progress::Extents {
            laid: 0,
            total: *extents,
        }),
        Phase::Transferring(transferring) => Some(Progress::Extents {
            laid: transferring.laid,
            total: transferring.extents,
        }),
        Phase::Replaying(replaying) => Some(Progress::Records {
            from: replaying.base,
            recovered_to: replaying.frontier.min(replaying.target),
            target: replaying.target,
        }),
        Phase::Init
        | Phase::Connecting
        | Phase::Handshake { .. }
        | Phase::Planned(_)
        | Phase::Truncating(_)
        | Phase::Completed { .. }
        | Phase::Invalidated(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_is_of_what_was_missing() {
        let records = |from, to, target| Progress::Records {
            from: Lsn::new(from),
            recovered_to: Lsn::new(to),
            target: Lsn::new(target),
        };
        for (progress, want) in [
            (records(100, 100, 200), 0),
            (records(100, 150, 200), 50),
            (records(100, 250, 200), 100),
            (records(0, 0, 0), 100),
            (Progress::Extents { laid: 1, total: 3 }, 33),
            (records(0, u64::MAX, u64::MAX), 100),
        ] {
            assert_eq!(progress.percent(), want, "{progress:?}");
        }
    }
}
