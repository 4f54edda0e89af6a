//! The daemon: mounts the file system, attaches loop devices, obeys the control socket, clears all up.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fuser::{Config, MountOption, Session};
use parking_lot::Mutex;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::command::{Command, Reply, Target};
use crate::disk::{Disk, Power, cut_together};
use crate::error::RigError;
use crate::fs::RigFs;
use crate::loopdev;
use crate::tear::CutMode;

/// Threads that answer the kernel. The work of one request is a copy, so few saturate the machine.
const WORKERS: usize = 4;

/// What a daemon serves, and where.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// Where the files `disk0`, `disk1`, ... appear. Made if absent; what an earlier daemon left there is cleared.
    pub mount: PathBuf,
    /// The durable image of each disk: made of zeros if absent.
    pub images: Vec<PathBuf>,
    /// The size of each disk, in bytes: a multiple of 4096.
    pub size_bytes: u64,
    /// Where commands are taken.
    pub control: PathBuf,
    /// Decides what cuts leave behind.
    pub seed: u64,
    /// Whether block devices are wanted.
    pub devices: Devices,
    /// When to end by itself.
    pub lifetime: Lifetime,
}

/// Whether a daemon attaches loop devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Devices {
    /// No: the files are enough.
    None,
    /// One for each disk, and in this directory a link `disk0`, `disk1`, ... to each that stays true across cuts.
    Linked(PathBuf),
}

/// When a daemon ends without being told to quit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// On SIGTERM or SIGINT.
    UntilSignalled,
    /// Also when its standard input closes: the process that started it is gone.
    WhileStdinIsOpen,
}

/// Serves until told to end; prints the status of the disks as one line of JSON when ready.
///
/// # Errors
/// When something could not be set up. What had been set up by then is cleared.
pub fn serve(options: &ServeOptions) -> Result<(), RigError> {
    let mount = loopdev::absolute_mount(&options.mount)?;
    loopdev::clear_leftovers(&mount)?;
    fs::create_dir_all(&mount).map_err(RigError::io("make the mount point", &mount))?;
    let disks: Vec<Arc<Disk>> = options
        .images
        .iter()
        .zip(0..)
        .map(|(image, number)| {
            Disk::open(image, options.size_bytes, options.seed, number)
                .map(Arc::new)
                .map_err(RigError::io("open the image", image))
        })
        .collect::<Result<_, _>>()?;

    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("moorline-rig".into()),
        MountOption::NoAtime,
    ];
    config.n_threads = Some(WORKERS);
    config.clone_fd = true;
    let session = Session::new(RigFs::new(disks.clone()), &mount, &config)
        .and_then(Session::spawn)
        .map_err(RigError::io("mount at", &mount))?;

    let devices = disks.iter().map(|_| None).collect();
    let station = Arc::new(Station {
        disks,
        mount: mount.clone(),
        links: options.devices.clone(),
        devices: Mutex::new(devices),
    });
    let served = station.run(options);
    // Whatever happened: no device, no mount, no waiting request stays behind. Ending is no power cut, so
    // the images keep what was written.
    let disks: Vec<&Disk> = station.disks.iter().map(|disk| &**disk).collect();
    let kept = cut_together(&disks, CutMode::Keep);
    let kept = kept
        .map(drop)
        .map_err(RigError::io("write the images under", &mount));
    let cleared = loopdev::clear_leftovers(&mount);
    drop(fs::remove_file(&options.control));
    drop(session);
    served.and(kept).and(cleared)
}

struct Station {
    disks: Vec<Arc<Disk>>,
    mount: PathBuf,
    links: Devices,
    // The loop device of each disk; also held by a command while it moves power, so that one does at a time.
    devices: Mutex<Vec<Option<PathBuf>>>,
}

impl Station {
    fn run(self: &Arc<Self>, options: &ServeOptions) -> Result<(), RigError> {
        let (ended, mut end) = mpsc::unbounded_channel();
        let control = &options.control;
        match fs::remove_file(control) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(RigError::io("replace the socket", control)(error));
            }
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(control).map_err(RigError::io("listen on", control))?;
        for number in 0..self.disks.len() {
            self.attach(number, &mut self.devices.lock())?;
        }
        let station = Arc::clone(self);
        let accepting = ended.clone();
        spawn(move || station.accept(&listener, &accepting));
        match options.lifetime {
            Lifetime::UntilSignalled => {}
            Lifetime::WhileStdinIsOpen => spawn(move || {
                drop(io::copy(&mut io::stdin().lock(), &mut io::sink()));
                let _ = ended.send(());
            }),
        }
        println!("{}", json(&self.status(&mut self.devices.lock())));

        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.map_err(RigError::io("start serving", &self.mount))?;
        runtime
            .block_on(async {
                let mut terminate = signal(SignalKind::terminate())?;
                let mut interrupt = signal(SignalKind::interrupt())?;
                tokio::select! {
                    _ = end.recv() => {}
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                Ok(())
            })
            .map_err(RigError::io("wait for the end of", &self.mount))
    }

    fn accept(self: &Arc<Self>, listener: &UnixListener, ended: &mpsc::UnboundedSender<()>) {
        for connection in listener.incoming() {
            let Ok(connection) = connection else { continue };
            let (station, ended) = (Arc::clone(self), ended.clone());
            spawn(move || {
                // A client that went away is no concern of the disks.
                drop(station.converse(&connection, &ended));
            });
        }
    }

    fn converse(
        &self,
        connection: &UnixStream,
        ended: &mpsc::UnboundedSender<()>,
    ) -> io::Result<()> {
        let mut lines = BufReader::new(connection);
        let mut line = String::new();
        while lines.read_line(&mut line)? > 0 {
            let (reply, quit) = match line.parse() {
                Ok(Command::Quit) => (Reply::Done, true),
                Ok(command) => (self.obey(&command), false),
                Err(error) => (
                    Reply::Refused {
                        reason: error.to_string(),
                    },
                    false,
                ),
            };
            line.clear();
            let mut answer = json(&reply);
            answer.push('\n');
            let mut out = connection;
            let sent = out.write_all(answer.as_bytes());
            if quit {
                let _ = ended.send(());
            }
            sent?;
        }
        Ok(())
    }

    fn obey(&self, command: &Command) -> Reply {
        self.try_obey(command).unwrap_or_else(|error| {
            let mut reason = error.to_string();
            let mut cause = std::error::Error::source(&error);
            while let Some(deeper) = cause {
                reason = format!("{reason}: {deeper}");
                cause = deeper.source();
            }
            Reply::Refused { reason }
        })
    }

    fn try_obey(&self, command: &Command) -> Result<Reply, RigError> {
        match command {
            Command::Status => Ok(self.status(&mut self.devices.lock())),
            Command::Cut(target, mode) => {
                let chosen = self.choose(target)?;
                let mut devices = self.devices.lock();
                let disks: Vec<&Disk> = chosen.iter().map(|number| &*self.disks[*number]).collect();
                let cut = cut_together(&disks, *mode);
                let reports = cut.map_err(RigError::io("write the images under", &self.mount))?;
                for number in chosen {
                    self.detach(number, &mut devices)?;
                }
                Ok(Reply::Cut { disks: reports })
            }
            Command::PowerOn(target) => {
                let mut devices = self.devices.lock();
                for number in self.choose(target)? {
                    self.disks[number].power_on();
                    self.attach(number, &mut devices)?;
                }
                Ok(self.status(&mut devices))
            }
            Command::SyncFault(target, fault, budget) => {
                self.each(target, |disk| disk.set_sync_fault(*fault, *budget))
            }
            Command::ReadFault(target, fault, budget) => {
                self.each(target, |disk| disk.set_read_fault(*fault, *budget))
            }
            Command::WriteFault(target, fault, budget) => {
                self.each(target, |disk| disk.set_write_fault(*fault, *budget))
            }
            Command::Hang(target) => self.each(target, Disk::hang),
            Command::Resume(target) => self.each(target, Disk::resume),
            // Taken by `converse`.
            Command::Quit => Ok(Reply::Done),
        }
    }

    fn each(&self, target: &Target, act: impl Fn(&Disk)) -> Result<Reply, RigError> {
        for number in self.choose(target)? {
            act(&self.disks[number]);
        }
        Ok(Reply::Done)
    }

    /// The numbers of the disks that `target` means, ascending.
    fn choose(&self, target: &Target) -> Result<Vec<usize>, RigError> {
        match target {
            Target::All => Ok((0..self.disks.len()).collect()),
            Target::Disk(name) => match self.disks.iter().position(|disk| disk.name() == name) {
                Some(number) => Ok(vec![number]),
                None => Err(RigError::Refused {
                    reason: format!("there is no disk `{name}`"),
                }),
            },
        }
    }

    fn status(&self, devices: &mut [Option<PathBuf>]) -> Reply {
        let disks = self.disks.iter().zip(devices);
        Reply::Status {
            disks: disks
                .map(|(disk, device)| {
                    let mut status = disk.status();
                    status.device.clone_from(device);
                    status
                })
                .collect(),
        }
    }

    /// Attaches a loop device to a disk that has power and none yet, and points the disk's link at it.
    fn attach(&self, number: usize, devices: &mut [Option<PathBuf>]) -> Result<(), RigError> {
        let links = match &self.links {
            Devices::None => return Ok(()),
            Devices::Linked(links) => links,
        };
        if devices[number].is_some() {
            return Ok(());
        }
        let name = self.disks[number].name();
        let device = loopdev::attach(&self.mount.join(name))?;
        relink(links, name, &device)?;
        devices[number] = Some(device);
        Ok(())
    }

    /// Detaches the device of a disk without power. Buffers are dropped first: an opener that outlives the cut
    /// must not go on reading them.
    fn detach(&self, number: usize, devices: &mut [Option<PathBuf>]) -> Result<(), RigError> {
        match (self.disks[number].status().power, devices[number].take()) {
            (Power::Off, Some(device)) => {
                // Dirty buffers cannot be written any more, which this reports and which is the point.
                drop(loopdev::flush_buffers(&device));
                loopdev::detach(&device)
            }
            (Power::On(_), device) => {
                devices[number] = device;
                Ok(())
            }
            (Power::Off, None) => Ok(()),
        }
    }
}

fn relink(links: &Path, name: &str, device: &Path) -> Result<(), RigError> {
    fs::create_dir_all(links).map_err(RigError::io("make the directory", links))?;
    let (link, fresh) = (links.join(name), links.join(format!("{name}.new")));
    drop(fs::remove_file(&fresh));
    symlink(device, &fresh)
        .and_then(|()| fs::rename(&fresh, &link))
        .map_err(RigError::io("link the device at", link))
}

fn json(reply: &Reply) -> String {
    serde_json::to_string(reply).expect("replies have string keys and finite numbers")
}

/// A thread that lives until it is done or the process ends.
fn spawn(work: impl FnOnce() + Send + 'static) {
    drop(std::thread::spawn(work));
}
