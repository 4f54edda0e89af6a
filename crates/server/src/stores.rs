//! Where a server's stores lie: scanned at start, made and removed when asked.
//!
//! ```text
//! DIR/server.json            whose directory this is: server id, cluster id
//! DIR/server.lock            held while a server runs on it
//! DIR/stores/<volume>.store  one file a volume, locked while it is open
//! ```

use std::{
    fs::{self, File},
    io::{self, Write},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use moorline_blockvol::{
    LOG_OFFSET,
    device::{
        CreateFile, DeviceSet, DeviceTag, IoPath, OpenDeviceError, RemoveError, StoreFile,
        open_store,
    },
};
use moorline_types::{BLOCK_SIZE, ClusterId, PageBuf, ServerId, VolumeId};
use moorline_volume::{DeviceCreation, DeviceKey};
use rustix::fs::{FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::{
    causes::Causes,
    config::StoreLocation,
    inbox::{News, Teller},
};

const IDENTITY: &str = "server.json";
const LOCK: &str = "server.lock";
const STORES: &str = "stores";
const EXTENSION: &str = "store";

/// What has to be zero on a device that nothing lies on, in pages: all before a store's log. File systems,
/// partition tables, volume managers and arrays put their marks there as well.
const FRONT_PAGES: usize = (2 << 20) / BLOCK_SIZE;
const _: () = assert!((FRONT_PAGES * BLOCK_SIZE) as u64 == LOG_OFFSET);

/// How long a store may stay locked by a process that is gone. Under load the last operations of a ring take
/// seconds; a disk that takes longer is one that the server would give up anyway.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
const LOCK_INTERVAL: Duration = Duration::from_millis(20);

/// Why a server's directory or device cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoresError {
    /// Another server runs on the directory.
    #[error("another server runs on {dir}: stop it first, or give this one its own directory")]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// It is another server's.
    #[error("{dir} belongs to server {owner}, not to {ours}: give each server its own directory")]
    OtherServer {
        /// The directory.
        dir: PathBuf,
        /// Whose it is.
        owner: ServerId,
        /// Who wants it.
        ours: ServerId,
    },
    /// The file that says whose it is cannot be understood.
    #[error("{path} is damaged: restore it, or remove it if the directory is this server's")]
    BadIdentity {
        /// The file.
        path: PathBuf,
        /// Where it went wrong.
        #[source]
        source: serde_json::Error,
    },
    /// A store cannot be opened.
    #[error(transparent)]
    Store(#[from] OpenDeviceError),
    /// The operating system refused.
    #[error("cannot use {path}")]
    Io {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What is remembered of a server beside its stores.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
struct Identity {
    server_id: ServerId,
    cluster_id: Option<ClusterId>,
}

/// A file that was just made for a store.
#[derive(Debug)]
pub(crate) struct Created(StoreFile);

/// Where the stores of this server lie.
#[derive(Debug)]
pub(crate) struct Stores {
    location: StoreLocation,
    identity: Identity,
    /// Held for as long as the server runs.
    _lock: Option<OwnedFd>,
    next_key: u32,
    /// The one device that stores lie on, where they do not lie in files.
    whole_device: Option<DeviceKey>,
    /// Devices to be removed that still had operations in flight.
    leaving: Vec<DeviceKey>,
}

/// A store's device that was found at start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) device: DeviceKey,
    pub(crate) bytes: u64,
}

impl Stores {
    /// Takes possession of a directory, which is made if need be, or of a device.
    pub(crate) fn open(location: StoreLocation, server: &ServerId) -> Result<Self, StoresError> {
        let ours = Identity {
            server_id: server.clone(),
            cluster_id: None,
        };
        let (identity, lock) = match &location {
            StoreLocation::Device(_) => (ours, None),
            StoreLocation::Dir(dir) => {
                let fail = |path: &Path, source| StoresError::Io {
                    path: path.to_owned(),
                    source,
                };
                let stores = dir.join(STORES);
                fs::create_dir_all(&stores).map_err(|source| fail(&stores, source))?;
                let lock = lock_directory(dir)?;
                let identity = read_identity(dir)?.unwrap_or(ours);
                if identity.server_id != *server {
                    return Err(StoresError::OtherServer {
                        dir: dir.clone(),
                        owner: identity.server_id,
                        ours: server.clone(),
                    });
                }
                write_identity(dir, &identity).map_err(|source| fail(dir, source))?;
                (identity, Some(lock))
            }
        };
        Ok(Self {
            location,
            identity,
            _lock: lock,
            next_key: 0,
            whole_device: None,
            leaving: Vec::new(),
        })
    }

    /// The cluster that the stores belong to, if they belong to one.
    pub(crate) fn cluster(&self) -> Option<ClusterId> {
        self.identity.cluster_id
    }

    /// Remembers the cluster at the first time that it is known.
    pub(crate) fn joined(&mut self, cluster: ClusterId) {
        let StoreLocation::Dir(dir) = &self.location else {
            return;
        };
        if self.identity.cluster_id.is_some() {
            return;
        }
        self.identity.cluster_id = Some(cluster);
        if let Err(error) = write_identity(dir, &self.identity) {
            tracing::error!(dir = %dir.display(), %error, "cannot note down the cluster");
        }
    }

    /// Opens and locks every store there is.
    pub(crate) fn scan(&mut self, devices: &mut dyn DeviceSet) -> Result<Vec<Found>, StoresError> {
        let paths = match &self.location {
            StoreLocation::Device(path) => vec![path.clone()],
            StoreLocation::Dir(dir) => {
                let stores = dir.join(STORES);
                store_files(&stores).map_err(|source| StoresError::Io {
                    path: stores,
                    source,
                })?
            }
        };
        let mut found = Vec::new();
        for path in paths {
            let file = open_patiently(&path)?;
            let bytes = file.bytes();
            let device = self.adopt(file, devices);
            if matches!(self.location, StoreLocation::Device(_)) {
                self.whole_device = Some(device);
                let (content, _) = look_at(&path).map_err(|source| StoresError::Io {
                    path: path.clone(),
                    source,
                })?;
                if content == Content::Blank {
                    tracing::info!(path = %path.display(), "nothing lies there yet: it waits for a volume");
                    continue;
                }
            }
            found.push(Found { device, bytes });
        }
        Ok(found)
    }

    fn adopt(&mut self, file: StoreFile, devices: &mut dyn DeviceSet) -> DeviceKey {
        let device = DeviceKey::new(self.next_key);
        self.next_key += 1;
        match file.io_path() {
            IoPath::Direct => {
                tracing::info!(path = %file.path().display(), "opened, past the page cache");
            }
            IoPath::Buffered(reason) => tracing::warn!(
                path = %file.path().display(),
                %reason,
                "opened through the page cache: slower, and as durable"
            ),
        }
        devices.add(DeviceTag::new(device.get()), file);
        device
    }

    /// Makes the file of a new store beside the driver, which hears of it.
    pub(crate) fn create(&self, volume: VolumeId, bytes: u64, teller: &Teller) {
        let location = self.location.clone();
        let teller = teller.clone();
        drop(tokio::task::spawn_blocking(move || {
            let outcome = match location {
                StoreLocation::Dir(dir) => {
                    let path = dir.join(STORES).join(format!("{volume}.{EXTENSION}"));
                    make(&path, bytes)
                }
                // The device is open already; what lies on it is looked at by `created`.
                StoreLocation::Device(_) => Err(DeviceCreation::Exists),
            };
            drop(teller.send(News::DeviceMade { volume, outcome }));
        }));
    }

    /// Whether stores lie on one device, which is handed out by [`Stores::hand_out`] instead of made.
    pub(crate) fn is_whole_device(&self) -> bool {
        matches!(self.location, StoreLocation::Device(_))
    }

    /// Hands out the one device for a new store, if nothing lies on it.
    pub(crate) fn hand_out(&self, bytes: u64) -> DeviceCreation {
        let (Some(device), StoreLocation::Device(path)) = (self.whole_device, &self.location)
        else {
            return DeviceCreation::Exists;
        };
        let refused = |error: &io::Error| DeviceCreation::Refused {
            errno: error.raw_os_error().unwrap_or(0),
        };
        match look_at(path) {
            Ok((_, have)) if have < bytes => DeviceCreation::NoRoom { need: bytes, have },
            Ok((Content::Blank, bytes)) => DeviceCreation::Made { device, bytes },
            Ok((Content::Something, _)) => DeviceCreation::Exists,
            Err(error) => refused(&error),
        }
    }

    /// Takes in a file that was made.
    pub(crate) fn created(
        &mut self,
        outcome: Result<Created, DeviceCreation>,
        devices: &mut dyn DeviceSet,
    ) -> DeviceCreation {
        match outcome {
            Ok(Created(file)) => {
                let bytes = file.bytes();
                let device = self.adopt(file, devices);
                DeviceCreation::Made { device, bytes }
            }
            Err(outcome) => outcome,
        }
    }

    /// Closes a device and removes its file. A whole device stays, with what lies on it.
    pub(crate) fn remove(&mut self, device: DeviceKey, devices: &mut dyn DeviceSet) {
        if self.whole_device == Some(device) {
            tracing::warn!("the device keeps what lies on it: wipe it before it is used again");
            return;
        }
        self.leaving.push(device);
        self.remove_idle(devices);
    }

    /// Removes what was to be removed and is idle by now.
    pub(crate) fn remove_idle(&mut self, devices: &mut dyn DeviceSet) {
        self.leaving.retain(
            |device| match devices.remove(DeviceTag::new(device.get())) {
                Err(RemoveError::InFlight { .. }) => true,
                Err(RemoveError::Unknown { .. }) => false,
                Ok(file) => {
                    drop(tokio::task::spawn_blocking(move || remove_file(file)));
                    false
                }
            },
        );
    }
}

/// Opens a store that may still be locked by the ring of a process that was killed: the kernel lets go of it when
/// what the ring had in flight is done, which is after the process is gone.
fn open_patiently(path: &Path) -> Result<StoreFile, OpenDeviceError> {
    let until = Instant::now() + LOCK_PATIENCE;
    loop {
        match open_store(path, CreateFile::Existing) {
            Err(OpenDeviceError::AlreadyLocked { .. }) if Instant::now() < until => {
                std::thread::sleep(LOCK_INTERVAL);
            }
            outcome => return outcome,
        }
    }
}

fn make(path: &Path, bytes: u64) -> Result<Created, DeviceCreation> {
    let file = open_store(path, CreateFile::New { bytes });
    file.map(Created).map_err(|error| {
        tracing::error!(path = %path.display(), error = %Causes(&error), "cannot make a store");
        match error {
            OpenDeviceError::Exists { .. } => DeviceCreation::Exists,
            OpenDeviceError::TooSmall { need, have, .. } => DeviceCreation::NoRoom { need, have },
            OpenDeviceError::NoSpace { .. } => DeviceCreation::NoRoom {
                need: bytes,
                have: room_at(path),
            },
            OpenDeviceError::NotFound { .. }
            | OpenDeviceError::AlreadyLocked { .. }
            | OpenDeviceError::Permission { .. }
            | OpenDeviceError::NotBlocks { .. }
            | OpenDeviceError::LargeSectors { .. }
            | OpenDeviceError::Io { .. } => DeviceCreation::Refused {
                errno: error.errno(),
            },
        }
    })
}

fn remove_file(file: StoreFile) {
    let path = file.path().to_owned();
    match file.remove() {
        Ok(()) => tracing::info!(path = %path.display(), "removed"),
        Err(error) => {
            tracing::error!(path = %path.display(), error = %Causes(&error), "cannot remove a store")
        }
    }
}

/// Free bytes in the file system of `path`.
fn room_at(path: &Path) -> u64 {
    let parent = path.parent().unwrap_or(path);
    rustix::fs::statvfs(parent).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Content {
    Blank,
    Something,
}

/// Whether anything lies at the front of a device, where a store has its superblocks and other users of
/// disks theirs, and how large it is.
fn look_at(path: &Path) -> io::Result<(Content, u64)> {
    let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let bytes = rustix::fs::seek(&fd, rustix::fs::SeekFrom::End(0))?;
    let mut front = PageBuf::zeroed(FRONT_PAGES);
    let mut at = 0;
    while let left = &mut front.as_mut_slice()[at..]
        && !left.is_empty()
    {
        match rustix::io::pread(&fd, left, at as u64)? {
            0 => break,
            count => at += count,
        }
    }
    let is_blank = front.as_slice()[..at].iter().all(|byte| *byte == 0);
    let content = if is_blank {
        Content::Blank
    } else {
        Content::Something
    };
    Ok((content, bytes))
}

/// The store files in a directory, by name.
fn store_files(stores: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(stores)? {
        let path = entry?.path();
        let is_volume = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .is_some_and(|stem| stem.parse::<VolumeId>().is_ok());
        if is_volume && path.extension().is_some_and(|e| e == EXTENSION) {
            paths.push(path);
        } else {
            tracing::warn!(path = %path.display(), "this is no store and is left alone");
        }
    }
    paths.sort();
    Ok(paths)
}

fn lock_directory(dir: &Path) -> Result<OwnedFd, StoresError> {
    let path = dir.join(LOCK);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
    let fail = |errno: rustix::io::Errno| StoresError::Io {
        path: path.clone(),
        source: errno.into(),
    };
    let lock = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR).map_err(fail)?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StoresError::InUse {
            dir: dir.to_owned(),
        }),
        Err(errno) => Err(fail(errno)),
    }
}

fn read_identity(dir: &Path) -> Result<Option<Identity>, StoresError> {
    let path = dir.join(IDENTITY);
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|source| StoresError::BadIdentity { path, source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StoresError::Io { path, source }),
    }
}

/// Writes the file anew: after a power cut there is the old one or the new one.
fn write_identity(dir: &Path, identity: &Identity) -> io::Result<()> {
    let fresh = dir.join(format!("{IDENTITY}.new"));
    let mut file = File::create(&fresh)?;
    serde_json::to_writer_pretty(&mut file, identity)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(&fresh, dir.join(IDENTITY))?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use moorline_blockvol::device::{Access, open_set};

    use super::*;
    use crate::inbox::inbox;

    fn server(name: &str) -> ServerId {
        name.parse().unwrap()
    }

    #[test]
    fn a_directory_belongs_to_one_server_and_one_process() {
        let dir = tempfile::tempdir().unwrap();
        let location = StoreLocation::Dir(dir.path().join("deep/s1"));
        let mut stores = Stores::open(location.clone(), &server("s1")).unwrap();
        assert!(matches!(
            Stores::open(location.clone(), &server("s1")),
            Err(StoresError::InUse { .. })
        ));
        stores.joined(ClusterId::new(9));
        drop(stores);
        assert!(matches!(
            Stores::open(location.clone(), &server("s2")),
            Err(StoresError::OtherServer { .. })
        ));
        let stores = Stores::open(location, &server("s1")).unwrap();
        assert_eq!(stores.cluster(), Some(ClusterId::new(9)));
    }

    #[tokio::test]
    async fn a_store_that_was_made_is_found_again_until_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let location = StoreLocation::Dir(dir.path().to_owned());
        let (teller, mut inbox) = inbox();
        let (mut devices, _) = open_set(Access::Sync).unwrap();
        let mut stores = Stores::open(location, &server("s1")).unwrap();
        assert!(stores.scan(&mut *devices).unwrap().is_empty());
        for wanted in ["made", "exists"] {
            stores.create(VolumeId::new(5), 1 << 20, &teller);
            let Some(News::DeviceMade { outcome, .. }) = inbox.recv().await else {
                panic!("an answer to the request");
            };
            let made = stores.created(outcome, &mut *devices);
            let device = DeviceKey::new(0);
            let want = match wanted {
                "made" => DeviceCreation::Made {
                    device,
                    bytes: 1 << 20,
                },
                _ => DeviceCreation::Exists,
            };
            assert_eq!(made, want);
        }
        fs::write(dir.path().join(STORES).join("notes.txt"), "mine").unwrap();
        assert_eq!(store_files(&dir.path().join(STORES)).unwrap().len(), 1);
        stores.remove(DeviceKey::new(0), &mut *devices);
        while !store_files(&dir.path().join(STORES)).unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn a_device_is_handed_out_while_nothing_lies_on_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("device");
        fs::write(&path, vec![0; 4 << 20]).unwrap();
        let (mut devices, _) = open_set(Access::Sync).unwrap();
        let mut stores = Stores::open(StoreLocation::Device(path.clone()), &server("s1")).unwrap();
        let found = stores.scan(&mut *devices).unwrap();
        assert!(found.is_empty(), "nothing to be opened lies there");
        assert!(matches!(
            stores.hand_out(8 << 20),
            DeviceCreation::NoRoom { .. }
        ));
        assert!(matches!(
            stores.hand_out(4 << 20),
            DeviceCreation::Made { .. }
        ));
        // A store's superblocks, and where file systems and disk managers have theirs.
        for offset in [0, 1 << 20, 1024, 4096, 64 << 10] {
            let mut bytes = vec![0; 4 << 20];
            bytes[offset] = 1;
            fs::write(&path, bytes).unwrap();
            let outcome = stores.hand_out(4 << 20);
            assert_eq!(outcome, DeviceCreation::Exists, "at {offset}");
        }
    }
}
