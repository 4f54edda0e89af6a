//! What a peer answers on its stream: cuts, acknowledgements, gaps, refusals.

use moorline_engine::{Fact, HandshakeFailure, SessionStamp};
use moorline_wire::{Ack, NeedRecords, Refused, RefusedReason, TruncationRecorded, VolumeHeader};

use super::wire_session;
use crate::{
    journal::StepDownReason,
    mutants::Mutant,
    node::Peer,
    replica::{Ctx, Replica, Role},
};

impl Replica {
    pub(in crate::replica) fn on_truncation_recorded(
        &mut self,
        ctx: &mut Ctx<'_>,
        from: &Peer,
        header: VolumeHeader,
        recorded: TruncationRecorded,
    ) {
        let Some(stamp) = self.stamp_of(from, header) else {
            return;
        };
        let fact = Fact::TruncationRecorded {
            through: recorded.through,
        };
        self.tell_engine(ctx, &from.server, stamp, fact);
        self.do_engine(ctx);
        self.advance(ctx);
    }

    pub(in crate::replica) fn on_ack(
        &mut self,
        ctx: &mut Ctx<'_>,
        from: &Peer,
        header: VolumeHeader,
        ack: Ack,
    ) {
        let Some(stamp) = self.stamp_of(from, header) else {
            return;
        };
        let head = self.store.log().head();
        if ack.received > head || ack.flushed > ack.received {
            self.refuse_peer(ctx, from, "it acknowledges what was never sent");
            return;
        }
        if let Role::Reign(reign) = &mut self.role
            && let Some(stream) = reign.streams.get_mut(&from.server)
            && reign.registry.sender(&from.server).is_some_and(|sender| {
                sender.counts_acks(stamp).is_ok() || ctx.me.mutants.has(Mutant::AckCountsBeforeCut)
            })
        {
            stream.note_ack(ctx.now, ack);
        }
        if let Role::Reign(reign) = &mut self.role
            && let Some(seen) = reign.peers.get_mut(&from.server)
        {
            seen.persisted = seen.persisted.max((header.epoch, header.config));
        }
        let fact = Fact::Acknowledged {
            flushed: ack.flushed,
            head,
        };
        self.tell_engine(ctx, &from.server, stamp, fact);
        self.do_engine(ctx);
        self.advance(ctx);
        if matches!(&self.role, Role::Reign(reign) if reign.growing.contains(&from.server)) {
            self.change_in_sync(ctx);
        }
    }

    pub(in crate::replica) fn on_need_records(
        &mut self,
        from: &Peer,
        header: VolumeHeader,
        need: NeedRecords,
    ) {
        let Some(stamp) = self.stamp_of(from, header) else {
            return;
        };
        if let Some(stream) = self.stream_of(&from.server, stamp)
            && need.after >= stream.flushed
        {
            stream.rewind(need.after);
        }
    }

    /// A peer refused something of this reign.
    pub(in crate::replica) fn on_refused(
        &mut self,
        ctx: &mut Ctx<'_>,
        from: &Peer,
        header: VolumeHeader,
        refused: &Refused,
    ) {
        let Some(leading) = self.leading_epoch() else {
            return;
        };
        if header.session != 0
            && let Some(stamp) = self.stamp_of_refusal(from, header)
        {
            let failure = match &refused.reason {
                RefusedReason::UnknownVolume => HandshakeFailure::UnknownVolume,
                RefusedReason::NotMember => HandshakeFailure::NotMember,
                RefusedReason::WrongStore { .. } => HandshakeFailure::WrongStore,
                RefusedReason::DeviceFailed => HandshakeFailure::StoreFailed,
                RefusedReason::Ahead { .. } => HandshakeFailure::NotPromised,
                RefusedReason::Stale { .. }
                | RefusedReason::Conflict { .. }
                | RefusedReason::WrongSession { .. }
                | RefusedReason::Gap { .. }
                | RefusedReason::Diverged { .. }
                | RefusedReason::Corrupt
                | RefusedReason::InsaneEpoch
                | RefusedReason::WrongRole
                | RefusedReason::GivenUpFull => HandshakeFailure::ReplicaAhead,
            };
            let peer = &from.server;
            self.tell_engine(ctx, peer, stamp, Fact::HandshakeRefused(failure));
            self.end_stream(ctx, peer, stamp);
            if matches!(refused.reason, RefusedReason::Ahead { .. }) {
                if let Role::Reign(reign) = &mut self.role {
                    reign.unpromised.insert(peer.clone());
                }
                self.ask_late_promise(ctx, peer);
            }
        }
        if header.session == 0
            && header.epoch < leading
            && matches!(refused.reason, RefusedReason::Ahead { .. })
        {
            self.ask_before_telling(ctx, &from.server);
        }
        match refused.reason {
            RefusedReason::Stale { epoch, .. } if epoch > leading => {
                self.step_down(ctx, StepDownReason::HigherEpoch(epoch));
            }
            RefusedReason::Conflict { epoch } if epoch == leading => {
                self.step_down(ctx, StepDownReason::EpochConflict);
            }
            RefusedReason::Stale { .. }
            | RefusedReason::Ahead { .. }
            | RefusedReason::Conflict { .. }
            | RefusedReason::WrongStore { .. }
            | RefusedReason::UnknownVolume
            | RefusedReason::NotMember
            | RefusedReason::WrongSession { .. }
            | RefusedReason::Gap { .. }
            | RefusedReason::Diverged { .. }
            | RefusedReason::Corrupt
            | RefusedReason::InsaneEpoch
            | RefusedReason::DeviceFailed
            | RefusedReason::WrongRole
            | RefusedReason::GivenUpFull => {}
        }
    }

    /// The session that a replica's answer belongs to, if it is the live one of this reign.
    pub(super) fn stamp_of(&self, from: &Peer, header: VolumeHeader) -> Option<SessionStamp> {
        let Role::Reign(reign) = &self.role else {
            return None;
        };
        let stream = reign.streams.get(&from.server)?;
        let same = header.epoch == reign.id.epoch
            && (header.session == wire_session(stream.stamp.session)
                || reign.mutants.has(Mutant::StaleSessionAccepted));
        same.then_some(stream.stamp)
    }

    /// As `stamp_of`; a refusal carries the receiver's epoch, so only the session is compared.
    fn stamp_of_refusal(&self, from: &Peer, header: VolumeHeader) -> Option<SessionStamp> {
        let Role::Reign(reign) = &self.role else {
            return None;
        };
        let stamp = reign.streams.get(&from.server)?.stamp;
        (header.session == wire_session(stamp.session)).then_some(stamp)
    }
}
