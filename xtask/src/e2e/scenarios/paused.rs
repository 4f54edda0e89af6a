//! Servers that hang (SIGSTOP) rather than die.

use std::time::Duration;

use rustix::process::Signal;

use crate::e2e::client::Client;
use crate::e2e::cluster::{Cluster, LEASE};
use crate::e2e::context::Context;
use crate::e2e::spec::Spec;
use crate::error::{Result, ensure};
use crate::interrupt::pause;

/// No request may wait longer than this for a replica that is silent.
const STALL_LIMIT: Duration = Duration::from_secs(1);
/// Slow enough that what a replica misses in ten seconds stays within half of the log: past that it would have to be
/// rebuilt, and this is about waiting.
const GENTLE: &str = "500";
/// Blocks of the workload; the witness uses the one after them.
const BLOCKS: &str = "8192";

/// A replica hangs for ten seconds under load.
pub(super) fn replica(ctx: &Context) -> Result<()> {
    let rounds = ctx.rounds(2, 20);
    let mut cluster = Cluster::with_volume(ctx, Spec::dirs(ctx, 3))?;
    let mut client = Client::workload(ctx, &cluster, &["--blocks", BLOCKS, "--rate", GENTLE])?;
    for round in 1..=rounds {
        pause(Duration::from_secs(1))?;
        let replica = cluster.a_replica()?;
        client.mark("before")?;
        cluster.signal_server(replica, Signal::STOP)?;
        pause(Duration::from_secs(10))?;
        let during = client.mark("hung")?;
        cluster.signal_server(replica, Signal::CONT)?;
        ctx.step(format!(
            "round {round}: {} hung for 10 s: {} writes acknowledged, slowest request {:.3} s",
            cluster.servers[replica].id,
            during.ok,
            during.max_latency.as_secs_f64()
        ));
        ensure!(
            during.is_clean(),
            "requests failed while a replica hung: {}",
            during.errors
        );
        ensure!(
            during.ok > 0,
            "nothing was acknowledged while a replica hung"
        );
        ensure!(
            during.max_latency <= STALL_LIMIT,
            "a request waited {:.3?} for a hung replica",
            during.max_latency
        );
        cluster.wait_whole()?;
        let after = client.mark("after")?;
        ensure!(
            after.is_clean(),
            "requests failed when the replica came back: {}",
            after.errors
        );
    }
    client.finish(ctx)?;
    cluster.wait_level()?;
    cluster.equal_digests().map(|_digest| ())
}

/// The primary hangs until another one serves, and is then continued.
pub(super) fn primary(ctx: &Context) -> Result<()> {
    let rounds = ctx.rounds(3, 20);
    let mut cluster = Cluster::with_volume(ctx, Spec::dirs(ctx, 3))?;
    let workload = ["--blocks", BLOCKS, "--rate", "2000", "--op-timeout", "1.5"];
    let mut client = Client::workload(ctx, &cluster, &workload)?;
    for round in 1..=rounds {
        pause(Duration::from_secs(1))?;
        let before = cluster.wait_whole()?;
        let primary = cluster.primary()?;
        let address = cluster.servers[primary].nbd;
        let name = format!("witness-{round}");
        let mut witness = Client::start(
            ctx,
            "witness",
            &name,
            &[address],
            &["--first-block", BLOCKS],
        )?;
        witness.wait("ready", Duration::from_secs(10))?;
        cluster.signal_server(primary, Signal::STOP)?;
        // These wait in the hung server's socket buffer until it is continued.
        witness.tell("fire")?;
        witness.wait("fired", Duration::from_secs(10))?;
        let after = cluster.wait_new_epoch(before.epoch, LEASE * 5)?;
        // Not a moment after the promotion, but after the new primary has acknowledged something.
        let hung = cluster.servers[primary].id.clone();
        client.wait("connected", Duration::from_secs(20))?;
        pause(Duration::from_secs(1))?;
        let served = client.mark("under the new primary")?;
        ensure!(
            served.ok > 0,
            "nothing was acknowledged under the new primary"
        );
        cluster.signal_server(primary, Signal::CONT)?;
        pause(Duration::from_secs(2))?;
        witness.tell("report")?;
        let report = witness.wait("report", Duration::from_secs(10))?;
        ctx.step(format!(
            "round {round}: {hung} hung in epoch {}, {} serves epoch {}; continued, it answered: {}",
            before.epoch,
            after.primary.as_deref().unwrap_or("nobody"),
            after.epoch,
            report.body
        ));
        for request in ["read", "write", "flush"] {
            ensure!(
                report.body[request] != "ok",
                "a primary without a lease answered a {request}: {}",
                report.body
            );
        }
        cluster.wait_whole()?;
    }
    client.finish(ctx)?;
    cluster.wait_level()?;
    cluster.equal_digests().map(|_digest| ())
}
