//! The power-cut disk (`moorline-rig`) as a process: disks that lose or tear what was not synced.

use std::path::PathBuf;
use std::process::ChildStdin;
use std::time::Duration;

use serde_json::Value;

use super::context::Context;
use crate::error::{Failure, Result, ensure};
use crate::interrupt::{Look, wait_for};
use crate::process::{Daemon, Tool};
use crate::workspace::{cargo, run, target_dir};

/// Several disks that lose power at one instant. Dropping it detaches and unmounts them.
#[derive(Debug)]
pub(crate) struct Rig {
    binary: PathBuf,
    control: PathBuf,
    links: PathBuf,
    process: Daemon,
    /// Its end of the pipe keeps the daemon alive: should we die, it cleans up by itself.
    _stdin: ChildStdin,
}

impl Rig {
    /// Builds the daemon and starts it with `count` disks of `size` (as its command line takes it).
    pub(crate) fn start(ctx: &Context, count: usize, size: &str) -> Result<Self> {
        run(&mut cargo(&[
            "build",
            "--quiet",
            "--release",
            "--locked",
            "-p",
            "moorline-rig",
        ]))?;
        let binary = target_dir().join("release/moorline-rig");
        let (control, links) = (ctx.path("rig.sock"), ctx.path("dev"));
        let mut args = vec!["serve".to_owned(), "--while-stdin-is-open".to_owned()];
        for (flag, value) in [
            ("--mount", ctx.path("power").display().to_string()),
            ("--size", size.to_owned()),
            ("--control", control.display().to_string()),
            ("--links", links.display().to_string()),
            ("--seed", ctx.seed().to_string()),
        ] {
            args.extend([flag.to_owned(), value]);
        }
        for n in 0..count {
            args.extend([
                "--image".to_owned(),
                ctx.path(&format!("disk{n}.img")).display().to_string(),
            ]);
        }
        let (process, pipes) = Daemon::start_piped("rig", &binary, args, &ctx.path("rig.log"))?;
        let mut rig = Self {
            binary,
            control,
            links,
            process,
            _stdin: pipes.stdin,
        };
        rig.wait_ready(count)?;
        Ok(rig)
    }

    fn wait_ready(&mut self, count: usize) -> Result<()> {
        wait_for("the power-cut disks", Duration::from_secs(30), || {
            let ended = self.process.ended()?;
            ensure!(
                ended.is_none(),
                "the rig has ended; see {}",
                self.process.log().display()
            );
            let devices = (0..count).all(|n| self.device(n).exists());
            Ok(match self.tell(&["status"]) {
                Ok(_reply) if devices => Look::There(()),
                Ok(reply) => Look::NotYet(reply.to_string()),
                Err(Failure::Interrupted) => return Err(Failure::Interrupted),
                Err(error) => Look::NotYet(error.to_string()),
            })
        })
    }

    /// The block device of one disk: a path that stays true across cuts.
    pub(crate) fn device(&self, n: usize) -> PathBuf {
        self.links.join(format!("disk{n}"))
    }

    /// Sends one command and returns the reply.
    pub(crate) fn tell(&self, command: &[&str]) -> Result<Value> {
        let finished = Tool::new(&self.binary)
            .arg("ctl")
            .arg(&self.control)
            .args(command)
            .succeed()?;
        serde_json::from_str(&finished.stdout).map_err(|error| {
            Failure::Expected(format!("the rig answered {:?} ({error})", finished.stdout))
        })
    }

    /// Cuts the power of all disks at one instant: how many unsynced writes there were to lose.
    pub(crate) fn cut(&self, mode: &str) -> Result<Value> {
        self.tell(&["cut", "all", mode])
    }

    /// Gives all disks power again.
    pub(crate) fn power_on(&self) -> Result<()> {
        self.tell(&["power-on", "all"]).map(|_status| ())
    }

    fn quit(&mut self) {
        let asked = std::process::Command::new(&self.binary)
            .arg("ctl")
            .arg(&self.control)
            .arg("quit")
            .output();
        if asked.is_ok() {
            let until = std::time::Instant::now() + Duration::from_secs(10);
            while std::time::Instant::now() < until && !matches!(self.process.ended(), Ok(Some(_)))
            {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.quit();
        self.process.kill();
    }
}
