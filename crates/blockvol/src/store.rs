//! The store of one replica: superblocks, log, block map, extents and flusher behind one face.

impl Store {
    /// Who it is.
    pub fn identity(&self) -> &StoreIdentity;
    /// Raised at this open.
    pub fn open_count(&self) -> OpenCount;
    pub fn size_blocks(&self) -> BlockCount;
    pub fn pool(&self) -> &BufferPool;
    /// Last fully persisted in both superblocks / what the newest `persist` asked for.
    pub fn durable(&self) -> &Durable;
    pub fn pending(&self) -> &Durable;
    /// Queued; written at the next `submit`; StoreEvent::Persisted{ticket} when in both, durably. `committed` is the store's own: see set_committed.
    pub fn persist(&mut self, change: impl FnOnce(&mut Durable)) -> Ticket;
    /// lsn must be head + 1 (asserted).
    pub fn append(&mut self, record: Record) -> Result<(), AppendError>;
    pub fn log(&self) -> &Log;
    pub fn cut(&mut self, through: Lsn, ops: &mut Vec<DeviceOp>) -> Result<(), CutError>;
    /// Some = answered from memory; None = StoreEvent::RecordsRead comes.
    pub fn read_records(&mut self, read: ReadId, range: LsnRange, bytes_max: u64, ops: &mut Vec<DeviceOp>) -> Result<Option<Vec<Record>>, LogReadError>;
    pub fn pin(&mut self, after: Lsn, holder: PinHolder, since: Instant) -> Result<RetentionPin, PinRefused>;
    /// Monotonic; >= committed. Lower values are ignored.
    pub fn set_readable(&mut self, through: Lsn);
    /// Monotonic, clamped to head by the caller; raises readable too.
    pub fn set_committed(&mut self, through: Lsn);
    pub fn committed(&self) -> Lsn;
    pub fn readable(&self) -> Lsn;
    /// The lowest flushed frontier of the connected peers: kept in the log while it costs less than half of it.
    pub fn set_soft_horizon(&mut self, lowest_peer: Option<Lsn>);
    pub fn read(&mut self, token: ReadToken, range: BlockRange, view: ReadView, ops: &mut Vec<DeviceOp>) -> ReadOutcome<Vec<Segment>>;
    pub fn block_status(&mut self, token: ReadToken, range: BlockRange, ops: &mut Vec<DeviceOp>) -> ReadOutcome<Vec<StatusRun>>;
    /// Writes the right content of a damaged block in place; StoreEvent::Repaired.
    pub fn repair(&mut self, block: BlockIndex, lsn: Lsn, content: Payload, ops: &mut Vec<DeviceOp>) -> Result<(), RepairError>;
    pub fn submit(&mut self, now: Instant, ops: &mut Vec<DeviceOp>, events: &mut Vec<StoreEvent>);
    pub fn on_done(&mut self, now: Instant, done: DeviceDone, ops: &mut Vec<DeviceOp>, events: &mut Vec<StoreEvent>);
    pub fn next_deadline(&self) -> Option<Instant>;
    pub fn on_deadline(&mut self, now: Instant, ops: &mut Vec<DeviceOp>, events: &mut Vec<StoreEvent>);
    pub fn frontiers(&self) -> Frontiers; // { head, flushed, applied, checkpoint, tail, committed } all Lsn
    pub fn fill(&self) -> f64; // of the log, 0.0..=1.0
    pub fn dirty_bytes(&self) -> u64;
    pub fn failed(&self) -> Option<StoreFault>;
    /// Everything committed is applied, clean mark persisted -> StoreEvent::ShutDown. No append after it.
    pub fn shutdown(&mut self);
}

impl StoreOpening {
    pub fn new(options: StoreOptions /* device_bytes, boot, pool, expect: Option<Expect{cluster, volume, server}>, mutants cfg */, ops: &mut Vec<DeviceOp>) -> Self;
    pub fn on_done(&mut self, now: Instant, done: DeviceDone, ops: &mut Vec<DeviceOp>) -> Option<Result<(Store, OpenReport), OpenError>>;
}
