//! All stores lose power at once, under load.

use std::time::Duration;

use crate::e2e::client::Client;
use crate::e2e::cluster::{Cluster, SETTLE};
use crate::e2e::context::Context;
use crate::e2e::rig::Rig;
use crate::e2e::spec::{Place, Spec};
use crate::error::Result;
use crate::interrupt::pause;

/// What becomes of unsynced sectors, in turn. `tear` decides for each piece of each write.
const MODES: &[&str] = &["tear", "drop", "sectors"];
/// Room for the volume, its log and their metadata.
const DISK: &str = "1GiB";

/// Cuts, restarts, and in the end demands every acknowledged write.
pub(super) fn run(ctx: &Context) -> Result<()> {
    let rounds = ctx.rounds(20, 200);
    let rig = Rig::start(ctx, 3, DISK)?;
    let places = (0..3).map(|n| Place::Device(rig.device(n))).collect();
    let spec = Spec {
        size: "256MiB",
        ..Spec::on(places)
    };
    let mut cluster = Cluster::with_volume(ctx, spec)?;
    let mut client = Client::workload(
        ctx,
        &cluster,
        &["--blocks", "8192", "--connections", "2", "--depth", "16"],
    )?;
    for (round, mode) in (1..=rounds).zip(MODES.iter().cycle()) {
        pause(Duration::from_millis(800))?;
        let before = cluster.status()?;
        let cut = rig.cut(mode)?;
        cluster.kill_all();
        rig.power_on()?;
        for at in 0..cluster.servers.len() {
            cluster.start_server(at)?;
        }
        let after = cluster.wait_new_epoch(before.epoch, SETTLE)?;
        client.wait("connected", SETTLE)?;
        let window = client.mark("round")?;
        ctx.step(format!(
            "round {round} ({mode}): {} unsynced writes lost or torn; epoch {} then {}; {} writes acknowledged",
            lost(&cut),
            before.epoch,
            after.epoch,
            window.ok
        ));
        cluster.wait_whole()?;
    }
    client.finish(ctx)?;
    cluster.wait_whole()?;
    cluster.check_alive()?;
    cluster.equal_digests().map(|_digest| ())
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
