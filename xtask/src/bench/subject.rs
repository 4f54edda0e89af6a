//! What is measured: a file, qemu-nbd over a file, volumes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::fio::{Target, fill};
use crate::e2e::cluster::{Cluster, VOLUME};
use crate::e2e::context::Context;
use crate::e2e::spec::Spec;
use crate::error::{During, Result, fail};
use crate::interrupt::{Look, wait_for};
use crate::process::Daemon;

/// The subjects, in the order of tables.
pub(super) const NAMES: &[&str] = &[RAW, QEMU, ONE, THREE];
pub(super) const RAW: &str = "raw";
pub(super) const QEMU: &str = "qemu-nbd";
pub(super) const ONE: &str = "one";
pub(super) const THREE: &str = "three";

/// Every subject is as large as fio's jobs.
const BYTES: u64 = 1 << 30;

/// One subject; at most one is started at a time.
pub(super) enum Subject<'a> {
    Raw {
        file: PathBuf,
    },
    Qemu {
        file: PathBuf,
        address: SocketAddr,
        process: Option<Daemon>,
    },
    Volume {
        name: &'static str,
        cluster: Box<Cluster<'a>>,
        stopped: Stopped,
    },
}

/// Whether a cluster has to be started before it is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopped {
    Yes,
    No,
}

impl<'a> Subject<'a> {
    /// Makes it, fills it, and leaves it stopped.
    pub(super) fn prepare(ctx: &'a Context, name: &'static str) -> Result<Self> {
        let mut subject = match name {
            RAW => Self::Raw {
                file: preallocated(&ctx.path("raw.img"))?,
            },
            QEMU => Self::Qemu {
                file: preallocated(&ctx.path("qemu.img"))?,
                address: ctx.address()?,
                process: None,
            },
            ONE => Self::volume(ctx, ONE, 1)?,
            THREE => Self::volume(ctx, THREE, 3)?,
            other => fail!("there is no subject {other:?}"),
        };
        subject.start(ctx)?;
        fill(&subject.target()?)?;
        subject.stop()?;
        Ok(subject)
    }

    fn volume(ctx: &'a Context, name: &'static str, replicas: usize) -> Result<Self> {
        let spec = Spec {
            size: "1GiB",
            ..Spec::dirs_named(ctx, &format!("{name}-"), replicas)
        };
        let master = if replicas == 1 {
            "master-one"
        } else {
            "master-three"
        };
        let cluster = Cluster::start_named(ctx, spec, master)?;
        cluster.create_volume()?;
        cluster.wait_level()?;
        Ok(Self::Volume {
            name,
            cluster: Box::new(cluster),
            stopped: Stopped::No,
        })
    }

    /// Its name in tables.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Raw { .. } => RAW,
            Self::Qemu { .. } => QEMU,
            Self::Volume { name, .. } => name,
        }
    }

    /// What fio is given.
    pub(super) fn target(&self) -> Result<Target> {
        Ok(match self {
            Self::Raw { file } => Target::File(file.clone()),
            Self::Qemu { address, .. } => Target::Nbd(format!("nbd://{address}/{VOLUME}")),
            Self::Volume { cluster, .. } => Target::Nbd(cluster.uri()?),
        })
    }

    /// Gets it going.
    pub(super) fn start(&mut self, ctx: &Context) -> Result<()> {
        match self {
            Self::Raw { .. } => Ok(()),
            Self::Qemu {
                file,
                address,
                process,
            } => {
                *process = Some(start_qemu(ctx, file, *address)?);
                Ok(())
            }
            Self::Volume {
                cluster, stopped, ..
            } => {
                if *stopped == Stopped::Yes {
                    cluster.start_master()?;
                    for at in 0..cluster.servers.len() {
                        cluster.start_server(at)?;
                    }
                    *stopped = Stopped::No;
                }
                cluster.wait_level().map(|_status| ())
            }
        }
    }

    /// Ends its processes.
    pub(super) fn stop(&mut self) -> Result<()> {
        match self {
            Self::Raw { .. } => Ok(()),
            Self::Qemu { process, .. } => {
                if let Some(mut process) = process.take() {
                    process.stop(Duration::from_secs(20))?;
                }
                Ok(())
            }
            Self::Volume {
                cluster, stopped, ..
            } => {
                *stopped = Stopped::Yes;
                cluster.stop()
            }
        }
    }
}

/// A file with all its blocks allocated.
fn preallocated(path: &Path) -> Result<PathBuf> {
    let file = std::fs::File::create(path).during(format!("creating {}", path.display()))?;
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, BYTES)
        .during(format!("allocating {}", path.display()))?;
    Ok(path.to_owned())
}

fn start_qemu(ctx: &Context, file: &Path, address: SocketAddr) -> Result<Daemon> {
    let args = [
        "--format=raw".to_owned(),
        "--cache=none".to_owned(),
        "--aio=io_uring".to_owned(),
        "--persistent".to_owned(),
        format!("--export-name={VOLUME}"),
        format!("--bind={}", address.ip()),
        format!("--port={}", address.port()),
        file.display().to_string(),
    ];
    let process = Daemon::start(
        "qemu-nbd",
        Path::new("/usr/bin/qemu-nbd"),
        args,
        &ctx.path("qemu-nbd.log"),
    )?;
    wait_for("qemu-nbd listening", Duration::from_secs(10), || {
        Ok(match std::net::TcpStream::connect(address) {
            Ok(_stream) => Look::There(()),
            Err(error) => Look::NotYet(error.to_string()),
        })
    })?;
    Ok(process)
}
