//! Clients of a primary: the gate that the desk works behind.

use moorline_blockvol::{BlockVersion, ReadFault, ReadToken, Segment, StatusRun};
use moorline_types::{BLOCK_SIZE, BlockCount, Epoch, Instant};

use super::{Ctx, Replica, Role};
use crate::{
    client::{ClientError, ClientId, ClientReply, ClientRequest},
    desk::{Gate, Held, Permission},
    mutants::Mutant,
    node::Action,
    pace::LogRoom,
};

impl Replica {
    /// A client asks for something.
    pub(crate) fn on_client_request(&mut self, ctx: &mut Ctx<'_>, request: ClientRequest) {
        match &self.role {
            Role::Reign(reign) if reign.serves() => self.desk.take(ctx.now, request),
            // No client is attached yet, or none any more: what it asks has no effect.
            Role::Reign(_) | Role::Idle | Role::Follower(_) | Role::Candidate(_) => {
                ctx.out.push(Action::Reply {
                    client: request.client,
                    request: request.request,
                    reply: ClientReply::Failed(ClientError::NotPrimary),
                });
            }
        }
    }

    pub(crate) fn on_client_left(&mut self, client: ClientId) {
        self.desk.drop_client(client);
    }

    pub(super) fn on_client_read(
        &mut self,
        ctx: &mut Ctx<'_>,
        token: ReadToken,
        result: Result<Vec<Segment>, ReadFault>,
    ) {
        let Some(result) = self.answer_block_read(ctx, token, result) else {
            return;
        };
        if let Err(ReadFault::Damaged { block, lsn, crc }) = result {
            let version = BlockVersion { lsn, crc };
            if self.on_damaged_block(ctx, token, (block, version)) == Held::Yes {
                return;
            }
        }
        let gate = self.gate(ctx);
        self.desk.read_done(&gate, token, result, ctx.out);
    }

    pub(super) fn on_client_status(
        &mut self,
        ctx: &mut Ctx<'_>,
        token: ReadToken,
        result: Result<Vec<StatusRun>, ReadFault>,
    ) {
        let gate = self.gate(ctx);
        self.desk.status_done(&gate, token, result, ctx.out);
    }

    pub(super) fn run_desk(&mut self, ctx: &mut Ctx<'_>) {
        if self.desk.is_idle() {
            return;
        }
        let gate = self.gate(ctx);
        self.desk.begin_batch(ctx.now, self.log_room(ctx.now));
        self.desk
            .run(&gate, &mut self.store, &mut self.ops, ctx.out);
        if ctx.me.mutants.has(Mutant::ReadsUncommitted) {
            self.store.set_readable(self.store.log().head());
        }
    }

    /// What is not committed frees no room anywhere, and it may take more of a follower's log than of
    /// this one: a record that comes alone has a frame of its own there, and an idle mark behind it, a
    /// block each. A fifth is left for the marks of those who lead next.
    pub(super) fn log_room(&self, now: Instant) -> LogRoom {
        let log = self.store.log();
        let capacity_bytes = log.capacity_bytes();
        let committed = self.store.frontiers().committed;
        let records = log.head().distance_from(committed.min(log.head()));
        let alone = records.saturating_mul(2 * BLOCK_SIZE as u64);
        let uncommitted = log.bytes_after(committed).saturating_add(alone);
        LogRoom {
            capacity_bytes,
            used_bytes: log.used_bytes().max(uncommitted + capacity_bytes / 5),
            drain_rate: self.store.drain_rate(now),
        }
    }

    /// What is allowed right now. Every answer passes a gate of its own instant (`INV-8`).
    fn gate(&self, ctx: &Ctx<'_>) -> Gate {
        let serves = match &self.role {
            Role::Reign(reign) => reign.serves(),
            Role::Idle | Role::Follower(_) | Role::Candidate(_) => false,
        };
        let healthy = self.store.failed().is_none();
        let may_answer = serves && healthy && self.lease_is_live(ctx);
        let may_order = may_answer && self.policy_can_be_met(ctx);
        let (acknowledgeable, committed) = self.reach();
        Gate {
            volume: self.volume,
            epoch: self.leading_epoch().unwrap_or(Epoch::ZERO),
            size: self
                .line
                .as_ref()
                .map_or(BlockCount::new(0), |line| line.size_blocks),
            may_answer: Permission::when(may_answer),
            may_order: Permission::when(may_order),
            acknowledgeable,
            committed: match ctx.me.mutants.has(Mutant::ForcedAsReceived) {
                true => acknowledgeable,
                false => committed,
            },
            mutants: ctx.me.mutants,
        }
    }
}
