//! The primary dies under load, again and again.

use std::time::{Duration, Instant};

use crate::e2e::client::Client;
use crate::e2e::cluster::{Cluster, LEASE};
use crate::e2e::context::Context;
use crate::e2e::spec::Spec;
use crate::error::{Result, ensure};
use crate::interrupt::pause;

/// A new epoch must serve this long after the death of its predecessor.
const PROMOTION_LIMIT: Duration = LEASE.saturating_add(Duration::from_secs(1));
/// How long the load runs between two faults.
const LOAD: Duration = Duration::from_millis(700);
/// A workload that leaves a core to the servers.
const WORKLOAD: &[&str] = &[
    "--blocks",
    "8192",
    "--rate",
    "3000",
    "--connections",
    "2",
    "--depth",
    "8",
];

/// The primary is killed; the others go on; it comes back as an ordinary member.
pub(super) fn killed(ctx: &Context) -> Result<()> {
    rounds(ctx, "killed", Restart::AfterPromotion)
}

/// The primary is killed and started again at once, within its lease.
pub(super) fn restarted(ctx: &Context) -> Result<()> {
    rounds(ctx, "killed and restarted", Restart::AtOnce)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Restart {
    AtOnce,
    AfterPromotion,
}

fn rounds(ctx: &Context, what: &str, restart: Restart) -> Result<()> {
    let rounds = ctx.rounds(20, 200);
    let mut cluster = Cluster::with_volume(ctx, Spec::dirs(ctx, 3))?;
    let mut client = Client::workload(ctx, &cluster, WORKLOAD)?;
    let mut slowest = Duration::ZERO;
    for round in 1..=rounds {
        pause(LOAD)?;
        let before = cluster.wait_whole()?;
        let primary = cluster.primary()?;
        let id = cluster.servers[primary].id.clone();
        let died = cluster.kill_server(primary);
        if restart == Restart::AtOnce {
            cluster.start_server(primary)?;
            let within = died.elapsed();
            ensure!(
                within < LEASE,
                "the restart took {within:.1?}, longer than the lease of {LEASE:?}"
            );
        }
        let after = cluster.wait_new_epoch(before.epoch, PROMOTION_LIMIT * 3)?;
        let promoted = died.elapsed();
        slowest = slowest.max(promoted);
        let serves = client.wait_after("connected", died, PROMOTION_LIMIT * 3)?;
        ctx.step(format!(
            "round {round}: {id} {what} in epoch {}; epoch {} by {} after {:.2} s, client served after {:.2} s",
            before.epoch,
            after.epoch,
            after.primary.as_deref().unwrap_or("nobody"),
            promoted.as_secs_f64(),
            since(died, serves.at).as_secs_f64()
        ));
        ensure!(
            promoted <= PROMOTION_LIMIT,
            "the promotion took {promoted:.2?}, over {PROMOTION_LIMIT:?}"
        );
        if restart == Restart::AfterPromotion {
            cluster.start_server(primary)?;
        }
        cluster.wait_whole()?;
    }
    ctx.step(format!(
        "{rounds} rounds, slowest promotion {:.2} s",
        slowest.as_secs_f64()
    ));
    client.finish(ctx)?;
    cluster.wait_level()?;
    cluster.check_alive()?;
    // One digest: no old primary kept a tail that the others do not have.
    cluster.equal_digests().map(|_digest| ())
}

fn since(from: Instant, to: Instant) -> Duration {
    to.saturating_duration_since(from)
}
