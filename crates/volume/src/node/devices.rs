//! Stores of this server: found, opened, formatted, removed.

use std::collections::{BTreeMap, BTreeSet};

use moorline_blockvol::{
    DeviceContent, Existing, Expect, FormatError, FormatParams, Formatting, Layout, OpenError,
    StoreIdentity, StoreOpening, StoreOptions,
};
use moorline_types::{
    AssignmentLine, ClusterId, DeviceDone, DeviceError, DeviceOp, Instant, StoreId, VolumeId,
};
use moorline_wire::control::{CreateStoreError, ServerToMaster};

use super::{Action, DeviceCreation, DeviceKey, Node};
use crate::{
    journal::Happening,
    replica::{Ctx, Origin, Replica},
};

/// The devices by their driver's names.
#[derive(Debug, Default)]
#[cfg_attr(feature = "simulation", derive(Clone))]
pub(super) struct Devices {
    states: BTreeMap<DeviceKey, State>,
    creating: BTreeMap<VolumeId, Creating>,
    deleting: BTreeMap<VolumeId, DeviceKey>,
    /// To be deleted as soon as they are made.
    unwanted: BTreeSet<VolumeId>,
    made: u64,
}

#[derive(Debug)]
#[cfg_attr(feature = "simulation", derive(Clone))]
struct Creating {
    line: AssignmentLine,
    log_bytes: u64,
}

#[cfg_attr(feature = "simulation", derive(Clone))]
enum State {
    Opening {
        opening: Box<StoreOpening>,
        origin: Origin,
        line: Option<AssignmentLine>,
        patience: Patience,
    },
    Formatting {
        formatting: Box<Formatting>,
        bytes: u64,
        line: AssignmentLine,
    },
    Open(VolumeId),
    /// It holds no store that this node may open.
    Refused,
}

/// Whether the server's registration waits for a store that is being opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Patience {
    Until(Instant),
    /// Its device does not answer, or its log is long: the other volumes go on without it.
    Gone,
}

/// A registration waits for an opening store for so many device operations' time: one that hangs,
/// and what was to follow it.
const PATIENCE_IN_OPERATIONS: u32 = 2;

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Opening { .. } => "Opening",
            Self::Formatting { .. } => "Formatting",
            Self::Open(_) => "Open",
            Self::Refused => "Refused",
        })
    }
}

impl Devices {
    /// Whether a store of the volume is being made: asked for, formatted, or opened for the first
    /// time.
    fn is_making(&self, volume: VolumeId) -> bool {
        let made_for = |state: &State| match state {
            State::Opening { line, .. } => line.as_ref().is_some_and(|line| line.volume == volume),
            State::Formatting { line, .. } => line.volume == volume,
            State::Open(_) | State::Refused => false,
        };
        self.creating.contains_key(&volume) || self.states.values().any(made_for)
    }

    /// How the openings of stores that were found are waited for.
    fn openings(&self) -> impl Iterator<Item = Patience> {
        self.states.values().filter_map(|state| match state {
            State::Opening {
                origin: Origin::Found,
                patience,
                ..
            } => Some(*patience),
            State::Opening { .. } | State::Formatting { .. } | State::Open(_) | State::Refused => {
                None
            }
        })
    }

    /// Stores that were found and are still being opened.
    pub(super) fn opening_count(&self) -> u32 {
        u32::try_from(self.openings().count()).unwrap_or(u32::MAX)
    }

    /// Whether the opening of a store that was found is still waited for.
    pub(super) fn any_opening(&self) -> bool {
        self.openings().any(|patience| patience != Patience::Gone)
    }

    /// When the first of them is waited for no longer.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let due = self.openings().filter_map(|patience| match patience {
            Patience::Until(at) => Some(at),
            Patience::Gone => None,
        });
        due.min()
    }

    /// Waits no longer for those that had their time.
    fn lose_patience(&mut self, now: Instant) -> Vec<DeviceKey> {
        let mut late = Vec::new();
        for (device, state) in &mut self.states {
            if let State::Opening {
                origin: Origin::Found,
                patience,
                ..
            } = state
                && matches!(*patience, Patience::Until(at) if at <= now)
            {
                *patience = Patience::Gone;
                late.push(*device);
            }
        }
        late
    }
}

impl Node {
    pub(super) fn device_found(
        &mut self,
        now: Instant,
        device: DeviceKey,
        bytes: u64,
        out: &mut Vec<Action>,
    ) {
        self.open_device(now, (device, bytes), Origin::Found, None, out);
    }

    /// Stores whose opening takes too long hold up nobody else: they join when they are open.
    pub(super) fn openings_deadline(&mut self, now: Instant, out: &mut Vec<Action>) {
        for device in self.devices.lose_patience(now) {
            Self::note(None, Happening::StoreOpeningLate { device }, out);
        }
        self.register_when_opened(out);
    }

    fn open_device(
        &mut self,
        now: Instant,
        (device, bytes): (DeviceKey, u64),
        origin: Origin,
        line: Option<AssignmentLine>,
        out: &mut Vec<Action>,
    ) {
        let mut options = StoreOptions::new(bytes, self.me.boot, self.me.pool.clone());
        options.expect = Some(Expect {
            cluster: self.config.cluster,
            volume: line.as_ref().map(|line| line.volume),
            server: self.me.server.clone(),
        });
        options.flusher = self.config.flusher;
        options.operation_timeout = self.config.operation_timeout;
        options.log_write_mode = self.config.log_write_mode;
        options.mutants = self.config.store_mutants;
        let mut ops = Vec::new();
        match StoreOpening::new(options, &mut ops) {
            Ok(opening) => {
                let patience = self.config.operation_timeout * PATIENCE_IN_OPERATIONS;
                let state = State::Opening {
                    opening: Box::new(opening),
                    origin,
                    line,
                    patience: Patience::Until(now.after(patience)),
                };
                self.devices.states.insert(device, state);
            }
            Err(error) => self.store_refused(device, &error, out),
        }
        push_ops(device, ops, out);
    }

    fn store_refused(&mut self, device: DeviceKey, error: &OpenError, out: &mut Vec<Action>) {
        self.devices.states.insert(device, State::Refused);
        let reason = error.to_string().into();
        Self::note(None, Happening::StoreRefused { reason }, out);
    }

    pub(super) fn device_done(
        &mut self,
        now: Instant,
        device: DeviceKey,
        done: DeviceDone,
        out: &mut Vec<Action>,
    ) {
        let mut ops = Vec::new();
        match self.devices.states.get_mut(&device) {
            Some(State::Open(volume)) => {
                let volume = *volume;
                self.with(now, volume, out, |replica, ctx| {
                    replica.on_device_done(ctx, done)
                });
            }
            Some(State::Opening {
                opening,
                origin,
                line,
                patience: _,
            }) => {
                let Some(result) = opening.on_done(now, done, &mut ops) else {
                    push_ops(device, ops, out);
                    return;
                };
                let (origin, line) = (*origin, line.take());
                push_ops(device, ops, out);
                self.devices.states.remove(&device);
                match result {
                    Ok((store, report)) => {
                        let links = &mut self.links;
                        let mut ctx = Ctx {
                            now,
                            me: &self.me,
                            links,
                            out,
                        };
                        let replica = Replica::new(&mut ctx, device, store, &report, origin);
                        self.store_opened(now, device, replica, line, out);
                    }
                    Err(error) => {
                        if let Some(line) = line {
                            let reason = CreateStoreError::DeviceFailed;
                            self.create_failed(line.volume, reason, out);
                        }
                        self.store_refused(device, &error, out);
                    }
                }
                self.settle_unwanted(out);
                self.register_when_opened(out);
            }
            Some(State::Formatting {
                formatting,
                bytes,
                line,
            }) => {
                let Some(result) = formatting.on_done(done, &mut ops) else {
                    push_ops(device, ops, out);
                    return;
                };
                let (bytes, line) = (*bytes, line.clone());
                push_ops(device, ops, out);
                match result {
                    Ok(()) => {
                        self.open_device(now, (device, bytes), Origin::Formatted, Some(line), out);
                    }
                    Err(error) => {
                        self.devices.states.insert(device, State::Refused);
                        self.create_failed(line.volume, create_error(&error), out);
                        out.push(Action::RemoveDevice { device });
                    }
                }
            }
            Some(State::Refused) | None => {}
        }
    }

    fn store_opened(
        &mut self,
        now: Instant,
        device: DeviceKey,
        mut replica: Replica,
        line: Option<AssignmentLine>,
        out: &mut Vec<Action>,
    ) {
        let volume = replica.volume();
        if self.volumes.contains_key(&volume) {
            self.devices.states.insert(device, State::Refused);
            let reason = "another store of this server holds the same volume: remove one".into();
            Self::note(Some(volume), Happening::StoreRefused { reason }, out);
            return;
        }
        self.devices.states.insert(device, State::Open(volume));
        if let Some(run) = self.master.run() {
            replica.on_master(run);
        }
        if let Some(line) = line {
            self.tell_created(&replica, out);
            self.volumes.insert(volume, replica);
            self.with(now, volume, out, |replica, ctx| {
                replica.on_assignment(ctx, line)
            });
        } else {
            self.volumes.insert(volume, replica);
            self.touched.insert(volume);
        }
        if self.is_stopping() {
            self.with(now, volume, out, |replica, ctx| replica.stop(ctx));
        }
        if self.devices.unwanted.remove(&volume) {
            self.delete_store(now, volume, out);
        }
    }

    /// The master asks for a store of a new volume. Asking again is answered again.
    pub(super) fn create_store(
        &mut self,
        line: AssignmentLine,
        log_bytes: u64,
        out: &mut Vec<Action>,
    ) {
        let volume = line.volume;
        if let Some(replica) = self.volumes.get(&volume) {
            let store = replica.store_report(&self.me);
            out.push(Action::TellMaster(ServerToMaster::CreatedStore {
                volume,
                store,
            }));
            return;
        }
        if self.devices.is_making(volume) {
            return;
        }
        let Some(layout) = Layout::new(line.size_blocks, log_bytes) else {
            self.create_failed(volume, CreateStoreError::BadLogSize, out);
            return;
        };
        let bytes = layout.device_bytes();
        self.devices
            .creating
            .insert(volume, Creating { line, log_bytes });
        out.push(Action::CreateDevice { volume, bytes });
    }

    fn create_failed(&mut self, volume: VolumeId, reason: CreateStoreError, out: &mut Vec<Action>) {
        self.devices.creating.remove(&volume);
        if self.devices.unwanted.remove(&volume) {
            out.push(Action::TellMaster(ServerToMaster::DeletedStore { volume }));
            return;
        }
        out.push(Action::TellMaster(ServerToMaster::CreateFailed {
            volume,
            reason,
        }));
    }

    pub(super) fn device_created(
        &mut self,
        volume: VolumeId,
        outcome: DeviceCreation,
        out: &mut Vec<Action>,
    ) {
        let Some(creating) = self.devices.creating.remove(&volume) else {
            return;
        };
        let (device, bytes) = match outcome {
            DeviceCreation::Made { device, bytes } => (device, bytes),
            DeviceCreation::NoRoom { need, have } => {
                self.create_failed(volume, CreateStoreError::NoRoom { need, have }, out);
                return;
            }
            DeviceCreation::Exists => {
                self.create_failed(volume, CreateStoreError::Occupied, out);
                return;
            }
            DeviceCreation::Refused { errno } => {
                self.create_failed(volume, CreateStoreError::Refused { errno }, out);
                return;
            }
        };
        let Some(cluster) = self.config.cluster else {
            self.create_failed(volume, CreateStoreError::DeviceFailed, out);
            return;
        };
        // A device that was there before holds anything; a file just made holds zeroes.
        let content = match self.devices.states.contains_key(&device) {
            true => DeviceContent::Unknown,
            false => DeviceContent::Zeroes,
        };
        let Creating { line, log_bytes } = creating;
        let params = FormatParams {
            identity: self.new_identity(cluster, &line),
            size_blocks: line.size_blocks,
            log_bytes,
            device_bytes: bytes,
            content,
            existing: Existing::Refuse,
            pool: self.me.pool.clone(),
        };
        let store = params.identity.store;
        let mut ops = Vec::new();
        match Formatting::new(params, &mut ops) {
            Ok(formatting) => {
                let formatting = Box::new(formatting);
                self.devices.states.insert(
                    device,
                    State::Formatting {
                        formatting,
                        bytes,
                        line,
                    },
                );
                Self::note(Some(volume), Happening::StoreCreated { store }, out);
            }
            Err(error) => {
                self.create_failed(volume, create_error(&error), out);
                out.push(Action::RemoveDevice { device });
            }
        }
        push_ops(device, ops, out);
    }

    fn new_identity(&mut self, cluster: ClusterId, line: &AssignmentLine) -> StoreIdentity {
        self.devices.made += 1;
        // The boot id is 128 random bits; a count within the boot tells its stores apart.
        let bits = self.me.boot.get().rotate_left(64) ^ u128::from(self.devices.made);
        StoreIdentity {
            cluster,
            volume: line.volume,
            volume_name: line.name.clone(),
            server: self.me.server.clone(),
            store: StoreId::new(bits),
        }
    }

    pub(super) fn delete_store(&mut self, now: Instant, volume: VolumeId, out: &mut Vec<Action>) {
        let Some(replica) = self.volumes.get(&volume) else {
            // A store that is still being opened may be this volume's.
            if self.devices.is_making(volume) || self.devices.opening_count() > 0 {
                self.devices.unwanted.insert(volume);
            } else {
                out.push(Action::TellMaster(ServerToMaster::DeletedStore { volume }));
            }
            return;
        };
        self.devices.deleting.insert(volume, replica.device());
        self.with(now, volume, out, |replica, ctx| replica.retire(ctx));
    }

    /// Once every store that was found is open or refused, what is to be deleted and not there is
    /// gone.
    fn settle_unwanted(&mut self, out: &mut Vec<Action>) {
        if self.devices.opening_count() > 0 {
            return;
        }
        for volume in std::mem::take(&mut self.devices.unwanted) {
            if self.devices.is_making(volume) {
                self.devices.unwanted.insert(volume);
            } else if !self.volumes.contains_key(&volume) {
                out.push(Action::TellMaster(ServerToMaster::DeletedStore { volume }));
            }
        }
    }

    /// Removes deleted stores that came to rest.
    pub(super) fn remove_retired(&mut self, out: &mut Vec<Action>) {
        let volumes = &self.volumes;
        let at_rest: Vec<VolumeId> = self
            .devices
            .deleting
            .keys()
            .filter(|volume| volumes.get(volume).is_none_or(Replica::is_at_rest))
            .copied()
            .collect();
        for volume in at_rest {
            let device = self.devices.deleting.remove(&volume).expect("just listed");
            self.volumes.remove(&volume);
            self.devices.states.remove(&device);
            out.push(Action::RemoveDevice { device });
            out.push(Action::TellMaster(ServerToMaster::DeletedStore { volume }));
        }
    }
}

fn create_error(error: &FormatError) -> CreateStoreError {
    match error {
        FormatError::DeviceTooSmall { need, have } => CreateStoreError::NoRoom {
            need: *need,
            have: *have,
        },
        FormatError::BadSize { .. } => CreateStoreError::BadLogSize,
        FormatError::AlreadyFormatted { .. } | FormatError::LooksFormatted { .. } => {
            CreateStoreError::Occupied
        }
        FormatError::Device(DeviceError::Full) => CreateStoreError::DiskFull,
        FormatError::Device(_) | FormatError::SuperblockFull => CreateStoreError::DeviceFailed,
    }
}

fn push_ops(device: DeviceKey, ops: Vec<DeviceOp>, out: &mut Vec<Action>) {
    out.extend(ops.into_iter().map(|op| Action::Device { device, op }));
}
