//! Processes that must not run beside, or instead of, the ones that do.

use std::net::TcpListener;

use crate::e2e::cluster::Cluster;
use crate::e2e::context::Context;
use crate::e2e::refusal::{code, refused};
use crate::e2e::spec::Spec;
use crate::error::{During, Result};
use crate::process::Tool;

pub(super) fn run(ctx: &Context) -> Result<()> {
    let spec = Spec {
        size: "64MiB",
        ..Spec::dirs(ctx, 2)
    };
    let mut cluster = Cluster::with_volume(ctx, spec)?;
    let uri = cluster.uri()?;
    let (data, back) = (ctx.path("in.img"), ctx.path("out.img"));
    super::clients::random_file(&data, 64 << 20)?;
    Tool::new("nbdcopy")
        .arg("--flush")
        .arg(&data)
        .arg(&uri)
        .succeed()?;
    ctx.step("processes that must be refused");
    ports(ctx, &cluster)?;
    keys(ctx, &cluster)?;
    in_use(ctx, &cluster)?;
    cluster.check_alive()?;
    cluster.stop()?;
    strangers(ctx)?;

    ctx.step("the cluster itself, started again");
    cluster.start_master()?;
    for at in 0..cluster.servers.len() {
        cluster.start_server(at)?;
    }
    cluster.wait_whole()?;
    let uri = cluster.uri()?;
    Tool::new("nbdcopy").arg(&uri).arg(&back).succeed()?;
    Tool::new("cmp").arg(&data).arg(&back).succeed()?;
    ctx.step("every byte is there");
    cluster.equal_digests().map(|_digest| ())
}

fn ports(ctx: &Context, cluster: &Cluster<'_>) -> Result<()> {
    let taken = ctx.address()?;
    let holder = TcpListener::bind(taken).during("taking a port")?;
    let address = taken.to_string();
    let dir = ctx.path("master-2").display().to_string();
    let master = Tool::new(ctx.binary()).args(["master", "--dir", &dir, "--listen", &address]);
    refused(
        "a master on a port in use",
        master,
        code::FAILED,
        &[&address],
    )?;
    let master = cluster.master_addr.to_string();
    let free = || Addresses::free(ctx);
    for (what, addresses) in [
        (
            "a data address in use",
            Addresses {
                data: address.clone(),
                ..free()?
            },
        ),
        (
            "a control address in use",
            Addresses {
                control: address.clone(),
                ..free()?
            },
        ),
        (
            "an NBD address in use",
            Addresses {
                nbd: address.clone(),
                ..free()?
            },
        ),
    ] {
        refused(
            what,
            serve(ctx, "s9", "s9", &master, &addresses)?,
            code::FAILED,
            &[&address],
        )?;
    }
    drop(holder);
    Ok(())
}

/// A key that the cluster does not have, and an address for everybody without any.
fn keys(ctx: &Context, cluster: &Cluster<'_>) -> Result<()> {
    let key = ctx.path("other.key");
    std::fs::write(
        &key,
        "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n",
    )
    .during("writing a key")?;
    let master = cluster.master_addr.to_string();
    let key = key.display().to_string();
    let tool =
        serve(ctx, "s9", "s9", &master, &Addresses::free(ctx)?)?.args(["--cluster-key", &key]);
    refused(
        "a server with another cluster key",
        tool,
        code::FAILED,
        &["key"],
    )?;
    // What NBD clients may reach is the operator's choice; what servers trust each other with is not.
    let open = Addresses {
        control: "0.0.0.0:0".to_owned(),
        ..Addresses::free(ctx)?
    };
    let tool = serve(ctx, "s9", "s9", &master, &open)?;
    refused(
        "an open address without a key",
        tool,
        code::UNSAFE,
        &["key"],
    )
}

fn in_use(ctx: &Context, cluster: &Cluster<'_>) -> Result<()> {
    let tool = serve(
        ctx,
        "s1",
        "s1",
        &cluster.master_addr.to_string(),
        &Addresses::free(ctx)?,
    )?;
    let dir = ctx.path("s1").display().to_string();
    refused(
        "a store that another process has open",
        tool,
        code::UNSAFE,
        &[&dir],
    )
}

/// Stores of this cluster, taken to where they do not belong.
fn strangers(ctx: &Context) -> Result<()> {
    let mut other = Cluster::start_named(
        ctx,
        Spec {
            size: "64MiB",
            ..Spec::dirs_named(ctx, "t", 1)
        },
        "master-3",
    )?;
    let master = other.master_addr.to_string();
    let tool = serve(ctx, "s2", "s1", &master, &Addresses::free(ctx)?)?;
    refused("the store of another server", tool, code::UNSAFE, &["s1"])?;
    let tool = serve(ctx, "s1", "s1", &master, &Addresses::free(ctx)?)?;
    refused(
        "a store of another cluster",
        tool,
        code::UNSAFE,
        &["cluster"],
    )?;
    other.stop()
}

/// Where a server listens.
struct Addresses {
    data: String,
    control: String,
    nbd: String,
}

impl Addresses {
    fn free(ctx: &Context) -> Result<Self> {
        let free = || ctx.address().map(|address| address.to_string());
        Ok(Self {
            data: free()?,
            control: free()?,
            nbd: free()?,
        })
    }
}

/// `moorline serve` as server `id` on the directory `dir`.
fn serve(ctx: &Context, id: &str, dir: &str, master: &str, addresses: &Addresses) -> Result<Tool> {
    let dir = ctx.path(dir);
    std::fs::create_dir_all(&dir).during("creating a directory")?;
    Ok(Tool::new(ctx.binary())
        .args(["serve", "--server-id", id, "--dir"])
        .arg(&dir)
        .args(["--master", master])
        .args(["--data", &addresses.data])
        .args(["--control", &addresses.control])
        .args(["--nbd", &addresses.nbd]))
}
