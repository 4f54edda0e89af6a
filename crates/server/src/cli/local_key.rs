//! How a command finds the key of a cluster that `moorline dev` runs for the same user.
//!
//! `dev` keeps its key in its own directory and leaves a copy, readable by its user only, in a file
//! named after the master's address, locked while `dev` runs. A command without `--cluster-key`
//! looks there. A file that nobody locks is of a `dev` that is gone, and is passed over.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use moorline_wire::hello::ClusterKey;
use rustix::fs::{FlockOperation, flock};

use super::args::HostPort;

/// Where this program keeps what outlives a run and belongs to one user:
/// `$XDG_STATE_HOME/moorline`, or `~/.local/state/moorline`; `None` for users without a home.
#[must_use]
pub fn state_dir() -> Option<PathBuf> {
    let absolute = |name: &str| {
        let path = PathBuf::from(std::env::var_os(name)?);
        path.is_absolute().then_some(path)
    };
    let base = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
    Some(base?.join("moorline"))
}

fn path_in(state_dir: &Path, master: &HostPort) -> PathBuf {
    let name: String = master
        .as_str()
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '.' {
                c
            } else {
                '_'
            }
        })
        .collect();
    state_dir.join("keys").join(format!("{name}.key"))
}

/// The key that a running `dev` left for the master at this address.
#[must_use]
pub fn find(master: &HostPort) -> Option<ClusterKey> {
    find_in(&state_dir()?, master)
}

fn find_in(state_dir: &Path, master: &HostPort) -> Option<ClusterKey> {
    let mut file = File::open(path_in(state_dir, master)).ok()?;
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        // Nobody holds it: left behind.
        Ok(()) => return None,
        Err(rustix::io::Errno::WOULDBLOCK) => {}
        Err(_) => return None,
    }
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    text.parse().ok()
}

/// A key left for commands; taken away again when this is dropped.
#[derive(Debug)]
#[must_use]
pub struct LocalKey {
    path: PathBuf,
    _locked: File,
}

impl LocalKey {
    /// Leaves `key` for commands that ask the master at `master`.
    ///
    /// # Errors
    ///
    /// If the file cannot be written, or another process holds it.
    pub fn leave(state_dir: &Path, master: &HostPort, key: &ClusterKey) -> io::Result<Self> {
        let path = path_in(state_dir, master);
        if let Some(parent) = path.parent() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(parent)?;
        }
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        file.set_len(0)?;
        file.write_all(key.to_hex().as_bytes())?;
        Ok(Self {
            path,
            _locked: file,
        })
    }
}

impl Drop for LocalKey {
    fn drop(&mut self) {
        // Not taken away it is merely unlocked, and so passed over.
        let _removed = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_while_it_is_held_and_not_after() {
        let dir = tempfile::tempdir().unwrap();
        let master: HostPort = "[::1]:9400".parse().unwrap();
        let other: HostPort = "[::1]:9401".parse().unwrap();
        let key = ClusterKey::new([7; 32]);
        let left = LocalKey::leave(dir.path(), &master, &key).unwrap();
        assert_eq!(find_in(dir.path(), &master), Some(key.clone()));
        assert_eq!(find_in(dir.path(), &other), None);
        assert!(LocalKey::leave(dir.path(), &master, &key).is_err());
        drop(left);
        assert_eq!(find_in(dir.path(), &master), None);
    }

    #[test]
    fn a_key_of_a_process_that_is_gone_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let master: HostPort = "127.0.0.1:9400".parse().unwrap();
        let path = path_in(dir.path(), &master);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, ClusterKey::new([7; 32]).to_hex()).unwrap();
        assert_eq!(find_in(dir.path(), &master), None);
    }
}
