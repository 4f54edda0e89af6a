//! `moorline dev`: what a newcomer types first.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use super::clients::random_file;
use crate::e2e::cluster::VOLUME;
use crate::e2e::context::Context;
use crate::e2e::status::VolumeStatus;
use crate::error::{During, Failure, Result, ensure, fail};
use crate::interrupt::{Look, wait_for};
use crate::process::{Daemon, Tool, descendants, is_alive, signal_pid, tail_of};

/// From typing the command to a served volume.
const START_LIMIT: Duration = Duration::from_secs(30);
const GIB: &str = "1073741824";

/// Serves, survives a kill, stops on Ctrl-C, and finds its data again.
pub(super) fn run(ctx: &Context) -> Result<()> {
    let (nbd, listen) = (ctx.address()?, ctx.address()?);
    let data = ctx.path("in.img");
    random_file(&data, 16 << 20)?;
    let mut dev = Dev::start(ctx, nbd, listen)?;
    ctx.step("serving");
    let said = dev.log_text()?;
    ensure!(
        said.contains(&dev.uri()),
        "the URI was not printed{}",
        tail_of(&said)
    );
    copy(data.as_os_str(), dev.uri().as_ref())?;
    dev.kill_primary(ctx)?;
    dev.same_data(ctx, &data)?;
    ctx.step("every byte is there after the kill");
    dev.interrupt(ctx)?;

    let mut dev = Dev::start(ctx, nbd, listen)?;
    dev.same_data(ctx, &data)?;
    ctx.step("started again: every byte is there");
    dev.interrupt(ctx)
}

struct Dev {
    binary: PathBuf,
    process: Daemon,
    nbd: SocketAddr,
    listen: SocketAddr,
}

impl Dev {
    fn start(ctx: &Context, nbd: SocketAddr, listen: SocketAddr) -> Result<Self> {
        let args = [
            "dev".to_owned(),
            format!("--dir={}", ctx.path("dev").display()),
            format!("--nbd={nbd}"),
            format!("--listen={listen}"),
        ];
        let process = Daemon::start("dev", ctx.binary(), args, &ctx.path("dev.log"))?;
        let mut dev = Self {
            binary: ctx.binary().to_owned(),
            process,
            nbd,
            listen,
        };
        dev.wait_served()?;
        Ok(dev)
    }

    fn uri(&self) -> String {
        format!("nbd://{}/{VOLUME}", self.nbd)
    }

    fn log_text(&self) -> Result<String> {
        std::fs::read_to_string(self.process.log()).during("reading the output of dev")
    }

    /// Until a client gets the volume, all replicas of it in sync.
    fn wait_served(&mut self) -> Result<()> {
        wait_for("the volume of dev", START_LIMIT, || {
            if let Some(status) = self.process.ended()? {
                fail!("dev ended with {status}{}", tail_of(&self.log_text()?));
            }
            let info = Tool::new("nbdinfo").args(["--size", &self.uri()]).run()?;
            if info.stdout.trim() != GIB {
                return Ok(Look::NotYet(info.output().trim().to_owned()));
            }
            let status = self.status()?;
            Ok(if status.is_whole(3) {
                Look::There(())
            } else {
                Look::NotYet(status.summary())
            })
        })
    }

    fn status(&self) -> Result<VolumeStatus> {
        let master = self.listen.to_string();
        let args = ["volume", "status", VOLUME, "--json", "--master", &master];
        let finished = Tool::new(&self.binary).args(args).run()?;
        match finished.code() {
            Some(0 | 4) => VolumeStatus::parse(&finished.stdout),
            _ => Err(finished.into_failure()),
        }
    }

    /// Kills the server that is primary; `dev` must say so, restart it, and have the volume whole again.
    fn kill_primary(&mut self, ctx: &Context) -> Result<()> {
        let Some(primary) = self.status()?.primary else {
            fail!("dev's volume has no primary");
        };
        let Some(pid) = descendants(self.process.pid())
            .into_iter()
            .find(|&pid| runs(pid, &primary))
        else {
            fail!("no process of dev runs server {primary}");
        };
        let before = self.log_text()?.len();
        signal_pid(pid, Signal::KILL);
        ctx.step(format!("killed {primary}, process {pid}"));
        wait_for("dev's line about the killed server", START_LIMIT, || {
            let text = self.log_text()?;
            let news = text.get(before..).unwrap_or_default();
            let said = news
                .lines()
                .find(|line| line.contains(&primary) && line.contains("restart"));
            Ok(match said {
                Some(line) => {
                    ctx.step(format!("dev says: {}", line.trim()));
                    Look::There(())
                }
                None => Look::NotYet(tail_of(news)),
            })
        })?;
        self.wait_served()
    }

    fn same_data(&self, ctx: &Context, data: &Path) -> Result<()> {
        let expected = std::fs::read(data).during("reading the image")?;
        let back = ctx.path("out.img");
        copy(self.uri().as_ref(), back.as_os_str())?;
        let found = std::fs::read(&back).during("reading the copy")?;
        ensure!(
            found.get(..expected.len()) == Some(&expected[..]),
            "the volume lost data"
        );
        std::fs::remove_file(&back).during("removing the copy")
    }

    /// Ctrl-C: a clean end, and no process left.
    fn interrupt(&mut self, ctx: &Context) -> Result<()> {
        let children = descendants(self.process.pid());
        self.process.signal(Signal::INT)?;
        let status = self.process.wait(Duration::from_secs(20))?;
        ensure!(
            status.success(),
            "dev ended with {status} on Ctrl-C{}",
            tail_of(&self.log_text()?)
        );
        let left: Vec<u32> = children.into_iter().filter(|&pid| is_alive(pid)).collect();
        for &pid in &left {
            signal_pid(pid, Signal::KILL);
        }
        ensure!(left.is_empty(), "dev left processes behind: {left:?}");
        ctx.step("Ctrl-C: a clean end, no process left");
        Ok(())
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // Its servers are not our children: when dev has to be killed, they go by their ids.
        if matches!(self.process.ended(), Ok(None)) {
            let children = descendants(self.process.pid());
            self.process.kill();
            for pid in children {
                signal_pid(pid, Signal::KILL);
            }
        }
    }
}

fn copy(from: &std::ffi::OsStr, to: &std::ffi::OsStr) -> Result<(), Failure> {
    Tool::new("nbdcopy")
        .args(["--flush"])
        .arg(from)
        .arg(to)
        .within(Duration::from_secs(120))
        .succeed()
        .map(|_finished| ())
}

/// Whether the process's command line names this server.
fn runs(pid: u32, server: &str) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|&byte| byte == 0).any(|word| {
        let word = String::from_utf8_lossy(word);
        word == server
            || word
                .strip_prefix("--server-id=")
                .is_some_and(|id| id == server)
    })
}
