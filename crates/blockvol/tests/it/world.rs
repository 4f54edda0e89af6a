//! One store on one disk, and the model of what it must hold.

use std::collections::BTreeMap;
use std::time::Duration;

use moorline_blockvol::{
    DeviceContent, Existing, FlusherConfig, FormatParams, Formatting, Mutants, OpenError,
    OpenReport, ReadOutcome, ReadToken, ReadView, Segment, Store, StoreEvent, StoreIdentity,
    StoreOpening, StoreOptions, Ticket,
};
use moorline_types::{
    BLOCK_SIZE, BlockCount, BlockIndex, BlockRange, BootId, BufferPool, ClusterId, Epoch, Instant,
    Lsn, StoreId, VolumeId,
};
use moorline_wal::{Record, RecordKind, block_crcs};

use sha2::{Digest, Sha256};

use crate::disk::{Disk, Rng};

pub(crate) const VOLUME: VolumeId = VolumeId::new(77);
pub(crate) const BLOCKS: u64 = 1500;
pub(crate) const LOG_BYTES: u64 = 4 << 20;

/// Content of one block, by the record that wrote it; 0 reads as zeroes.
type Image = Vec<u64>;

pub(crate) fn identity() -> StoreIdentity {
    StoreIdentity {
        cluster: ClusterId::new(5),
        volume: VOLUME,
        volume_name: "demo".into(),
        server: "s1".parse().unwrap(),
        store: StoreId::new(99),
    }
}

pub(crate) fn format_params(device_bytes: u64) -> FormatParams {
    FormatParams {
        identity: identity(),
        size_blocks: BlockCount::new(BLOCKS),
        log_bytes: LOG_BYTES,
        device_bytes,
        content: DeviceContent::Zeroes,
        existing: Existing::Refuse,
        pool: BufferPool::new(),
    }
}

pub(crate) fn formatted(rng: &mut Rng) -> Disk {
    let mut disk = Disk::new(24 << 20);
    let mut ops = Vec::new();
    let mut formatting = Formatting::new(format_params(disk.size()), &mut ops).unwrap();
    loop {
        disk.submit(&mut ops);
        let done = disk.complete(rng).expect("formatting waits for the disk");
        if let Some(result) = formatting.on_done(done, &mut ops) {
            result.unwrap();
            return disk;
        }
    }
}

pub(crate) fn options(disk: &Disk) -> StoreOptions {
    planted(disk, Mutants::NONE)
}

pub(crate) fn planted(disk: &Disk, mutants: Mutants) -> StoreOptions {
    let mut options = StoreOptions::new(disk.size(), BootId::new(1), BufferPool::new());
    options.flusher = FlusherConfig {
        dirty_bytes_max: 64 << 10,
        pass_bytes_max: 128 << 10,
        pass_pages_max: 2,
        ops_max: 3,
        ..FlusherConfig::default()
    };
    options.map_pages_max = 2;
    options.mutants = mutants;
    options
}

/// Opens, giving up after `steps` completions as a crash would.
pub(crate) fn try_open(
    disk: &mut Disk,
    rng: &mut Rng,
    options: StoreOptions,
    mut steps: u64,
) -> Option<Result<(Store, OpenReport), OpenError>> {
    let mut ops = Vec::new();
    let mut opening = match StoreOpening::new(options, &mut ops) {
        Ok(opening) => opening,
        Err(error) => return Some(Err(error)),
    };
    loop {
        disk.submit(&mut ops);
        if steps == 0 {
            return None;
        }
        steps -= 1;
        let done = disk.complete(rng).expect("opening waits for the disk");
        if let Some(result) = opening.on_done(Instant::ZERO, done, &mut ops) {
            disk.submit(&mut ops);
            return Some(result);
        }
    }
}

/// What was written by the record of an (epoch, LSN).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Written {
    kind: RecordKind,
    range: BlockRange,
    value: u64,
}

pub(crate) struct World {
    mutants: Mutants,
    pub(crate) rng: Rng,
    pub(crate) disk: Disk,
    pub(crate) store: Store,
    pub(crate) now: Instant,
    pub(crate) events: Vec<StoreEvent>,
    /// Every record ever appended, by what names it.
    written: BTreeMap<(Epoch, Lsn), Written>,
    /// The epoch of each record of the present log.
    log: Vec<Epoch>,
    pub(crate) epoch: Epoch,
    /// Every record through here was said to be durable.
    pub(crate) durable_through: Lsn,
    /// Cuts asked for that were not recorded.
    cuts_pending: u64,
    promises: BTreeMap<Ticket, u64>,
    pub(crate) promised: u64,
    asked: u64,
    reads: BTreeMap<ReadToken, (BlockRange, Lsn)>,
    next_token: u64,
    next_value: u64,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        Self::with(seed, Mutants::NONE)
    }

    /// A world whose store has planted bugs.
    pub(crate) fn with(seed: u64, mutants: Mutants) -> Self {
        let mut rng = Rng::new(seed);
        let mut disk = formatted(&mut rng);
        let options = planted(&disk, mutants);
        let opened = try_open(&mut disk, &mut rng, options, u64::MAX);
        let (store, _) = opened.unwrap().unwrap();
        Self {
            mutants,
            rng,
            disk,
            store,
            now: Instant::ZERO,
            events: Vec::new(),
            written: BTreeMap::new(),
            log: Vec::new(),
            epoch: Epoch::new(1, 0),
            durable_through: Lsn::ZERO,
            cuts_pending: 0,
            promises: BTreeMap::new(),
            promised: 0,
            asked: 0,
            reads: BTreeMap::new(),
            next_token: 0,
            next_value: 0,
        }
    }

    fn head(&self) -> Lsn {
        Lsn::new(self.log.len() as u64)
    }

    /// Appends one record of any kind.
    pub(crate) fn append(&mut self) {
        let first = self.rng.below(BLOCKS);
        let room = BLOCKS - first;
        let (kind, count) = match self.rng.below(12) {
            0 => (RecordKind::Trim, 1 + self.rng.below(room.min(400))),
            1 => (RecordKind::WriteZeroes, 1 + self.rng.below(room.min(40))),
            2 => (RecordKind::EpochMark, 0),
            3 => (RecordKind::Write, 1 + self.rng.below(room.min(20))),
            _ => (RecordKind::Write, 1 + self.rng.below(room.min(3))),
        };
        self.append_this(kind, first, count);
    }

    pub(crate) fn append_this(&mut self, kind: RecordKind, first: u64, count: u64) {
        self.next_value += 1;
        let first = if kind == RecordKind::EpochMark {
            0
        } else {
            first
        };
        let range = BlockRange::new(BlockIndex::new(first), u32::try_from(count).unwrap()).unwrap();
        let value = match kind {
            RecordKind::Write => self.next_value,
            RecordKind::Trim | RecordKind::WriteZeroes | RecordKind::EpochMark => 0,
        };
        if kind == RecordKind::EpochMark {
            self.epoch = Epoch::new(self.epoch.assignment() + 1, 0);
        }
        let lsn = self.head().next();
        let record = match kind {
            RecordKind::Write => {
                let mut buffer = self.store.pool().dirty(range.count() as usize);
                for (block, bytes) in range
                    .iter()
                    .zip(buffer.as_mut_slice().chunks_exact_mut(BLOCK_SIZE))
                {
                    bytes.copy_from_slice(&content(value, block));
                }
                let payload = buffer.freeze();
                let crcs = block_crcs(VOLUME, range, &payload);
                Record::write(VOLUME, self.epoch, lsn, range, payload, crcs)
            }
            RecordKind::Trim => Record::trim(VOLUME, self.epoch, lsn, range),
            RecordKind::WriteZeroes => Record::write_zeroes(VOLUME, self.epoch, lsn, range),
            RecordKind::EpochMark => Record::epoch_mark(VOLUME, self.epoch, lsn),
        };
        if self.store.append(record).is_err() {
            // A full log; the flusher makes room.
            return;
        }
        self.log.push(self.epoch);
        let written = Written { kind, range, value };
        self.written.insert((self.epoch, lsn), written);
    }

    /// Commits some of what is durable.
    pub(crate) fn commit_some(&mut self) {
        let flushed = self.store.frontiers().flushed;
        let room = flushed.distance_from(self.store.committed());
        let step = self.rng.below(room + 1);
        let to = self.store.committed().checked_advance(step).unwrap();
        self.store.set_committed(to);
    }

    pub(crate) fn commit_all(&mut self) {
        self.store.set_committed(self.store.frontiers().flushed);
    }

    pub(crate) fn make_readable(&mut self) {
        let room = self.head().distance_from(self.store.readable());
        let step = self.rng.below(room + 1);
        let to = self.store.readable().checked_advance(step).unwrap();
        self.store.set_readable(to);
    }

    pub(crate) fn promise(&mut self) {
        self.asked += 1;
        let asked = self.asked;
        let ticket = self.store.persist(|durable| {
            durable.promised = Some(moorline_blockvol::PromiseRecord {
                epoch: Epoch::new(asked, 0),
                server: "s2".parse().unwrap(),
                boot: BootId::new(3),
            });
        });
        self.promises.insert(ticket, asked);
    }

    /// Cuts somewhere above what is committed and applied.
    pub(crate) fn cut(&mut self) {
        let at = self.store.frontiers();
        let floor = at.applied.max(at.committed);
        let room = self.head().distance_from(floor);
        let step = self.rng.below(room + 1);
        self.cut_to(floor.checked_advance(step).unwrap());
    }

    pub(crate) fn cut_to(&mut self, through: Lsn) {
        if self.store.cut(through).is_err() {
            // The applied mark is on its way up.
            return;
        }
        self.log.truncate(usize::try_from(through.get()).unwrap());
        self.durable_through = self.durable_through.min(through);
        self.epoch = Epoch::new(self.epoch.assignment() + 1, 0);
        self.cuts_pending += 1;
        // A read under way may have met records that are gone now.
        self.reads.clear();
    }

    pub(crate) fn start_read(&mut self, view: ReadView) {
        let first = self.rng.below(BLOCKS);
        let count = 1 + self.rng.below((BLOCKS - first).min(700));
        let range = BlockRange::new(BlockIndex::new(first), u32::try_from(count).unwrap()).unwrap();
        self.next_token += 1;
        let token = ReadToken::new(self.next_token);
        let mut ops = Vec::new();
        let since = match view {
            ReadView::Readable => self.store.readable(),
            ReadView::Newest => self.head(),
        };
        match self.store.read(token, range, view, &mut ops) {
            ReadOutcome::Ready(result) => {
                self.check_read(range, since, since, &result.unwrap());
            }
            ReadOutcome::Pending => {
                if view == ReadView::Readable {
                    self.reads.insert(token, (range, since));
                }
            }
        }
        self.disk.submit(&mut ops);
    }

    pub(crate) fn submit(&mut self) {
        let mut ops = Vec::new();
        let mut events = std::mem::take(&mut self.events);
        self.store.submit(self.now, &mut ops, &mut events);
        self.disk.submit(&mut ops);
        self.take(events);
    }

    pub(crate) fn pass_time(&mut self, time: Duration) {
        self.now = self.now.after(time);
        if self.store.next_deadline().is_some_and(|at| at <= self.now) {
            let mut ops = Vec::new();
            let mut events = std::mem::take(&mut self.events);
            self.store.on_deadline(self.now, &mut ops, &mut events);
            self.disk.submit(&mut ops);
            self.take(events);
        }
    }

    /// Lets one operation complete.
    pub(crate) fn complete(&mut self) -> bool {
        let Some(done) = self.disk.complete(&mut self.rng) else {
            return false;
        };
        let mut ops = Vec::new();
        let mut events = std::mem::take(&mut self.events);
        self.store.on_done(self.now, done, &mut ops, &mut events);
        self.disk.submit(&mut ops);
        self.take(events);
        true
    }

    fn take(&mut self, events: Vec<StoreEvent>) {
        for event in events {
            match event {
                StoreEvent::Persisted { ticket } => {
                    let later = self.promises.split_off(&Ticket::next_of(ticket));
                    if let Some((_, promised)) = self.promises.pop_last() {
                        self.promised = promised;
                    }
                    self.promises = later;
                }
                StoreEvent::Flushed { through } => self.durable_through = through,
                StoreEvent::CutRecorded { .. } => self.cuts_pending -= 1,
                StoreEvent::ReadDone { token, result } => {
                    // A test's own reads are its own to look at.
                    if let Some((range, since)) = self.reads.remove(&token) {
                        let until = self.store.readable();
                        self.check_read(range, since, until, &result.unwrap());
                    }
                }
                StoreEvent::Failed { fault } => panic!("the store failed: {fault}"),
                other @ (StoreEvent::RecordsRead { .. }
                | StoreEvent::StatusDone { .. }
                | StoreEvent::Applied { .. }
                | StoreEvent::CheckpointMoved { .. }
                | StoreEvent::Repaired { .. }
                | StoreEvent::ShutDown) => self.events.push(other),
            }
        }
    }

    /// Lets everything complete that does so without time passing.
    pub(crate) fn drain(&mut self) {
        self.submit();
        while self.complete() {
            self.submit();
        }
    }

    /// Runs until nothing more happens by itself.
    pub(crate) fn settle(&mut self) {
        for _ in 0..100_000 {
            self.drain();
            match self.store.next_deadline() {
                Some(at) if at <= self.now => self.pass_time(Duration::ZERO),
                Some(at) => self.pass_time(at.since(self.now)),
                None if self.disk.idle() => return,
                None => {}
            }
        }
        panic!("the store does not come to rest");
    }

    fn image_at(&self, lsn: Lsn) -> Image {
        let mut image = vec![0; usize::try_from(BLOCKS).unwrap()];
        for (n, epoch) in self.log.iter().enumerate() {
            let at = Lsn::new(n as u64 + 1);
            if at > lsn {
                break;
            }
            let written = self.written[&(*epoch, at)];
            for block in written.range.iter() {
                image[usize::try_from(block.get()).unwrap()] = written.value;
            }
        }
        image
    }

    /// The answer must be the image of one moment between the question and the answer.
    fn check_read(&self, range: BlockRange, since: Lsn, until: Lsn, segments: &[Segment]) {
        let found = values(range, segments);
        let mut lsn = since;
        loop {
            let image = self.image_at(lsn);
            let want = range
                .iter()
                .map(|block| image[usize::try_from(block.get()).unwrap()]);
            if want.eq(found.iter().copied()) {
                return;
            }
            assert!(lsn < until, "{range} is of no moment in ({since}, {until}]");
            lsn = lsn.next();
        }
    }

    /// Reads the whole volume, waiting for it.
    pub(crate) fn read_all(&mut self, view: ReadView) -> Image {
        let count = u32::try_from(BLOCKS).unwrap();
        let range = BlockRange::new(BlockIndex::new(0), count).unwrap();
        read_all(&mut self.store, &mut self.disk, &mut self.rng, view, range)
    }

    pub(crate) fn check_whole(&mut self) {
        let newest = self.read_all(ReadView::Newest);
        assert_same(&newest, &self.image_at(self.head()), "newest view");
        let readable = self.store.readable();
        let found = self.read_all(ReadView::Readable);
        assert_same(&found, &self.image_at(readable), "readable view");
    }

    /// The power goes; the store is opened again, perhaps after more cuts, and everything that
    /// was ever said about durability is checked.
    pub(crate) fn power_cut(&mut self) {
        self.disk.power_cut(&mut self.rng);
        while self.rng.one_in(3) {
            let steps = self.rng.below(60);
            let options = planted(&self.disk, self.mutants);
            if let Some(opened) = try_open(&mut self.disk, &mut self.rng, options, steps) {
                opened.unwrap();
            }
            self.disk.power_cut(&mut self.rng);
        }
        if self.rng.one_in(4) {
            self.damage_one_superblock();
        }
        let digest = self.rng.one_in(4).then(|| self.digest());
        let options = planted(&self.disk, self.mutants);
        let opened = try_open(&mut self.disk, &mut self.rng, options, u64::MAX);
        let (store, report) = opened.unwrap().unwrap();
        assert!(report.image.is_trusted(), "{report:?}");
        assert!(report.log.damaged.is_none(), "{report:?}");
        self.store = store;
        self.now = Instant::ZERO;
        self.events.clear();
        self.reads.clear();
        self.promises.clear();
        self.adopt();
        if let Some((through, hash)) = digest {
            assert_eq!(
                hash,
                hash_of(&self.image_at(through)),
                "digest through {through}"
            );
        }
    }

    /// The digest of the image through the head, as an offline look finds it.
    fn digest(&self) -> (Lsn, String) {
        use moorline_blockvol::inspect::{DigestThrough, inspect};
        let found = inspect(&self.disk, DigestThrough::Record(Lsn::MAX)).unwrap();
        let digest = found.store.unwrap().digest.unwrap();
        (digest.through, digest.sha256.expect("nothing is damaged"))
    }

    fn damage_one_superblock(&mut self) {
        use moorline_blockvol::{SUPERBLOCK_BYTES, SUPERBLOCK_OFFSETS, Superblock};
        let valid: Vec<bool> = (0..2)
            .map(|copy| {
                let offset = SUPERBLOCK_OFFSETS[usize::try_from(copy).unwrap()];
                let bytes = self.disk.durable_bytes(offset, SUPERBLOCK_BYTES);
                Superblock::decode(copy, &bytes).is_ok()
            })
            .collect();
        if valid.iter().all(|&valid| valid) {
            let copy = usize::try_from(self.rng.below(2)).unwrap();
            let at = self.rng.below(250);
            self.disk.flip(SUPERBLOCK_OFFSETS[copy] + at);
        }
    }

    /// Checks what was found against what must be there, and makes it the model.
    fn adopt(&mut self) {
        let at = self.store.frontiers();
        assert!(
            at.head >= self.durable_through,
            "{at:?}, durable {}",
            self.durable_through
        );
        let promised = self.store.durable().promised_epoch().assignment();
        assert!(
            promised >= self.promised,
            "{promised}, told {}",
            self.promised
        );
        self.promised = promised;
        self.asked = self.asked.max(promised);
        let mut log = self.log.clone();
        let found = usize::try_from(at.head.get()).unwrap();
        log.truncate(found);
        for lsn in (at.tail.get() + 1..=at.head.get()).map(Lsn::new) {
            let epoch = self.store.log().header(lsn).unwrap().epoch();
            let place = usize::try_from(lsn.get() - 1).unwrap();
            if lsn <= self.durable_through {
                assert_eq!(log[place], epoch, "record {lsn} was durable");
            }
            assert!(
                self.written.contains_key(&(epoch, lsn)),
                "{epoch} {lsn} was never written"
            );
            if place < log.len() {
                log[place] = epoch;
            } else {
                log.push(epoch);
            }
        }
        let swapped = log[..found.min(log.len())] != self.log[..found.min(self.log.len())];
        assert!(
            !swapped || self.cuts_pending > 0,
            "only a cut changes what a record is"
        );
        self.log = log;
        self.cuts_pending = 0;
        self.durable_through = at.head;
        let last = self.log.iter().copied().max().unwrap_or(self.epoch);
        self.epoch = Epoch::new(self.epoch.max(last).assignment() + 1, 0);
        self.check_whole();
    }

    /// Whether the extents hold nothing above the applied mark: cuts there in a copy and looks.
    pub(crate) fn check_applied_bound(&mut self) {
        let mut disk = self.disk.copy_after_power_cut(&mut self.rng);
        let options = planted(&disk, self.mutants);
        let opened = try_open(&mut disk, &mut self.rng, options, u64::MAX);
        let (mut store, _) = opened.unwrap().unwrap();
        let at = store.frontiers();
        let mut log = self.log.clone();
        for lsn in (at.tail.get() + 1..=at.applied.get()).map(Lsn::new) {
            let place = usize::try_from(lsn.get() - 1).unwrap();
            assert_eq!(log[place], store.log().header(lsn).unwrap().epoch());
        }
        store.cut(at.applied).unwrap();
        log.truncate(usize::try_from(at.applied.get()).unwrap());
        let count = u32::try_from(BLOCKS).unwrap();
        let range = BlockRange::new(BlockIndex::new(0), count).unwrap();
        let found = read_all(
            &mut store,
            &mut disk,
            &mut self.rng,
            ReadView::Newest,
            range,
        );
        assert_same(
            &found,
            &self.image_at(at.applied),
            "cut to the applied mark",
        );
    }
}

/// The digest that an image must have.
fn hash_of(image: &Image) -> String {
    let mut hasher = Sha256::new();
    hasher.update(BLOCKS.to_le_bytes());
    for (block, value) in (0..).zip(image) {
        if *value != 0 {
            let block = BlockIndex::new(block);
            hasher.update(block.get().to_le_bytes());
            hasher.update(content(*value, block));
        }
    }
    let bytes = hasher.finalize();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Names the first block that differs.
fn assert_same(found: &Image, want: &Image, what: &str) {
    let differs = found.iter().zip(want).position(|(have, want)| have != want);
    if let Some(block) = differs {
        let (have, want) = (found[block], want[block]);
        panic!("{what}: block {block} is of record {have}, not {want}");
    }
}

/// Reads `range`, driving the store until the answer is there.
pub(crate) fn read_all(
    store: &mut Store,
    disk: &mut Disk,
    rng: &mut Rng,
    view: ReadView,
    range: BlockRange,
) -> Image {
    let mut ops = Vec::new();
    let token = ReadToken::new(u64::MAX);
    let outcome = store.read(token, range, view, &mut ops);
    disk.submit(&mut ops);
    if let ReadOutcome::Ready(result) = outcome {
        return values(range, &result.unwrap());
    }
    let mut events = Vec::new();
    loop {
        let done = disk.complete(rng).expect("the read waits for the disk");
        store.on_done(Instant::ZERO, done, &mut ops, &mut events);
        disk.submit(&mut ops);
        for event in events.drain(..) {
            if let StoreEvent::ReadDone {
                token: answered,
                result,
            } = event
                && answered == token
            {
                return values(range, &result.unwrap());
            }
        }
    }
}

/// What block `block` of the record with `value` holds.
pub(crate) fn content(value: u64, block: BlockIndex) -> [u8; BLOCK_SIZE] {
    let mut bytes = [0; BLOCK_SIZE];
    for (n, chunk) in bytes.chunks_exact_mut(16).enumerate() {
        chunk[..8].copy_from_slice(&value.to_le_bytes());
        chunk[8..].copy_from_slice(&(block.get() ^ (n as u64) << 32).to_le_bytes());
    }
    bytes
}

/// Which record each block of `segments` is of; panics at a block that is of none.
fn values(range: BlockRange, segments: &[Segment]) -> Image {
    let mut values = Vec::new();
    let mut at = range.first();
    for segment in segments {
        assert_eq!(segment.range().first(), at, "segments follow each other");
        at = segment.range().end();
        match segment {
            Segment::Zero { range, .. } => values.extend(range.iter().map(|_| 0)),
            Segment::Data { range, payload } => {
                for (n, block) in range.iter().enumerate() {
                    let bytes = payload.block(n);
                    let value = u64::from_le_bytes(bytes[..8].try_into().unwrap());
                    assert_eq!(
                        bytes,
                        content(value, block),
                        "block {block} is torn or misplaced"
                    );
                    values.push(value);
                }
            }
        }
    }
    assert_eq!(at, range.end(), "segments cover the range");
    values
}
