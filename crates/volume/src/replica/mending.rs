//! Damaged blocks: a primary fetches a good copy from a peer, a peer gives its own.
//!
//! ```text
//! a read fails its check --> queued --> asking a peer --> repaired in place, the read goes on
//!                                        |   ^
//!                                        +---+ it cannot, or says nothing: the next one
//!                                        |
//!                                        +--> nobody can: that read fails, and it alone
//! ```
//!
//! A copy is taken only with the checksum *and* for the record that the block map names, and only
//! from a peer that holds that record. Refuses to guess: a block whose map page is damaged has no
//! known version and is not asked for.

use std::{collections::BTreeMap, time::Duration};

use moorline_blockvol::{
    BlockVersion, ReadFault, ReadOutcome, ReadToken, ReadView, RepairError, Segment,
};
use moorline_types::{BlockIndex, BlockRange, Instant, Payload, ServerId};
use moorline_wal::block_crc;
use moorline_wire::{
    FetchBlock, FetchedBlock, ImageState, RefusedReason, VolumeHeader, VolumeMessage,
    control::DamageReport,
};

use super::{Ctx, Replica, Role, lines::is_promise_of};
use crate::{
    desk::Held,
    journal::Happening,
    lease::Reign as ReignId,
    node::{LinkId, Peer},
};

/// Blocks asked for at the same time: a rotten region must not fill the links, and a peer reads
/// each from its device.
const FETCHES_MAX: usize = 4;

/// A peer that has not answered for this long is passed over: twice what a busy disk takes.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// Nobody is asked any more after this long: a client waits for it.
const FETCH_LIMIT: Duration = Duration::from_secs(5);

/// Blocks being read for peers at the same time; above that the answer is that it cannot.
const ANSWERS_MAX: usize = 16;

/// The damaged blocks that this primary asks for, and those that it is asked for.
#[derive(Debug, Default)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub(crate) struct Mending {
    wanted: BTreeMap<BlockIndex, Wanted>,
    serial: u64,
    answering: BTreeMap<ReadToken, Answer>,
    counts: DamageReport,
}

/// A block that no peer gave yet.
#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
struct Wanted {
    version: BlockVersion,
    state: Fetching,
}

#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
enum Fetching {
    /// Others go first.
    Queued,
    Underway {
        /// When the last answer is waited for.
        until: Instant,
        /// Peers that were asked.
        asked: Vec<ServerId>,
        /// The one that has not answered.
        open: Option<Ask>,
    },
}

#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
struct Ask {
    request: u64,
    server: ServerId,
    until: Instant,
}

/// A peer's question, while its block is read.
#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
struct Answer {
    link: LinkId,
    header: VolumeHeader,
    fetch: FetchBlock,
}

impl Mending {
    /// Wants `block`; says whether that is news.
    fn want(&mut self, block: BlockIndex, version: BlockVersion) -> bool {
        let known = self.wanted.get(&block).map(|wanted| wanted.version);
        if known == Some(version) {
            return false;
        }
        let state = Fetching::Queued;
        self.wanted.insert(block, Wanted { version, state });
        true
    }

    /// What was asked for is wanted no more.
    pub(super) fn abandon(&mut self) {
        self.wanted.clear();
    }

    /// Damage met since the store was opened.
    pub(super) const fn report(&self) -> DamageReport {
        self.counts
    }

    pub(super) fn forget_link(&mut self, link: LinkId) {
        self.answering.retain(|_, answer| answer.link != link);
    }

    fn underway(&self) -> usize {
        let underway = |wanted: &&Wanted| matches!(wanted.state, Fetching::Underway { .. });
        self.wanted.values().filter(underway).count()
    }

    /// Lets the first blocks in, as many as may be asked for at a time.
    fn begin(&mut self, now: Instant) {
        let room = FETCHES_MAX.saturating_sub(self.underway());
        let queued = (self.wanted.values_mut())
            .filter(|wanted| matches!(wanted.state, Fetching::Queued))
            .take(room);
        for wanted in queued {
            wanted.state = Fetching::Underway {
                until: now.after(FETCH_LIMIT),
                asked: Vec::new(),
                open: None,
            };
        }
    }

    /// Gives up on peers that have had their time.
    fn close_silent(&mut self, now: Instant) {
        for wanted in self.wanted.values_mut() {
            if let Fetching::Underway { open, .. } = &mut wanted.state
                && open.as_ref().is_some_and(|ask| ask.until <= now)
            {
                *open = None;
            }
        }
    }

    /// The blocks under way that nobody is being asked for.
    fn unasked(&self) -> Vec<BlockIndex> {
        let unasked =
            |wanted: &Wanted| matches!(wanted.state, Fetching::Underway { open: None, .. });
        let wanted = self.wanted.iter();
        wanted
            .filter(|(_, wanted)| unasked(wanted))
            .map(|(block, _)| *block)
            .collect()
    }

    /// The block that `request` to `server` is about; the question is closed.
    fn close(&mut self, server: &ServerId, request: u64) -> Option<(BlockIndex, BlockVersion)> {
        self.wanted
            .iter_mut()
            .find_map(|(block, wanted)| match &mut wanted.state {
                Fetching::Underway { open, .. } => {
                    let answers = |ask: &Ask| ask.request == request && ask.server == *server;
                    open.take_if(|ask| answers(ask))
                        .map(|_| (*block, wanted.version))
                }
                Fetching::Queued => None,
            })
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let due = |wanted: &Wanted| match &wanted.state {
            Fetching::Queued => None,
            Fetching::Underway { until, open, .. } => {
                Some(open.as_ref().map_or(*until, |ask| ask.until.min(*until)))
            }
        };
        self.wanted.values().filter_map(due).min()
    }
}

impl Replica {
    /// A client's read met a block that is not what was written last. Says whether the client
    /// waits for a good copy: otherwise the read fails.
    pub(super) fn on_damaged_block(
        &mut self,
        ctx: &mut Ctx<'_>,
        token: ReadToken,
        (block, version): (BlockIndex, BlockVersion),
    ) -> Held {
        let held = self.desk.hold_for_repair(token, block);
        if held == Held::No {
            self.count_damage(ctx, block);
            return held;
        }
        if self.mending.want(block, version) {
            self.count_damage(ctx, block);
        }
        self.mend(ctx);
        held
    }

    fn count_damage(&mut self, ctx: &mut Ctx<'_>, block: BlockIndex) {
        self.mending.counts.found += 1;
        self.note(ctx, Happening::DamagedBlock { block });
    }

    /// Asks the next peers, and gives up what nobody can give.
    pub(super) fn mend(&mut self, ctx: &mut Ctx<'_>) {
        if self.mending.wanted.is_empty() || !matches!(self.role, Role::Reign(_)) {
            return;
        }
        self.mending.close_silent(ctx.now);
        loop {
            self.mending.begin(ctx.now);
            let mut ended = 0;
            for block in self.mending.unasked() {
                ended += usize::from(self.ask_next(ctx, block) == Asked::NoNeed);
            }
            // What ended makes room for what waits.
            if ended == 0 {
                return;
            }
        }
    }

    /// Asks one more peer for a block under way.
    fn ask_next(&mut self, ctx: &mut Ctx<'_>, block: BlockIndex) -> Asked {
        let (Role::Reign(reign), Some(line)) = (&self.role, &self.line) else {
            return Asked::Waits;
        };
        let epoch = reign.id.epoch;
        let Some(Wanted {
            version,
            state: Fetching::Underway { until, asked, open },
        }) = self.mending.wanted.get_mut(&block)
        else {
            return Asked::Waits;
        };
        if (self.store.block_lsn(block)).is_some_and(|newest| newest != version.lsn) {
            // Written again meanwhile: what waits reads that.
            self.mending.wanted.remove(&block);
            let (store, ops) = (&mut self.store, &mut self.ops);
            self.desk.repaired(block, store, ops, ctx.out);
            return Asked::NoNeed;
        }
        let others = line.members.iter().map(|member| &member.server);
        let left: Vec<&ServerId> = others
            .filter(|server| **server != ctx.me.server && !asked.contains(server))
            .collect();
        // Only a peer of proven history that holds the record can have the block.
        let holds = |server: &ServerId| {
            (reign.streams.get(server)).is_some_and(|stream| stream.flushed >= version.lsn)
        };
        let next = left.iter().find_map(|server| {
            let link = ctx.links.dialed(server)?;
            holds(server).then_some(((*server).clone(), link))
        });
        let Some((server, link)) = next else {
            if left.is_empty() || *until <= ctx.now {
                self.give_up_block(ctx, block);
                return Asked::NoNeed;
            }
            return Asked::Waits;
        };
        self.mending.serial += 1;
        let request = self.mending.serial;
        asked.push(server.clone());
        *open = Some(Ask {
            request,
            server,
            until: ctx.now.after(ANSWER_LIMIT).min(*until),
        });
        let fetch = FetchBlock {
            request,
            block,
            lsn: version.lsn,
            crc: version.crc,
        };
        let header = self.header(0, epoch);
        self.send(ctx, link, header, VolumeMessage::FetchBlock(fetch));
        Asked::One
    }

    fn give_up_block(&mut self, ctx: &mut Ctx<'_>, block: BlockIndex) {
        let Some(Wanted { version, .. }) = self.mending.wanted.remove(&block) else {
            return;
        };
        self.mending.counts.lost += 1;
        self.note(ctx, Happening::BlockNotRepaired { block });
        let fault = ReadFault::Damaged {
            block,
            lsn: version.lsn,
            crc: version.crc,
        };
        self.desk.not_repaired(block, &fault, ctx.out);
    }

    /// A peer's copy, or its word that it has none.
    pub(super) fn on_fetched_block(
        &mut self,
        ctx: &mut Ctx<'_>,
        from: &Peer,
        header: VolumeHeader,
        fetched: FetchedBlock,
    ) {
        if self.leading_epoch() != Some(header.epoch) {
            return;
        }
        let Some((block, version)) = self.mending.close(&from.server, fetched.request) else {
            return;
        };
        if let Some(content) = fetched.content {
            self.take_copy(ctx, from, (block, version), content);
        }
        self.mend(ctx);
    }

    fn take_copy(
        &mut self,
        ctx: &mut Ctx<'_>,
        from: &Peer,
        (block, version): (BlockIndex, BlockVersion),
        content: Payload,
    ) {
        let (store, ops) = (&mut self.store, &mut self.ops);
        match store.repair(block, version, content, ops) {
            // From here on reads get the content, or a newer version's.
            Ok(()) | Err(RepairError::Superseded { .. }) => {
                self.mending.wanted.remove(&block);
                self.desk.repaired(block, store, ops, ctx.out);
            }
            Err(RepairError::WrongContent { .. }) => {
                self.refuse_peer(ctx, from, "it gave a block with another content");
            }
            Err(RepairError::Failed(_)) => self.give_up_block(ctx, block),
        }
    }

    /// A primary asks for this replica's copy of a block.
    pub(super) fn on_fetch_block(
        &mut self,
        ctx: &mut Ctx<'_>,
        link: LinkId,
        from: &Peer,
        header: VolumeHeader,
        fetch: FetchBlock,
    ) {
        let owner = ReignId {
            epoch: header.epoch,
            server: from.server.clone(),
            boot: from.boot,
        };
        if !is_promise_of(self.store.pending().promised.as_ref(), &owner) {
            self.refuse(ctx, link, header, RefusedReason::WrongRole);
            return;
        }
        let answer = Answer {
            link,
            header: self.header(header.session, header.epoch),
            fetch,
        };
        let reaches = self.store.readable() >= fetch.lsn && self.image() == ImageState::Whole;
        let one = BlockRange::new(fetch.block, 1);
        let (Some(one), true) = (one, reaches && self.mending.answering.len() < ANSWERS_MAX) else {
            self.answer_block(ctx, &answer, None);
            return;
        };
        let token = self.desk.fresh_token();
        match self
            .store
            .read(token, one, ReadView::Readable, &mut self.ops)
        {
            ReadOutcome::Ready(result) => {
                let content = result
                    .ok()
                    .and_then(|segments| self.copy_of(fetch, &segments));
                self.answer_block(ctx, &answer, content);
            }
            ReadOutcome::Pending => {
                self.mending.answering.insert(token, answer);
            }
        }
    }

    /// Answers the peer that `token` was read for; gives the result back if there is none.
    pub(super) fn answer_block_read(
        &mut self,
        ctx: &mut Ctx<'_>,
        token: ReadToken,
        result: Result<Vec<Segment>, ReadFault>,
    ) -> Option<Result<Vec<Segment>, ReadFault>> {
        let Some(answer) = self.mending.answering.remove(&token) else {
            return Some(result);
        };
        let content = match result {
            Ok(segments) => self.copy_of(answer.fetch, &segments),
            Err(ReadFault::Damaged { block, .. }) => {
                self.count_damage(ctx, block);
                None
            }
            Err(_) => None,
        };
        self.answer_block(ctx, &answer, content);
        None
    }

    /// The content that was read, if it is the version that was asked for.
    fn copy_of(&self, fetch: FetchBlock, segments: &[Segment]) -> Option<Payload> {
        let [Segment::Data { range, payload }] = segments else {
            return None;
        };
        let same = range.first() == fetch.block
            && payload.blocks() == 1
            && self.store.block_lsn(fetch.block) == Some(fetch.lsn)
            && block_crc(self.volume, fetch.block, payload.as_slice()) == fetch.crc;
        same.then(|| payload.clone())
    }

    fn answer_block(&self, ctx: &mut Ctx<'_>, answer: &Answer, content: Option<Payload>) {
        let fetched = FetchedBlock {
            request: answer.fetch.request,
            block: answer.fetch.block,
            content,
        };
        let body = VolumeMessage::FetchedBlock(fetched);
        self.send(ctx, answer.link, answer.header, body);
    }

    /// A repair is in the extents.
    pub(super) fn on_repaired(&mut self, ctx: &mut Ctx<'_>, block: BlockIndex) {
        self.mending.counts.repaired += 1;
        self.note(ctx, Happening::BlockRepaired { block });
    }
}

/// What came of looking for a peer to ask.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Asked {
    /// One is asked.
    One,
    /// None can be asked now; one that was away may come back.
    Waits,
    /// Everybody was, or there is a newer version.
    NoNeed,
}
