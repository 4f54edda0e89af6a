//! Networks that fall apart, in every direction, between machines that need a cluster key.

use std::rc::Rc;
use std::time::Duration;

use crate::e2e::client::Client;
use crate::e2e::cluster::{Cluster, LEASE};
use crate::e2e::context::Context;
use crate::e2e::lab::{Lab, Node};
use crate::e2e::spec::Spec;
use crate::e2e::status::Epoch;
use crate::error::{During, Result, ensure};
use crate::interrupt::pause;

/// A successor must serve this long after a primary was cut off: the lease that it may still hold, and time to
/// notice.
const SUCCESSION: Duration = LEASE
    .saturating_mul(2)
    .saturating_add(Duration::from_secs(2));
/// How long a cut that must not matter lasts: longer than any lease.
const HARMLESS: Duration = LEASE.saturating_mul(3);
/// No request may wait longer than this for a replica that is silent.
const STALL_LIMIT: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy)]
enum Kind {
    /// The primary hears nobody and nobody hears it, except its clients.
    FromEveryone,
    /// Nobody hears the primary, but it hears all: one-way heartbeats are not health.
    Outbound,
    /// The primary hears nobody, but all hear it.
    Inbound,
    /// The primary and the master do not hear each other: members' leases keep the volume serving.
    FromMaster,
    /// A replica is cut off from everybody.
    Replica,
}

const KINDS: [Kind; 5] = [
    Kind::FromEveryone,
    Kind::FromMaster,
    Kind::Outbound,
    Kind::Replica,
    Kind::Inbound,
];

/// Cuts and heals in turn, under load.
pub(super) fn run(ctx: &Context) -> Result<()> {
    let rounds = ctx.rounds(20, 200);
    let lab = Rc::new(Lab::new(3)?);
    let key = ctx.path("cluster.key");
    std::fs::write(&key, "5ca1ab1e".repeat(8)).during("writing the cluster's key")?;
    let spec = Spec {
        lab: Some(Rc::clone(&lab)),
        key: Some(key),
        ..Spec::dirs(ctx, 3)
    };
    let mut cluster = Cluster::with_volume(ctx, spec)?;
    let workload = ["--blocks", "8192", "--rate", "2000", "--op-timeout", "1.5"];
    let mut client = Client::workload(ctx, &cluster, &workload)?;
    for (round, kind) in (1..=rounds).zip(KINDS.into_iter().cycle()) {
        pause(Duration::from_millis(700))?;
        let before = cluster.wait_whole()?;
        let primary = cluster.primary()?;
        client.mark("before")?;
        apply(&lab, kind, primary)?;
        match kind {
            Kind::FromEveryone | Kind::Outbound | Kind::Inbound => {
                succession(&cluster, &mut client, before.epoch, primary)?
            }
            Kind::FromMaster | Kind::Replica => {
                pause(HARMLESS)?;
                undisturbed(&mut client)?;
            }
        }
        lab.heal()?;
        let after = cluster.wait_whole()?;
        if matches!(kind, Kind::FromMaster | Kind::Replica) {
            ensure!(
                after.epoch == before.epoch,
                "a cut that must not matter made an epoch: {}",
                after.summary()
            );
        }
        ctx.step(format!(
            "round {round}: {kind:?} of {}: {}",
            cluster.servers[primary].id,
            after.summary()
        ));
    }
    client.finish(ctx)?;
    cluster.wait_level()?;
    cluster.check_alive()?;
    cluster.equal_digests().map(|_digest| ())
}

fn apply(lab: &Lab, kind: Kind, primary: usize) -> Result<()> {
    let us = match kind {
        Kind::Replica => Node::Server((primary + 1) % 3),
        Kind::FromEveryone | Kind::Outbound | Kind::Inbound | Kind::FromMaster => {
            Node::Server(primary)
        }
    };
    for other in lab.nodes().filter(|&node| node != us) {
        match kind {
            Kind::FromEveryone | Kind::Replica => lab.part(us, other)?,
            Kind::Outbound => lab.cut(us, other)?,
            Kind::Inbound => lab.cut(other, us)?,
            Kind::FromMaster if other == Node::Master => lab.part(us, other)?,
            Kind::FromMaster => {}
        }
    }
    Ok(())
}

/// Another server serves in time, and acknowledges. The old primary may still be tried: clients reach it, and it does
/// not know what happened; it only may not answer.
fn succession(
    cluster: &Cluster<'_>,
    client: &mut Client,
    before: Epoch,
    cut_off: usize,
) -> Result<()> {
    cluster.wait_new_epoch(before, SUCCESSION)?;
    let old = cluster.servers[cut_off].nbd.to_string();
    while client.wait("connected", Duration::from_secs(15))?.body["address"] == old.as_str() {}
    client.mark("connected")?;
    pause(Duration::from_millis(500))?;
    let window = client.mark("served")?;
    ensure!(window.ok > 0, "nothing was acknowledged in the new epoch");
    Ok(())
}

/// No request failed or waited.
fn undisturbed(client: &mut Client) -> Result<()> {
    let window = client.mark("during")?;
    ensure!(window.is_clean(), "requests failed: {}", window.errors);
    ensure!(window.ok > 0, "nothing was acknowledged");
    ensure!(
        window.max_latency <= STALL_LIMIT,
        "a request waited {:.3?}",
        window.max_latency
    );
    Ok(())
}
