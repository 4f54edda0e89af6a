//! The verifying client against qemu-nbd, honest and not: a checker that never fails has not been tested.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;

use crate::e2e::client::{self, Client};
use crate::e2e::cluster::VOLUME;
use crate::e2e::context::Context;
use crate::e2e::rig::Rig;
use crate::error::{During, Result, ensure};
use crate::interrupt::{Look, pause, wait_for};
use crate::process::{Daemon, Tool};

/// 8 MiB under test: rolled back, some block of it differs for certain.
const BLOCKS: &str = "2048";
const SIZE: u64 = 2048 * 4096;

pub(super) fn run(ctx: &Context) -> Result<()> {
    ctx.step("the rules, against planted faults");
    client::selftest()?;
    honest(ctx)?;
    rolled_back(ctx)
}

/// An honest server that is killed and restarted: nothing to complain about.
fn honest(ctx: &Context) -> Result<()> {
    ctx.step("an honest server, killed and restarted");
    let (client, server) = under_load(ctx, "honest")?;
    let (mut client, _server) = restart_after(ctx, "honest", client, server, |_image| Ok(()))?;
    client.mark("after the restart")?;
    client.finish(ctx).map(|_window| ())
}

/// A server that comes back with an older copy of its disk: the client must say so.
fn rolled_back(ctx: &Context) -> Result<()> {
    ctx.step("a server whose disk went back in time");
    let (client, server) = under_load(ctx, "liar")?;
    let image = ctx.path("liar.img");
    let old = ctx.path("liar.old");
    std::fs::copy(&image, &old).during("copying the image")?;
    pause(Duration::from_millis(500))?;
    let (client, _server) = restart_after(ctx, "liar", client, server, |image| {
        std::fs::copy(&old, image)
            .during("rolling the image back")
            .map(|_bytes| ())
    })?;
    let verdict = client.verdict()?;
    let violations = verdict["violation_count"].as_u64().unwrap_or(0);
    ensure!(violations > 0, "lost writes went unnoticed: {verdict}");
    ctx.step(format!("noticed {violations} times"));
    Ok(())
}

fn under_load(ctx: &Context, name: &str) -> Result<(Client, Server)> {
    let image = ctx.path(&format!("{name}.img"));
    std::fs::File::create(&image)
        .and_then(|file| file.set_len(SIZE))
        .during(format!("creating {}", image.display()))?;
    let server = Server::start(ctx, name, &image, ctx.address()?)?;
    let mut client = Client::start(
        ctx,
        "run",
        &format!("client-{name}"),
        &[server.address],
        &["--blocks", BLOCKS],
    )?;
    client.wait("connected", Duration::from_secs(10))?;
    pause(Duration::from_millis(500))?;
    let window = client.mark("start")?;
    ensure!(
        window.ok > 0 && window.is_clean(),
        "the workload did not get going: {window:?}"
    );
    Ok((client, server))
}

fn restart_after(
    ctx: &Context,
    name: &str,
    mut client: Client,
    mut server: Server,
    meanwhile: impl FnOnce(&Path) -> Result<()>,
) -> Result<(Client, Server)> {
    server.process.signal(Signal::KILL)?;
    server.process.kill();
    let image = ctx.path(&format!("{name}.img"));
    meanwhile(&image)?;
    let server = Server::start(ctx, name, &image, server.address)?;
    // A liar's first reads may already be violations, which `wait` reports as errors: only the verdict counts.
    pause(Duration::from_secs(1))?;
    client.tell("mark restarted")?;
    Ok((client, server))
}

/// Power cuts under a server that passes flushes on: with FUA on every write nothing is lost, without it something is.
/// The second is the planted bug *acknowledge before flush*, made by the client.
pub(super) fn power(ctx: &Context) -> Result<()> {
    let rig = Rig::start(ctx, 1, "64MiB")?;
    ctx.step("every write with FUA: five cuts");
    let verdict = under_cuts(ctx, &rig, "durable", "100")?;
    ensure!(
        verdict["violation_count"] == 0,
        "durable writes were lost: {verdict}"
    );
    ctx.step(format!("{} writes acknowledged, all there", verdict["ok"]));
    ctx.step("no write with FUA: five cuts");
    let verdict = under_cuts(ctx, &rig, "volatile", "0")?;
    let violations = verdict["violation_count"].as_u64().unwrap_or(0);
    ensure!(
        violations > 0,
        "writes that were never flushed outlived five power cuts: {verdict}"
    );
    ctx.step(format!(
        "{} writes acknowledged; losses noticed {violations} times",
        verdict["ok"]
    ));
    Ok(())
}

fn under_cuts(ctx: &Context, rig: &Rig, name: &str, fua: &str) -> Result<serde_json::Value> {
    const CUTS: u32 = 5;
    let device = rig.device(0);
    // The client takes a fresh disk to read zeroes.
    Tool::new("blkdiscard")
        .arg("--zeroout")
        .arg(&device)
        .succeed()?;
    let mut server = Server::start(ctx, name, &device, ctx.address()?)?;
    let workload = [
        "--max-blocks",
        "1",
        "--blocks",
        BLOCKS,
        "--fua-percent",
        fua,
        "--flush-percent",
        "0",
    ];
    let mut client = Client::start(
        ctx,
        "run",
        &format!("client-{name}"),
        &[server.address],
        &workload,
    )?;
    client.wait("connected", Duration::from_secs(10))?;
    for _ in 0..CUTS {
        pause(Duration::from_millis(400))?;
        // A plain disk tears what was in flight, which is nobody's fault: whole writes go, or stay.
        rig.cut("drop")?;
        server.process.kill();
        rig.power_on()?;
        server = Server::start(ctx, name, &device, server.address)?;
    }
    pause(Duration::from_millis(400))?;
    client.verdict()
}

struct Server {
    address: SocketAddr,
    process: Daemon,
}

impl Server {
    fn start(ctx: &Context, name: &str, disk: &Path, address: SocketAddr) -> Result<Self> {
        let args = [
            "--format=raw".to_owned(),
            format!("--export-name={VOLUME}"),
            format!("--bind={}", address.ip()),
            format!("--port={}", address.port()),
            "--shared=8".to_owned(),
            "--cache=none".to_owned(),
            "--persistent".to_owned(),
            disk.display().to_string(),
        ];
        let log = ctx.path(&format!("qemu-nbd-{name}.log"));
        let process = Daemon::start("qemu-nbd", Path::new("/usr/bin/qemu-nbd"), args, &log)?;
        wait_for("qemu-nbd listening", Duration::from_secs(10), || {
            Ok(match std::net::TcpStream::connect(address) {
                Ok(_stream) => Look::There(()),
                Err(error) => Look::NotYet(error.to_string()),
            })
        })?;
        Ok(Self { address, process })
    }
}
