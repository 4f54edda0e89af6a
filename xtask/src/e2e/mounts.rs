//! Guards over what outlives processes: FUSE mounts, loop devices, file systems.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::context::Context;
use crate::error::{During, Result, ensure};
use crate::interrupt::{Look, wait_for};
use crate::process::{Daemon, Tool};

/// An NBD export as one file, by nbdfuse. Dropping it unmounts it and ends nbdfuse.
#[derive(Debug)]
pub(crate) struct NbdFuse {
    file: PathBuf,
    process: Option<Daemon>,
}

impl NbdFuse {
    /// Mounts `uri` as a file in the scenario's directory.
    pub(crate) fn mount(ctx: &Context, uri: &str) -> Result<Self> {
        let file = ctx.path("disk.img");
        std::fs::write(&file, b"").during(format!("creating {}", file.display()))?;
        let args = [file.as_os_str(), uri.as_ref()];
        let process = Daemon::start(
            "nbdfuse",
            Path::new("/usr/bin/nbdfuse"),
            args,
            &ctx.path("nbdfuse.log"),
        )?;
        let mut mounted = Self {
            file,
            process: Some(process),
        };
        mounted.wait_ready()?;
        Ok(mounted)
    }

    fn wait_ready(&mut self) -> Result<()> {
        let (file, process) = (&self.file, &mut self.process);
        wait_for("nbdfuse's mount", Duration::from_secs(20), || {
            if let Some(process) = process {
                let ended = process.ended()?;
                ensure!(
                    ended.is_none(),
                    "nbdfuse has ended; see {}",
                    process.log().display()
                );
            }
            let size = std::fs::metadata(file)
                .map(|metadata| metadata.len())
                .unwrap_or(0);
            Ok(if size > 0 {
                Look::There(())
            } else {
                Look::NotYet("an empty file".to_owned())
            })
        })
    }

    /// The file.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// Unmounts it, flushing what it holds, and waits for nbdfuse to end.
    pub(crate) fn unmount(mut self) -> Result<()> {
        Tool::new("fusermount3")
            .arg("-u")
            .arg(&self.file)
            .succeed()?;
        if let Some(mut process) = self.process.take() {
            process.wait(Duration::from_secs(20))?;
        }
        Ok(())
    }
}

impl Drop for NbdFuse {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            quietly(Command::new("fusermount3").arg("-uz").arg(&self.file));
            process.kill();
        }
    }
}

/// A loop device. Dropping it detaches it.
#[derive(Debug)]
pub(crate) struct Loop {
    device: PathBuf,
    attached: bool,
}

impl Loop {
    /// Attaches a file.
    pub(crate) fn attach(file: &Path) -> Result<Self> {
        let finished = Tool::new("losetup")
            .args(["--find", "--show"])
            .arg(file)
            .succeed()?;
        Ok(Self {
            device: PathBuf::from(finished.stdout.trim()),
            attached: true,
        })
    }

    /// The device's path.
    pub(crate) fn device(&self) -> &Path {
        &self.device
    }

    /// Detaches it.
    pub(crate) fn detach(mut self) -> Result<()> {
        self.attached = false;
        Tool::new("losetup")
            .arg("--detach")
            .arg(&self.device)
            .succeed()
            .map(|_finished| ())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        if self.attached {
            quietly(Command::new("losetup").arg("--detach").arg(&self.device));
        }
    }
}

/// A mounted file system. Dropping it unmounts it.
#[derive(Debug)]
pub(crate) struct Mount {
    dir: PathBuf,
    mounted: bool,
}

impl Mount {
    /// Mounts with `mount ARGS.. DIR`.
    pub(crate) fn new(args: &[&str], dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir).during(format!("creating {}", dir.display()))?;
        Tool::new("mount").args(args).arg(dir).succeed()?;
        Ok(Self {
            dir: dir.to_owned(),
            mounted: true,
        })
    }

    /// Where it is mounted.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Unmounts it.
    pub(crate) fn unmount(mut self) -> Result<()> {
        Tool::new("umount").arg(&self.dir).succeed()?;
        self.mounted = false;
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.mounted {
            quietly(Command::new("umount").arg("--lazy").arg(&self.dir));
        }
    }
}

/// Clean-up on the way out: a failure here has nobody left to tell.
fn quietly(command: &mut Command) {
    let _best_effort = command.output();
}
