//! The verifying client against qemu-nbd, honest and not: a checker that never fails has not been tested.

use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;

use crate::e2e::client::{self, Client};
use crate::e2e::cluster::VOLUME;
use crate::e2e::context::Context;
use crate::error::{During, Result, ensure};
use crate::interrupt::{Look, pause, wait_for};
use crate::process::Daemon;

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
    let server = Server::start(ctx, name, ctx.address()?)?;
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
    meanwhile(&ctx.path(&format!("{name}.img")))?;
    let server = Server::start(ctx, name, server.address)?;
    // A liar's first reads may already be violations, which `wait` reports as errors: only the verdict counts.
    pause(Duration::from_secs(1))?;
    client.tell("mark restarted")?;
    Ok((client, server))
}

struct Server {
    address: std::net::SocketAddr,
    process: Daemon,
}

impl Server {
    fn start(ctx: &Context, name: &str, address: std::net::SocketAddr) -> Result<Self> {
        let args = [
            "--format=raw".to_owned(),
            format!("--export-name={VOLUME}"),
            format!("--bind={}", address.ip()),
            format!("--port={}", address.port()),
            "--shared=8".to_owned(),
            "--persistent".to_owned(),
            ctx.path(&format!("{name}.img")).display().to_string(),
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
