//! Wrong input to a healthy cluster: each refused with its code, and nothing changed by any of it.

use std::net::SocketAddr;

use crate::e2e::cluster::{Cluster, VOLUME};
use crate::e2e::context::Context;
use crate::e2e::refusal::{code, refused};
use crate::e2e::spec::Spec;
use crate::error::{During, Result, ensure};
use crate::process::Tool;

pub(super) fn run(ctx: &Context) -> Result<()> {
    let spec = Spec {
        size: "64MiB",
        ..Spec::dirs(ctx, 2)
    };
    let mut cluster = Cluster::with_volume(ctx, spec)?;
    let before = cluster.status()?;
    ctx.step("commands that must be refused");
    usage(ctx)?;
    volumes(&cluster)?;
    masters(ctx, &cluster)?;
    configuration(ctx, &cluster)?;
    exports(ctx, &cluster)?;
    cluster.check_alive()?;
    let after = cluster.wait_level()?;
    ensure!(
        before.epoch == after.epoch,
        "bad input made a new epoch: {}",
        after.summary()
    );
    degraded(ctx, &mut cluster)
}

fn usage(ctx: &Context) -> Result<()> {
    let tool = |args: &[&str]| Tool::new(ctx.binary()).args(args);
    refused("no command", tool(&[]), code::USAGE, &[])?;
    refused(
        "an unknown command",
        tool(&["sail"]),
        code::USAGE,
        &["sail"],
    )?;
    refused(
        "an unknown flag",
        tool(&["status", "--loudly"]),
        code::USAGE,
        &["--loudly"],
    )?;
    refused(
        "an address that is none",
        tool(&["status", "--master", "nowhere"]),
        code::USAGE,
        &["nowhere"],
    )?;
    let absent = ctx.path("absent.store").display().to_string();
    refused(
        "a store that is not there",
        tool(&["store", "inspect", &absent]),
        code::NOT_FOUND,
        &[&absent],
    )?;
    let text = ctx.path("text.store");
    std::fs::write(&text, [b'x'; 65_536]).during("writing a file that is no store")?;
    let text = text.display().to_string();
    refused(
        "a file that is no store",
        tool(&["store", "inspect", &text]),
        code::FAILED,
        &[&text],
    )
}

fn volumes(cluster: &Cluster<'_>) -> Result<()> {
    let create = |args: &[&'static str]| cluster.command(["volume", "create"]).args(args);
    for (what, args, code, naming) in [
        (
            "size not a multiple of 4096",
            &["x", "--size", "67108865", "--replicas", "1"][..],
            code::USAGE,
            &["4096"][..],
        ),
        (
            "a size of zero",
            &["x", "--size", "0", "--replicas", "1"],
            code::USAGE,
            &["size"],
        ),
        (
            "a size that is none",
            &["x", "--size", "huge", "--replicas", "1"],
            code::USAGE,
            &["huge"],
        ),
        (
            "more replicas than servers",
            &["x", "--size", "64MiB", "--replicas", "3"],
            code::FAILED,
            &["3", "2"],
        ),
        (
            "no replicas",
            &["x", "--size", "64MiB", "--replicas", "0"],
            code::USAGE,
            &["replicas"],
        ),
        (
            "a name with a slash",
            &["a/b", "--size", "64MiB", "--replicas", "1"],
            code::USAGE,
            &["a/b"],
        ),
        (
            "an unknown policy",
            &[
                "x",
                "--size",
                "64MiB",
                "--replicas",
                "1",
                "--policy",
                "hope",
            ],
            code::USAGE,
            &["hope"],
        ),
        (
            "a name that is taken",
            &[VOLUME, "--size", "64MiB", "--replicas", "1"],
            code::FAILED,
            &[VOLUME],
        ),
    ] {
        refused(what, create(args), code, naming)?;
    }
    refused(
        "status of no volume",
        cluster.command(["volume", "status", "nope"]),
        code::NOT_FOUND,
        &["nope"],
    )?;
    refused(
        "deleting no volume",
        cluster.command(["volume", "delete", "nope"]),
        code::NOT_FOUND,
        &["nope"],
    )
}

fn masters(ctx: &Context, cluster: &Cluster<'_>) -> Result<()> {
    let nobody = ctx.address()?.to_string();
    let tool = |args: &[&str]| Tool::new(ctx.binary()).args(args);
    refused(
        "an unreachable master",
        tool(&["status", "--master", &nobody]),
        code::FAILED,
        &[&nobody],
    )?;
    refused(
        "an unreachable master by environment",
        tool(&["volume", "list"]).env("MOORLINE_MASTER", &nobody),
        code::FAILED,
        &[&nobody],
    )?;
    let not_a_master = cluster.servers[0].nbd.to_string();
    refused(
        "a master that is none",
        tool(&["status", "--master", &not_a_master]),
        code::FAILED,
        &[&not_a_master],
    )
}

fn configuration(ctx: &Context, cluster: &Cluster<'_>) -> Result<()> {
    let path = ctx.path("server.toml");
    let addresses: Vec<SocketAddr> = (0..3).map(|_| ctx.address()).collect::<Result<_>>()?;
    let good = format!(
        "server-id = \"s9\"\ndir = {:?}\nmaster = \"{}\"\ndata = \"{}\"\ncontrol = \"{}\"\nnbd = \"{}\"\n",
        ctx.path("s9"),
        cluster.master_addr,
        addresses[0],
        addresses[1],
        addresses[2]
    );
    std::fs::write(&path, good + "anchor = true\n").during("writing a configuration")?;
    let name = path.display().to_string();
    let serve = |config: &str| Tool::new(ctx.binary()).args(["serve", "--config", config]);
    refused(
        "an unknown configuration key",
        serve(&name),
        code::USAGE,
        &[&name, "anchor"],
    )?;
    std::fs::write(&path, "server-id = \n").during("writing a configuration")?;
    refused(
        "a configuration that is no TOML",
        serve(&name),
        code::USAGE,
        &[&name],
    )?;
    let absent = ctx.path("absent.toml").display().to_string();
    refused(
        "a configuration that is not there",
        serve(&absent),
        code::USAGE,
        &[&absent],
    )
}

fn exports(ctx: &Context, cluster: &Cluster<'_>) -> Result<()> {
    let primary = cluster.primary()?;
    let other = 1 - primary;
    let wrong = format!("nbd://{}/nope", cluster.servers[primary].nbd);
    refused(
        "an export that is not there",
        Tool::new("nbdinfo").arg(&wrong),
        1,
        &["nope"],
    )?;
    let id = cluster.servers[primary].id.clone();
    // qemu shows the server's own words; libnbd keeps them to itself.
    let asked = Tool::new("qemu-img").arg("info").arg(cluster.uri_at(other));
    refused(
        "an export at a server that is not its primary",
        asked,
        1,
        &[&id],
    )?;
    let listed = Tool::new("nbdinfo")
        .args(["--list", &format!("nbd://{}", cluster.servers[primary].nbd)])
        .succeed()?;
    ensure!(
        listed.stdout.contains(VOLUME),
        "the export list lacks {VOLUME}: {}",
        listed.stdout
    );
    ctx.step("the export list names the volume");
    Ok(())
}

/// One of two servers down: a status, with the exit code of a degraded one.
fn degraded(ctx: &Context, cluster: &mut Cluster<'_>) -> Result<()> {
    let replica = cluster.a_replica()?;
    cluster.kill_server(replica);
    crate::interrupt::wait_for(
        "a degraded status",
        std::time::Duration::from_secs(20),
        || {
            use crate::interrupt::Look;
            let finished = cluster.raw_status()?;
            Ok(match finished.code() {
                Some(code::DEGRADED) => Look::There(()),
                _ => Look::NotYet(format!("exit {:?}", finished.code())),
            })
        },
    )?;
    ctx.step("with a server down, status exits with 4");
    cluster.start_server(replica)?;
    cluster.wait_level().map(|_status| ())
}
