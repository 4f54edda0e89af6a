//! A log on a device, and what every test does with it.

use moorline_types::{
    BLOCK_SIZE, BlockIndex, BlockRange, BufferPool, DeviceOp, DeviceOpKind, Epoch, EpochStart,
    Instant, Lsn, LsnRange, OpenCount, Payload, StoreId, VolumeId,
};
use moorline_wal::{
    FrameHeader, Log, LogAnchor, LogConfig, LogEvent, LogFindings, LogOpenError, LogOpening,
    LogRegion, Mutants, ReadId, ReadStart, Record, block_crcs,
};

use crate::device::Device;

pub(crate) const VOLUME: VolumeId = VolumeId::new(0xabc);
pub(crate) const STORE: StoreId = StoreId::new(0xdef);
/// The ring does not begin at the device's start.
pub(crate) const OFFSET: u64 = 8192;

pub(crate) fn lsn(value: u64) -> Lsn {
    Lsn::new(value)
}

pub(crate) fn epoch(value: u64) -> Epoch {
    Epoch::new(value, 0)
}

pub(crate) fn range(first: u64, count: u32) -> BlockRange {
    BlockRange::new(BlockIndex::new(first), count).unwrap()
}

/// A write whose content depends on `stamp`; 0 blocks make a trim.
pub(crate) fn record(at: u64, of: u64, blocks: u32, stamp: u64) -> Record {
    let range = range(stamp % 64, blocks.max(1));
    if blocks == 0 {
        return Record::trim(VOLUME, epoch(of), lsn(at), range);
    }
    let bytes: Vec<u8> = (0..u64::from(blocks) * BLOCK_SIZE as u64 / 8)
        .flat_map(|word| (stamp << 32 | word).to_le_bytes())
        .collect();
    let payload = Payload::copy_padded(&BufferPool::new(), &bytes);
    let crcs = block_crcs(VOLUME, range, &payload);
    Record::write(VOLUME, epoch(of), lsn(at), range, payload, crcs)
}

pub(crate) fn config(open: u64, ring_bytes: u64, mutants: Mutants) -> LogConfig {
    let region = LogRegion {
        offset: OFFSET,
        bytes: ring_bytes,
    };
    let mut config = LogConfig::new(
        VOLUME,
        STORE,
        OpenCount::new(open),
        region,
        BufferPool::new(),
    );
    config.mutants = mutants;
    config
}

pub(crate) fn device(ring_bytes: u64) -> Device {
    Device::new((OFFSET + ring_bytes) as usize)
}

/// Opens; completions come in order.
pub(crate) fn open(
    device: &mut Device,
    config: LogConfig,
    anchor: LogAnchor,
    history: &[EpochStart],
    floor: u64,
) -> Result<(Log, LogFindings), LogOpenError> {
    let mut ops = Vec::new();
    let mut opening = LogOpening::new(config, anchor, history.to_vec(), lsn(floor), &mut ops)?;
    loop {
        device.submit(&mut ops);
        let done = device.complete(0);
        if let Some(result) = opening.on_done(done, &mut ops) {
            assert!(ops.is_empty(), "nothing is asked for behind the end");
            return result;
        }
    }
}

/// A log being driven.
pub(crate) struct Rig {
    pub(crate) device: Device,
    pub(crate) log: Log,
    pub(crate) now: Instant,
    pub(crate) ops: Vec<DeviceOp>,
    pub(crate) events: Vec<LogEvent>,
}

impl Rig {
    pub(crate) fn fresh(ring_bytes: u64) -> Self {
        Self::over(device(ring_bytes), config(1, ring_bytes, Mutants::NONE))
    }

    pub(crate) fn over(mut device: Device, config: LogConfig) -> Self {
        let (log, _) = open(&mut device, config, LogAnchor::default(), &[], 0).unwrap();
        let (now, ops, events) = (Instant::ZERO, Vec::new(), Vec::new());
        Self {
            device,
            log,
            now,
            ops,
            events,
        }
    }

    /// Appends records of epoch 1 with so many blocks each.
    pub(crate) fn append(&mut self, blocks: &[u32]) {
        for &blocks in blocks {
            let next = self.log.head().get() + 1;
            self.log.append(record(next, 1, blocks, next)).unwrap();
        }
    }

    pub(crate) fn submit(&mut self) {
        self.log.submit(self.now, &mut self.ops);
        self.device.submit(&mut self.ops);
    }

    /// Completes one operation and lets the log go on.
    pub(crate) fn complete(&mut self, place: usize) {
        let done = self.device.complete(place);
        self.log
            .on_done(self.now, done, &mut self.ops, &mut self.events);
        self.device.submit(&mut self.ops);
    }

    /// Goes on until nothing is in flight.
    pub(crate) fn settle(&mut self) {
        self.submit();
        while self.device.in_flight() > 0 {
            self.complete(0);
            self.submit();
        }
    }

    /// One frame with these records, flushed.
    pub(crate) fn frame(&mut self, blocks: &[u32]) {
        self.append(blocks);
        self.settle();
        assert_eq!(self.log.flushed(), self.log.head());
    }

    /// Lets the idle mark be written.
    pub(crate) fn idle(&mut self) {
        while let Some(deadline) = self.log.next_deadline() {
            self.now = self.now.max(deadline);
            self.log
                .on_deadline(self.now, &mut self.ops, &mut self.events);
            self.device.submit(&mut self.ops);
            self.settle();
        }
    }

    /// Persists the anchor for `through` in both superblocks, and frees what they let go.
    pub(crate) fn reclaim(&mut self, through: Lsn) -> LogAnchor {
        let anchor = self.log.anchor_at(through);
        self.log.reclaim([anchor, anchor])
    }

    pub(crate) fn read(&mut self, after: u64, through: u64) -> Vec<Record> {
        let range = LsnRange::new(lsn(after), lsn(through)).unwrap();
        let start = self
            .log
            .read(self.now, ReadId(1), range, usize::MAX, &mut self.ops)
            .unwrap();
        match start {
            ReadStart::Ready(records) => records,
            ReadStart::Pending => {
                self.device.submit(&mut self.ops);
                self.settle();
                let read = self
                    .events
                    .iter()
                    .rposition(|e| matches!(e, LogEvent::RecordsRead { .. }));
                match self.events.remove(read.unwrap()) {
                    LogEvent::RecordsRead { result, .. } => result.unwrap(),
                    event @ (LogEvent::Flushed { .. }
                    | LogEvent::CutRecorded { .. }
                    | LogEvent::Failed { .. }) => panic!("{event:?}"),
                }
            }
        }
    }

    /// The LSNs reported flushed and the cuts reported, in order, since the last look.
    pub(crate) fn reports(&mut self) -> Vec<String> {
        let report = |event: LogEvent| match event {
            LogEvent::Flushed { through } => format!("flushed {through}"),
            LogEvent::CutRecorded { through } => format!("cut {through}"),
            LogEvent::RecordsRead { read, result } => {
                format!("read {} {:?}", read.0, result.map(|records| records.len()))
            }
            LogEvent::Failed { error, operation } => format!("failed {operation:?} {error:?}"),
        };
        self.events.drain(..).map(report).collect()
    }
}

/// Every frame that these operations write.
pub(crate) fn frames_in(ops: &[DeviceOp]) -> Vec<FrameHeader> {
    let frame = |op: &DeviceOp| match &op.kind {
        DeviceOpKind::Write(parts, _) => Some(FrameHeader::decode(parts[0].as_slice()).unwrap()),
        DeviceOpKind::Read(_) | DeviceOpKind::Flush | DeviceOpKind::Discard { .. } => None,
    };
    ops.iter().filter_map(frame).collect()
}

/// Every frame on the device, readable or not, by position.
pub(crate) fn frames_on(device: &Device) -> Vec<FrameHeader> {
    let ring = &device.durable[OFFSET as usize..];
    let blocks = ring.chunks_exact(BLOCK_SIZE);
    blocks
        .filter_map(|block| FrameHeader::decode(block).ok())
        .collect()
}
