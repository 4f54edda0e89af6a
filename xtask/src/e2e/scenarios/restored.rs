//! A master whose records are old, or gone.

use std::time::Duration;

use crate::e2e::client::Client;
use crate::e2e::cluster::{Cluster, LEASE, SETTLE, VOLUME};
use crate::e2e::context::Context;
use crate::e2e::refusal::{code, refused};
use crate::e2e::spec::Spec;
use crate::error::{During, Result, ensure};
use crate::interrupt::{Look, pause, wait_for};

/// A workload that leaves a core to the servers.
const WORKLOAD: &[&str] = &["--blocks", "4096", "--rate", "1000"];

/// Long enough for a master that knows no better to promote somebody.
const TEMPTED: Duration = LEASE.saturating_mul(2);

pub(super) fn run(ctx: &Context) -> Result<()> {
    let mut cluster = Cluster::with_volume(ctx, Spec::dirs(ctx, 3))?;
    let client = Client::workload(ctx, &cluster, WORKLOAD)?;
    let copy = backup(ctx, &cluster)?;
    fail_over_twice(ctx, &mut cluster)?;
    put_back(ctx, &mut cluster, &copy)?;
    lose_everything(ctx, &mut cluster)?;
    client.finish(ctx)?;
    cluster.wait_level()?;
    cluster.check_alive()?;
    cluster.equal_digests().map(|_digest| ())
}

/// A copy of the running master's records; a second one does not write over it.
fn backup(ctx: &Context, cluster: &Cluster<'_>) -> Result<String> {
    let file = ctx.path("master.backup").display().to_string();
    let command = || cluster.command(["master", "backup", "--to", &file]);
    let done = command().succeed()?;
    ensure!(done.stdout.contains("1 volume"), "{}", done.stdout);
    ctx.step(done.stdout.trim());
    refused("a backup over a backup", command(), code::FAILED, &[&file])?;
    Ok(file)
}

/// Two reigns that the copy does not know.
fn fail_over_twice(ctx: &Context, cluster: &mut Cluster<'_>) -> Result<()> {
    for _ in 0..2 {
        let before = cluster.wait_whole()?;
        let primary = cluster.primary()?;
        cluster.kill_server(primary);
        let after = cluster.wait_new_epoch(before.epoch, SETTLE)?;
        cluster.start_server(primary)?;
        ctx.step(format!("epoch {} after {}", after.epoch, before.epoch));
    }
    cluster.wait_whole().map(|_status| ())
}

/// The copy takes the place of the records, and the servers come back one by one.
fn put_back(ctx: &Context, cluster: &mut Cluster<'_>, copy: &str) -> Result<()> {
    let before = cluster.status()?;
    cluster.kill_master();
    cluster.kill_all();
    let store = cluster.master_dir().join("master.redb");
    std::fs::remove_file(&store).during("removing the master's store")?;
    std::fs::copy(copy, &store).during("restoring the master's store")?;
    cluster.start_master()?;
    let primary = before.primary.clone().unwrap_or_default();
    let primary = cluster.position(&primary).unwrap_or_default();
    let (second, third) = ((primary + 1) % 3, (primary + 2) % 3);
    cluster.start_server(second)?;
    wait_reason(cluster, "1 of 2 replicas")?;
    pause(TEMPTED)?;
    let alone = cluster.status()?;
    ensure!(
        !alone.serves() && alone.epoch < before.epoch,
        "it promoted by an old copy: {}",
        alone.summary()
    );
    refused(
        "overruling without consent",
        cluster.command(["volume", "overrule", VOLUME]),
        code::UNSAFE,
        &["--accept-loss", &cluster.servers[primary].id],
    )?;
    ctx.step("restored from the backup: nobody is promoted by the word of one");
    cluster.start_server(third)?;
    let after = cluster.wait_new_epoch(before.epoch, SETTLE)?;
    ctx.step(format!(
        "two replicas spoke: it knew epoch {}, and went on with {}",
        before.epoch, after.epoch
    ));
    refused(
        "overruling where nothing is in doubt",
        cluster.command(["volume", "overrule", VOLUME, "--accept-loss"]),
        code::FAILED,
        &["current"],
    )?;
    let events = cluster.command(["events", VOLUME]).succeed()?.stdout;
    for name in ["master_restored", "line_taken_over"] {
        ensure!(events.contains(name), "no {name}: {events}");
    }
    cluster.start_server(primary)?;
    cluster.wait_whole().map(|_status| ())
}

/// The master's directory is gone: a new one leads another cluster, until it is told which to adopt.
fn lose_everything(ctx: &Context, cluster: &mut Cluster<'_>) -> Result<()> {
    let before = cluster.status()?;
    let status = cluster.command(["status", "--json"]).run()?.stdout;
    let status: serde_json::Value = serde_json::from_str(&status)
        .map_err(|error| crate::error::Failure::Expected(error.to_string()))?;
    let id = status["cluster"].as_str().unwrap_or_default().to_owned();
    cluster.kill_master();
    let dir = cluster.master_dir();
    std::fs::remove_dir_all(&dir).during("removing the master's directory")?;
    cluster.start_master()?;
    cluster.wait_log(0, "another cluster", SETTLE)?;
    cluster.wait_log(0, &format!("--adopt-cluster {id}"), SETTLE)?;
    let served = cluster.raw_status()?;
    ensure!(
        served.code() == Some(code::NOT_FOUND),
        "a new master knows the volume: {}",
        served.output()
    );
    ctx.step("without its directory: the servers stay away from a master of another cluster");
    cluster.kill_master();
    std::fs::remove_dir_all(&dir).during("removing the master's directory")?;
    cluster.start_master_with(&["--adopt-cluster", &id])?;
    let after = cluster.wait_whole()?;
    ensure!(
        after.epoch >= before.epoch,
        "an epoch came twice: {} after {}",
        after.epoch,
        before.epoch
    );
    ctx.step(format!("adopted: {}", after.summary()));
    let primary = cluster.primary()?;
    cluster.kill_server(primary);
    let next = cluster.wait_new_epoch(after.epoch, SETTLE)?;
    cluster.start_server(primary)?;
    ctx.step(format!("and fails over to epoch {}", next.epoch));
    cluster.wait_whole().map(|_status| ())
}

fn wait_reason(cluster: &Cluster<'_>, words: &str) -> Result<()> {
    wait_for(&format!("the reason `{words}`"), SETTLE, || {
        let shown = cluster.raw_status()?.output();
        Ok(match shown.contains(words) {
            true => Look::There(()),
            false => Look::NotYet(shown),
        })
    })
}
