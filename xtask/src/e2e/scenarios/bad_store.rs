//! Disks that are damaged, too small, or full.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use crate::e2e::cluster::{Cluster, SETTLE};
use crate::e2e::context::Context;
use crate::e2e::mounts::{Loop, Mount};
use crate::e2e::refusal::{code, refused};
use crate::e2e::spec::{Place, Spec};
use crate::error::{During, Result, ensure};
use crate::interrupt::{Look, pause, wait_for};
use crate::process::Tool;

/// Where the two superblocks of a store start, in bytes.
const SUPERBLOCKS: [u64; 2] = [0, 1 << 20];

pub(super) fn run(ctx: &Context) -> Result<()> {
    superblocks(ctx)?;
    too_small(ctx)?;
    full(ctx)
}

/// One unreadable superblock is repaired; without both the store is refused, and nothing is written to it.
fn superblocks(ctx: &Context) -> Result<()> {
    let spec = Spec {
        size: "64MiB",
        ..Spec::dirs(ctx, 3)
    };
    let mut cluster = Cluster::with_volume(ctx, spec)?;
    let data = ctx.path("in.img");
    super::clients::random_file(&data, 64 << 20)?;
    Tool::new("nbdcopy")
        .arg("--flush")
        .arg(&data)
        .arg(cluster.uri()?)
        .succeed()?;
    let store = cluster.store_path(1)?;
    for (n, at) in SUPERBLOCKS.into_iter().enumerate() {
        cluster.kill_server(1);
        damage(&store, &[at])?;
        cluster.start_server(1)?;
        cluster.wait_level()?;
        // Only a repaired copy can stand in for the other one in the next round.
        ctx.step(format!(
            "superblock {n} unreadable: repaired, in sync again"
        ));
    }
    cluster.kill_server(1);
    damage(&store, &SUPERBLOCKS)?;
    let before = Tool::new("sha256sum").arg(&store).succeed()?.stdout;
    cluster.start_server(1)?;
    cluster.wait_log(1, "superblock", Duration::from_secs(20))?;
    pause(Duration::from_secs(1))?;
    let after = Tool::new("sha256sum").arg(&store).succeed()?.stdout;
    ensure!(before == after, "the refused store was written to");
    let status = cluster.status()?;
    ensure!(
        !status.in_sync.contains(&"s2".to_owned()),
        "s2 counts: {}",
        status.summary()
    );
    ctx.step(format!(
        "both superblocks unreadable: refused, the store untouched; {}",
        status.summary()
    ));
    cluster.kill_server(1);
    let inspect = Tool::new(ctx.binary())
        .args(["store", "inspect"])
        .arg(&store);
    refused("inspecting it", inspect, code::FAILED, &["superblock"])?;
    let back = ctx.path("out.img");
    Tool::new("nbdcopy")
        .arg(cluster.uri()?)
        .arg(&back)
        .succeed()?;
    Tool::new("cmp").arg(&data).arg(&back).succeed()?;
    ctx.step("the volume serves on from the others, every byte there");
    let theirs = cluster.store_path(0)?;
    cluster.stop()?;
    let other = Tool::new(ctx.binary())
        .args(["serve", "--server-id", "s9", "--master", "127.0.0.1:1"])
        .args(["--data", "127.0.0.1:0", "--control", "127.0.0.1:0"])
        .args(["--nbd", "127.0.0.1:0", "--device"])
        .arg(&theirs);
    let naming = ["belongs to server s1"];
    refused(
        "another server's store as a device",
        other,
        code::UNSAFE,
        &naming,
    )
}

fn damage(store: &Path, offsets: &[u64]) -> Result<()> {
    let file = OpenOptions::new()
        .write(true)
        .open(store)
        .during(format!("opening {}", store.display()))?;
    for &at in offsets {
        file.write_all_at(&[0xa5; 4096], at)
            .during(format!("damaging {}", store.display()))?;
    }
    file.sync_all()
        .during(format!("damaging {}", store.display()))
}

/// A raw device that has no room for the log alone.
fn too_small(ctx: &Context) -> Result<()> {
    let file = ctx.path("small.img");
    std::fs::File::create(&file)
        .and_then(|file| file.set_len(8 << 20))
        .during("creating a small disk")?;
    let disk = Loop::attach(&file)?;
    let places = vec![Place::Device(disk.device().to_owned())];
    let cluster = Cluster::start_named(ctx, Spec::on(places), "master-small")?;
    let create = [
        "volume",
        "create",
        "demo",
        "--size",
        "64MiB",
        "--replicas",
        "1",
    ];
    refused_once_known(
        "a device that is too small",
        &cluster,
        &create,
        &["not enough space"],
    )?;
    drop(cluster);
    disk.detach()
}

/// A file system without room for the store.
fn full(ctx: &Context) -> Result<()> {
    let mount = Mount::new(
        &["-t", "tmpfs", "-o", "size=64m", "tmpfs"],
        &ctx.path("full"),
    )?;
    let places = vec![Place::Dir(mount.dir().join("s1"))];
    let cluster = Cluster::start_named(ctx, Spec::on(places), "master-full")?;
    let create = [
        "volume",
        "create",
        "demo",
        "--size",
        "512MiB",
        "--replicas",
        "1",
    ];
    refused_once_known("a full disk", &cluster, &create, &["not enough space"])?;
    drop(cluster);
    mount.unmount()
}

/// The command fails for want of servers until the server has told the master of itself; then it must be refused
/// for the reason under test.
fn refused_once_known(
    what: &str,
    cluster: &Cluster<'_>,
    create: &[&str],
    naming: &[&str],
) -> Result<()> {
    wait_for(what, SETTLE, || {
        let text = cluster.command(create.iter().copied()).run()?.output();
        let told = naming.iter().all(|name| text.contains(name));
        Ok(if told {
            Look::There(())
        } else {
            Look::NotYet(text.trim().to_owned())
        })
    })?;
    refused(
        what,
        cluster.command(create.iter().copied()),
        code::FAILED,
        naming,
    )
}
