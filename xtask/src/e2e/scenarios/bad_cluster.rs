//! Processes that must not run beside, or instead of, the ones that do.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::e2e::cluster::{Cluster, VOLUME};
use crate::e2e::context::Context;
use crate::e2e::refusal::{code, refused};
use crate::e2e::spec::Spec;
use crate::error::{During, Result, ensure};
use crate::process::{Daemon, Tool};

pub(super) fn run(ctx: &Context) -> Result<()> {
    let key = key_file(ctx, "cluster.key", "5ca1ab1e")?;
    let spec = Spec {
        size: "64MiB",
        key: Some(key.clone()),
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
    let master = cluster.master_addr.to_string();
    ports(ctx, &master, &key)?;
    keys(ctx, &cluster, &master)?;
    let tool = Stranger::new(ctx, "s1", "s1", &master)?.key(&key).tool();
    let dir = ctx.path("s1").display().to_string();
    refused(
        "a directory that another process uses",
        tool,
        code::UNSAFE,
        &[&dir],
    )?;
    cluster.check_alive()?;
    cluster.stop()?;
    elsewhere(ctx, &key)?;

    ctx.step("the cluster itself, started again");
    cluster.start_master()?;
    for at in 0..cluster.servers.len() {
        cluster.start_server(at)?;
    }
    cluster.wait_level()?;
    let uri = cluster.uri()?;
    Tool::new("nbdcopy").arg(&uri).arg(&back).succeed()?;
    Tool::new("cmp").arg(&data).arg(&back).succeed()?;
    ctx.step("every byte is there");
    cluster.equal_digests().map(|_digest| ())
}

fn key_file(ctx: &Context, name: &str, word: &str) -> Result<PathBuf> {
    let path = ctx.path(name);
    std::fs::write(&path, word.repeat(8)).during(format!("writing {}", path.display()))?;
    Ok(path)
}

fn ports(ctx: &Context, master: &str, key: &Path) -> Result<()> {
    let taken = ctx.address()?;
    let holder = TcpListener::bind(taken).during("taking a port")?;
    let address = taken.to_string();
    let dir = ctx.path("master-2").display().to_string();
    let tool = Tool::new(ctx.binary()).args(["master", "--dir", &dir, "--listen", &address]);
    refused("a master on a port in use", tool, code::FAILED, &[&address])?;
    for flag in ["--data", "--control", "--nbd"] {
        let stranger = Stranger::new(ctx, "s9", "s9", master)?
            .key(key)
            .listen(flag, &address);
        refused(
            &format!("{flag} on a port in use"),
            stranger.tool(),
            code::FAILED,
            &[&address],
        )?;
    }
    drop(holder);
    Ok(())
}

/// Wrong keys, no keys, and an address for everybody without any.
fn keys(ctx: &Context, cluster: &Cluster<'_>, master: &str) -> Result<()> {
    let other = key_file(ctx, "other.key", "0badc0de")?;
    let status = |key: &[&str]| {
        Tool::new(ctx.binary())
            .args(["status", "--master", master])
            .args(key)
    };
    let name = other.display().to_string();
    refused(
        "a command with another key",
        status(&["--cluster-key", &name]),
        code::FAILED,
        &["key"],
    )?;
    refused(
        "a command without a key",
        status(&[]),
        code::FAILED,
        &["key"],
    )?;
    // The master's key may be the wrong one: a server says so, and goes on asking.
    let stranger = Stranger::new(ctx, "s9", "s9", master)?.key(&other);
    let server = stranger.not_let_in(ctx, "cluster key")?;
    let seen = cluster.command(["status", "--json"]).run()?.stdout;
    ensure!(
        seen.contains("\"s1\"") && !seen.contains("\"s9\""),
        "the master let it in: {seen}"
    );
    ctx.step("a server with another key says so, and is not let in");
    drop(server);
    // What NBD clients may reach is the operator's choice; what servers trust each other with is not.
    let stranger = Stranger::new(ctx, "s9", "s9", master)?.listen("--control", "0.0.0.0:0");
    refused(
        "an open address without a key",
        stranger.tool(),
        code::UNSAFE,
        &["key"],
    )
}

/// Stores of this cluster, taken to where they do not belong.
fn elsewhere(ctx: &Context, key: &Path) -> Result<()> {
    let spec = Spec {
        size: "64MiB",
        key: Some(key.to_owned()),
        ..Spec::dirs_named(ctx, "t", 1)
    };
    let mut other = Cluster::start_named(ctx, spec, "master-3")?;
    let master = other.master_addr.to_string();
    let tool = Stranger::new(ctx, "s2", "s1", &master)?.key(key).tool();
    refused(
        "the directory of another server",
        tool,
        code::UNSAFE,
        &["s1"],
    )?;
    let server = Stranger::new(ctx, "s1", "s1", &master)?
        .key(key)
        .not_let_in(ctx, "another cluster")?;
    let seen = other.command(["status", "--json"]).run()?.stdout;
    ensure!(
        !seen.contains(VOLUME),
        "the master of another cluster took the store: {seen}"
    );
    ctx.step("a directory of another cluster: says so, and is not let in");
    drop(server);
    other.stop()
}

/// A server that is started beside those of the cluster.
struct Stranger {
    binary: PathBuf,
    args: Vec<String>,
}

impl Stranger {
    /// `moorline serve` as server `id` on the directory `dir`, listening on free addresses.
    fn new(ctx: &Context, id: &str, dir: &str, master: &str) -> Result<Self> {
        let dir = ctx.path(dir);
        std::fs::create_dir_all(&dir).during(format!("creating {}", dir.display()))?;
        let mut args = vec!["serve".to_owned()];
        for (flag, value) in [
            ("--server-id", id.to_owned()),
            ("--dir", dir.display().to_string()),
            ("--master", master.to_owned()),
            ("--data", ctx.address()?.to_string()),
            ("--control", ctx.address()?.to_string()),
            ("--nbd", ctx.address()?.to_string()),
        ] {
            args.extend([flag.to_owned(), value]);
        }
        Ok(Self {
            binary: ctx.binary().to_owned(),
            args,
        })
    }

    fn key(mut self, key: &Path) -> Self {
        self.args
            .extend(["--cluster-key".to_owned(), key.display().to_string()]);
        self
    }

    /// Listens elsewhere.
    fn listen(mut self, flag: &str, address: &str) -> Self {
        let at = self
            .args
            .iter()
            .position(|arg| arg == flag)
            .expect("the flag was given");
        address.clone_into(&mut self.args[at + 1]);
        self
    }

    /// Starts it, and waits until it says why the master does not let it in.
    fn not_let_in(&self, ctx: &Context, why: &str) -> Result<Daemon> {
        let server = Daemon::start(
            "stranger",
            &self.binary,
            &self.args,
            &ctx.path("stranger.log"),
        )?;
        server.wait_log(why, Duration::from_secs(10))?;
        Ok(server)
    }

    fn tool(&self) -> Tool {
        Tool::new(&self.binary).args(&self.args)
    }
}
