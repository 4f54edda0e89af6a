//! The CPU time of an idle `dev`: a master and three servers with nothing to do.

use std::time::{Duration, Instant};

use crate::e2e::cluster::VOLUME;
use crate::e2e::context::Context;
use crate::error::{During, Failure, Result, ensure};
use crate::interrupt::{Look, pause, wait_for};
use crate::process::{Daemon, Tool, descendants, signal_pid};

/// Clock ticks a second in /proc/PID/stat; the same on every Linux that this runs on.
const TICKS: f64 = 100.0;

/// Share of one CPU that `dev` and all its processes use, in percent.
pub(super) fn measure(ctx: &Context, length: Duration) -> Result<f64> {
    let (nbd, listen) = (ctx.address()?, ctx.address()?);
    let args = [
        "dev".to_owned(),
        format!("--dir={}", ctx.path("dev").display()),
        format!("--nbd={nbd}"),
        format!("--listen={listen}"),
    ];
    let mut dev = Daemon::start("dev", ctx.binary(), args, &ctx.path("dev.log"))?;
    let measured = settle(&format!("nbd://{nbd}/{VOLUME}")).and_then(|()| over(dev.pid(), length));
    let children = descendants(dev.pid());
    let stopped = dev.stop(Duration::from_secs(20));
    for pid in children {
        signal_pid(pid, rustix::process::Signal::KILL);
    }
    let used = measured?;
    ensure!(stopped?.success(), "dev did not end well");
    Ok(used)
}

/// Until it serves, and past what it does at its start.
fn settle(uri: &str) -> Result<()> {
    wait_for("the volume of dev", Duration::from_secs(30), || {
        let info = Tool::new("nbdinfo").args(["--size", uri]).run()?;
        Ok(match info.code() {
            Some(0) => Look::There(()),
            _ => Look::NotYet(info.output()),
        })
    })?;
    pause(Duration::from_secs(5))
}

fn over(pid: u32, length: Duration) -> Result<f64> {
    let mut pids = descendants(pid);
    pids.push(pid);
    let began = Instant::now();
    let before = ticks(&pids)?;
    pause(length)?;
    let after = ticks(&pids)?;
    Ok((after - before) / TICKS / began.elapsed().as_secs_f64() * 100.0)
}

fn ticks(pids: &[u32]) -> Result<f64> {
    let mut total = 0.0;
    for pid in pids {
        let path = format!("/proc/{pid}/stat");
        let stat = std::fs::read_to_string(&path).during(format!("reading {path}"))?;
        total +=
            ticks_of(&stat).ok_or_else(|| Failure::Expected(format!("{path} reads {stat:?}")))?;
    }
    Ok(total)
}

/// User and system time: the 14th and 15th field, counted after the name, which may hold blanks and brackets.
fn ticks_of(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::ticks_of;

    #[test]
    fn a_name_with_blanks_and_brackets_does_not_shift_the_fields() {
        let stat = "42 (a) b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0";
        assert_eq!(ticks_of(stat), Some(300.0));
        assert_eq!(ticks_of("42 (short) S 1"), None);
    }
}
