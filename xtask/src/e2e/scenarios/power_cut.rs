//! All stores lose power at once, under load.

use std::time::Duration;

use crate::e2e::client::Client;
use crate::e2e::cluster::{Cluster, SETTLE, VOLUME};
use crate::e2e::context::Context;
use crate::e2e::rig::Rig;
use crate::e2e::spec::{Place, Spec};
use crate::error::{Failure, Result, ensure};
use crate::interrupt::pause;
use crate::workspace::{cargo, target_dir};

/// What becomes of unsynced sectors, in turn. `tear` decides for each piece of each write.
const MODES: &[&str] = &["tear", "drop", "sectors"];
/// Room for the volume, its log and their metadata.
const DISK: &str = "1GiB";

/// How long servers with the planted bug may take to serve again, where ours take four seconds.
const PLANTED_LIMIT: Duration = Duration::from_secs(15);

/// Cuts, restarts, and in the end demands every acknowledged write.
pub(super) fn run(ctx: &Context) -> Result<()> {
    let rounds = ctx.rounds(20, 200);
    let rig = Rig::start(ctx, 3, DISK)?;
    let mut cluster = Cluster::with_volume(ctx, spec(&rig))?;
    let mut client = workload(ctx, &cluster)?;
    for (round, mode) in (1..=rounds).zip(MODES.iter().cycle()) {
        cut_once(ctx, &rig, &mut cluster, &mut client, (round, mode, SETTLE))?;
    }
    client.finish(ctx)?;
    cluster.wait_level()?;
    cluster.check_alive()?;
    cluster.equal_digests().map(|_digest| ())
}

/// The same with the bug *acknowledge before flush* planted in every server: it must be noticed.
pub(super) fn planted(ctx: &Context) -> Result<()> {
    // The simulator's profile: its build has the libraries with the bugs in them already.
    let build = [
        "build",
        "--quiet",
        "--profile",
        "sim",
        "--locked",
        "-p",
        "moorline-server",
        "--features",
        "mutants",
    ];
    crate::workspace::run(&mut cargo(&build))?;
    let rig = Rig::start(ctx, 3, DISK)?;
    let spec = Spec {
        binary: Some(target_dir().join("sim/moorline")),
        env: vec![("MOORLINE_ACK_BEFORE_FLUSH", "1".to_owned())],
        ..spec(&rig)
    };
    let mut cluster = Cluster::with_volume(ctx, spec)?;
    for at in 0..cluster.servers.len() {
        cluster.wait_log(at, "PLANTED BUG", Duration::from_secs(1))?;
    }
    let mut client = workload(ctx, &cluster)?;
    for round in 1..=ctx.rounds(20, 20) {
        // What was not flushed is dropped: nothing is in doubt.
        let cut = (round, "drop", PLANTED_LIMIT);
        match cut_once(ctx, &rig, &mut cluster, &mut client, cut) {
            Ok(()) => {}
            Err(Failure::Interrupted) => return Err(Failure::Interrupted),
            Err(violated) if violated.to_string().contains("violation") => {
                ctx.step(format!("noticed: {violated}"));
                return Ok(());
            }
            // Nobody may lead without a record that is known to be committed.
            Err(stopped) => {
                let events = cluster.command(["events", VOLUME, "--json"]).run()?;
                ensure!(
                    events.stdout.contains("committed_data_missing"),
                    "stopped for another reason than missing data: {stopped}"
                );
                ctx.step("noticed: no candidate has all that is known to be committed");
                return Ok(());
            }
        }
    }
    let verdict = client.verdict()?;
    ensure!(
        verdict["violation_count"] != 0,
        "acknowledging before the flush went unnoticed: {verdict}"
    );
    ctx.step(format!("noticed: {}", verdict["violations"][0]));
    Ok(())
}

fn spec(rig: &Rig) -> Spec {
    let places = (0..3).map(|n| Place::Device(rig.device(n))).collect();
    Spec {
        size: "256MiB",
        ..Spec::on(places)
    }
}

fn workload(ctx: &Context, cluster: &Cluster<'_>) -> Result<Client> {
    Client::workload(
        ctx,
        cluster,
        &["--blocks", "8192", "--connections", "2", "--depth", "16"],
    )
}

/// One cut under load, and the way back to a whole volume.
fn cut_once(
    ctx: &Context,
    rig: &Rig,
    cluster: &mut Cluster<'_>,
    client: &mut Client,
    (round, mode, limit): (u32, &str, Duration),
) -> Result<()> {
    pause(Duration::from_millis(800))?;
    let before = cluster.status()?;
    let cut = rig.cut(mode)?;
    cluster.kill_all();
    rig.power_on()?;
    for at in 0..cluster.servers.len() {
        cluster.start_server(at)?;
    }
    let after = cluster.wait_new_epoch(before.epoch, limit)?;
    client.wait("connected", SETTLE)?;
    let window = client.mark("round")?;
    ctx.step(format!(
        "round {round} ({mode}): {} unsynced writes lost or torn; epoch {} then {}; {} writes acknowledged",
        lost(&cut),
        before.epoch,
        after.epoch,
        window.ok
    ));
    cluster.wait_whole().map(|_status| ())
}

/// How many writes the cut did not leave whole, over all disks.
fn lost(cut: &serde_json::Value) -> u64 {
    let disks = cut["disks"].as_array().map_or(&[][..], Vec::as_slice);
    let writes = |disk: &serde_json::Value, fate: &str| disk["tally"][fate].as_u64().unwrap_or(0);
    disks
        .iter()
        .map(|disk| writes(disk, "writes_dropped") + writes(disk, "writes_torn"))
        .sum()
}
