//! A replica that is not primary dies under load and comes back.

use std::path::Path;
use std::time::Duration;

use crate::e2e::cluster::Cluster;
use crate::e2e::context::Context;
use crate::e2e::spec::Spec;
use crate::error::{Result, ensure};
use crate::interrupt::pause;
use crate::process::{Daemon, tail_of};

/// Long enough that fio is still at work after every round; it is bounded by time, not by size.
const ROUND_SECONDS: u32 = 12;

/// Kills and restarts replicas in turn while fio writes and verifies.
pub(super) fn killed(ctx: &Context) -> Result<()> {
    let rounds = ctx.rounds(2, 20);
    let mut cluster = Cluster::with_volume(ctx, Spec::dirs(ctx, 3))?;
    let uri = cluster.uri()?;
    let mut fio = fio_verify(ctx, &uri, rounds * ROUND_SECONDS)?;
    for round in 1..=rounds {
        pause(Duration::from_secs(2))?;
        let primary = cluster.primary()?;
        // In turn, so that with two rounds both are hit.
        let count = u32::try_from(cluster.servers.len()).expect("a handful of servers");
        let step = usize::try_from(1 + round % (count - 1)).expect("a handful of servers");
        let victim = (primary + step) % cluster.servers.len();
        let id = cluster.servers[victim].id.clone();
        cluster.kill_server(victim);
        ctx.step(format!("round {round}: {id} killed"));
        pause(Duration::from_secs(2))?;
        ensure!(
            fio.ended()?.is_none(),
            "fio ended while {id} was down{}",
            log_of(&fio)
        );
        cluster.start_server(victim)?;
        let status = cluster.wait_whole()?;
        ctx.step(format!("round {round}: {}", status.summary()));
        ensure!(
            cluster.primary()? == primary,
            "the primary changed although it was not touched"
        );
    }
    let status = fio.wait(Duration::from_secs(u64::from(rounds * ROUND_SECONDS) + 120))?;
    ensure!(
        status.success(),
        "fio found an error: {status}{}",
        log_of(&fio)
    );
    ctx.step("fio wrote and verified without an error");
    cluster.wait_level()?;
    cluster.check_alive()?;
    cluster.equal_digests().map(|_digest| ())
}

fn fio_verify(ctx: &Context, uri: &str, seconds: u32) -> Result<Daemon> {
    let args = [
        "--name=verify".to_owned(),
        "--ioengine=nbd".to_owned(),
        format!("--uri={uri}"),
        "--rw=randrw".to_owned(),
        "--bs=4k".to_owned(),
        "--iodepth=16".to_owned(),
        "--size=256m".to_owned(),
        "--verify=crc32c".to_owned(),
        "--verify_backlog=4096".to_owned(),
        "--verify_fatal=1".to_owned(),
        "--time_based".to_owned(),
        format!("--runtime={seconds}"),
        // Enough to keep every machine busy without starving the recovery under test of its two cores.
        "--rate_iops=4000".to_owned(),
        format!("--randseed={}", ctx.seed()),
    ];
    Daemon::start("fio", Path::new("/usr/bin/fio"), args, &ctx.path("fio.log"))
}

fn log_of(fio: &Daemon) -> String {
    tail_of(&std::fs::read_to_string(fio.log()).unwrap_or_default())
}
