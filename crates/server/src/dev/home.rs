//! The directory of a `dev`: its lock, the cluster's key, and the ports of the servers.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Seek, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use moorline_wire::hello::{ClusterKey, ParseKeyError};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::DevError;
use crate::cli::master_client::random_bytes;

/// Where ports of servers are looked for: below what systems give to outgoing connections, which
/// would otherwise take a server's port while it restarts.
const PORTS: std::ops::Range<u16> = 12_000..20_000;

/// Servers of a new directory.
const SERVERS_DEFAULT: u32 = 3;

/// A log longer than this is put aside when `dev` starts.
const LOG_BYTES_MAX: u64 = 16 << 20;

/// A locked directory.
#[derive(Debug)]
pub(super) struct Home {
    dir: PathBuf,
    key: ClusterKey,
    _lock: File,
}

/// The addresses of the servers, kept so that a restart finds them again.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ports {
    pub(super) servers: Vec<ServerPorts>,
}

/// The addresses of one server.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ServerPorts {
    pub(super) id: String,
    pub(super) data: SocketAddr,
    pub(super) control: SocketAddr,
}

impl Home {
    /// Makes the directory if need be and locks it.
    pub(super) fn open(dir: &Path) -> Result<Self, DevError> {
        make_dir(dir)?;
        // Children are told absolute paths: their errors then name files that can be found.
        let dir = fs::canonicalize(dir).map_err(file_error("find", dir))?;
        let lock = lock(&dir)?;
        let key = key_at(&dir.join("cluster.key"))?;
        Ok(Self {
            dir,
            key,
            _lock: lock,
        })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn key(&self) -> &ClusterKey {
        &self.key
    }

    pub(super) fn log_path(&self, child: &str) -> PathBuf {
        self.dir.join(format!("{child}.log"))
    }

    /// Puts a long log aside, so that old ones do not fill the disk.
    pub(super) fn rotate_log(&self, child: &str) -> Result<(), DevError> {
        let path = self.log_path(child);
        match fs::metadata(&path) {
            Ok(about) if about.len() > LOG_BYTES_MAX => {
                fs::rename(&path, self.dir.join(format!("{child}.log.old")))
                    .map_err(file_error("put aside", &path))
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// The addresses of at least `count` servers: those of the last run where they are free, new
    /// ones for the rest. Servers of the last run stay, also when fewer are asked for: they hold
    /// replicas.
    pub(super) fn ports(&self, count: Option<u32>) -> Result<Ports, DevError> {
        let path = self.dir.join("dev.toml");
        let before = read_ports(&path)?;
        let count = match count {
            Some(count) => count,
            None if before.servers.is_empty() => SERVERS_DEFAULT,
            None => 0,
        };
        let ports = choose_ports(before.clone(), count)?;
        if ports != before {
            let text = toml::to_string(&ports).expect("addresses can be written as TOML");
            let text = format!(
                "# Written by `moorline dev`: where its servers listen. Without it others are chosen.\n{text}"
            );
            write_durably(&path, text.as_bytes(), 0o600)?;
        }
        Ok(ports)
    }
}

fn file_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DevError {
    let path = path.to_owned();
    move |source| DevError::File { what, path, source }
}

pub(super) fn make_dir(dir: &Path) -> Result<(), DevError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(file_error("make", dir))
}

fn lock(dir: &Path) -> Result<File, DevError> {
    let path = dir.join("dev.lock");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .map_err(file_error("open", &path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut text = String::new();
            let _read = file.read_to_string(&mut text);
            return Err(DevError::InUse {
                dir: dir.to_owned(),
                pid: text.trim().parse().ok(),
            });
        }
        Err(errno) => return Err(file_error("lock", &path)(errno.into())),
    }
    let noted = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()));
    noted.map_err(file_error("write", &path))?;
    Ok(file)
}

/// The key of the directory, made at the first start.
fn key_at(path: &Path) -> Result<ClusterKey, DevError> {
    match fs::read_to_string(path) {
        Ok(text) => text
            .parse()
            .map_err(|error: ParseKeyError| DevError::Damaged {
                path: path.to_owned(),
                reason: error.to_string(),
            }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let random = random_bytes().map_err(file_error("make", path))?;
            let key = ClusterKey::new(random);
            write_durably(path, format!("{}\n", key.to_hex()).as_bytes(), 0o600)?;
            Ok(key)
        }
        Err(error) => Err(file_error("read", path)(error)),
    }
}

/// Writes a whole file or none, and the name with it.
fn write_durably(path: &Path, content: &[u8], mode: u32) -> Result<(), DevError> {
    let beside = path.with_extension("new");
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(mode)
            .open(&beside)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        match path.parent() {
            Some(parent) => File::open(parent)?.sync_all(),
            None => Ok(()),
        }
    };
    write().map_err(file_error("write", path))
}

fn read_ports(path: &Path) -> Result<Ports, DevError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ports::default()),
        Err(error) => return Err(file_error("read", path)(error)),
    };
    toml::from_str(&text).map_err(|error| DevError::Damaged {
        path: path.to_owned(),
        reason: error.message().to_owned(),
    })
}

fn choose_ports(mut ports: Ports, count: u32) -> Result<Ports, DevError> {
    // Held until all are chosen, so that none is chosen twice.
    let mut held = Vec::new();
    let start = u16::from_le_bytes({
        let random = random_bytes().map_err(|source| DevError::Setup {
            what: "choose ports",
            source,
        })?;
        [random[0], random[1]]
    });
    let mut candidates = PORTS
        .cycle()
        .skip(usize::from(start % (PORTS.end - PORTS.start)))
        .take(PORTS.len());
    let mut next = |held: &mut Vec<TcpListener>| -> Result<SocketAddr, DevError> {
        let found = candidates.find_map(|port| {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            Some((address, TcpListener::bind(address).ok()?))
        });
        let (address, listener) = found.ok_or(DevError::NoPort)?;
        held.push(listener);
        Ok(address)
    };
    for server in &mut ports.servers {
        for address in [&mut server.data, &mut server.control] {
            match TcpListener::bind(*address) {
                Ok(listener) => held.push(listener),
                Err(_) => *address = next(&mut held)?,
            }
        }
    }
    for number in ports.servers.len() + 1..=usize::try_from(count).unwrap_or(usize::MAX) {
        ports.servers.push(ServerPorts {
            id: format!("s{number}"),
            data: next(&mut held)?,
            control: next(&mut held)?,
        });
    }
    Ok(ports)
}

/// Makes sure that `address` can be listened on; with port 0, which one it is.
pub(super) fn free(address: SocketAddr) -> io::Result<SocketAddr> {
    TcpListener::bind(address)?.local_addr()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_used_by_one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(dir.path()).unwrap();
        match Home::open(dir.path()) {
            Err(DevError::InUse { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("{other:?}"),
        }
        let key = home.key().clone();
        drop(home);
        assert_eq!(Home::open(dir.path()).unwrap().key(), &key);
    }

    #[test]
    fn ports_stay_the_same_unless_somebody_took_them() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(dir.path()).unwrap();
        let first = home.ports(Some(2)).unwrap();
        assert_eq!(home.ports(None).unwrap(), first);
        let taken = TcpListener::bind(first.servers[0].data).unwrap();
        let second = home.ports(Some(3)).unwrap();
        drop(taken);
        assert_ne!(second.servers[0].data, first.servers[0].data);
        assert_eq!(second.servers[1], first.servers[1]);
        assert_eq!(second.servers[2].id, "s3");
        // Fewer servers would leave replicas without one.
        assert_eq!(home.ports(Some(1)).unwrap(), second);
    }

    #[test]
    fn a_damaged_note_of_ports_is_said_to_be_harmless() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(dir.path()).unwrap();
        fs::write(dir.path().join("dev.toml"), "servers = 3\n").unwrap();
        let error = home.ports(None).unwrap_err();
        assert!(matches!(error, DevError::Damaged { .. }), "{error}");
        assert!(error.advice().unwrap().contains("dev.toml"));
    }

    #[test]
    fn a_damaged_key_is_said_to_be_harmless() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cluster.key"), "zz\n").unwrap();
        let error = Home::open(dir.path()).unwrap_err();
        assert!(matches!(error, DevError::Damaged { .. }), "{error}");
        assert!(error.advice().unwrap().contains("cluster.key"));
    }

    #[test]
    fn the_key_is_for_its_user_only() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(dir.path()).unwrap();
        let about = fs::metadata(home.path("cluster.key")).unwrap();
        assert_eq!(about.permissions().mode() & 0o777, 0o600);
    }
}
