//! Servers that run out of descriptors or memory: new work is refused, promises are kept, and a process that cannot
//! go on ends whole.

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};

use crate::e2e::client::Client;
use crate::e2e::cluster::{Cluster, LEASE, SETTLE, VOLUME};
use crate::e2e::context::Context;
use crate::e2e::refusal::{code, refused};
use crate::e2e::spec::Spec;
use crate::error::{During, Failure, Result, ensure};
use crate::interrupt::pause;
use crate::process::Tool;

const GENTLE: &str = "500";
const BLOCKS: &str = "8192";

/// Descriptors left to a server beyond those it has.
const SPARE_DESCRIPTORS: usize = 3;
/// Connections that nobody greets, made until nothing is left.
const STRANGERS: usize = 32;
/// A server that has nothing left says so now and then; it does not spin.
const WARNINGS_A_SECOND: usize = 20;
/// Address space left to a server beyond what it has: less than one large request's buffers.
const SPARE_BYTES: u64 = 1 << 20;

/// Descriptors of every server run out under load, and come back.
pub(super) fn descriptors(ctx: &Context) -> Result<()> {
    let mut cluster = Cluster::with_volume(ctx, Spec::dirs(ctx, 3))?;
    let mut client = Client::workload(ctx, &cluster, &["--blocks", BLOCKS, "--rate", GENTLE])?;
    let primary = cluster.primary()?;
    let mut limits = Vec::new();
    for at in 0..cluster.servers.len() {
        let pid = cluster.server_pid(at)?;
        let before = limit(
            pid,
            Resource::Nofile,
            descriptors_but(SPARE_DESCRIPTORS, pid)?,
        )?;
        limits.push((pid, before));
    }
    client.mark("before")?;
    let log = cluster.server_log(primary)?;
    let warned = warnings(&log)?;
    let strangers: Vec<TcpStream> = (0..STRANGERS)
        .map_while(|_| TcpStream::connect(cluster.servers[primary].nbd).ok())
        .collect();
    let time = Duration::from_secs(5);
    pause(time)?;
    let during = client.mark("without descriptors")?;
    let warned = warnings(&log)? - warned;
    ctx.step(format!(
        "{} strangers at {}, whose descriptors are gone: {} writes acknowledged, slowest request {:.3} s, {warned} warnings in {time:?}",
        strangers.len(),
        cluster.servers[primary].id,
        during.ok,
        during.max_latency.as_secs_f64()
    ));
    ensure!(
        during.is_clean() && during.ok > 0,
        "clients that were there before must not notice: {} acknowledged, {}",
        during.ok,
        during.errors
    );
    ensure!(
        warned > 0,
        "the server does not say that it has no descriptors"
    );
    ensure!(
        warned <= WARNINGS_A_SECOND * 5,
        "the server warns {warned} times in {time:?}: it spins"
    );
    let another = cluster.command([
        "volume",
        "create",
        "more",
        "--size",
        "16MiB",
        "--replicas",
        "3",
    ]);
    refused(
        "a volume that nobody has descriptors for",
        another,
        code::FAILED,
        &["Too many open files", "nothing of the volume is left"],
    )?;
    drop(strangers);
    for (pid, before) in limits {
        let _exhausted = prlimit(Some(pid), Resource::Nofile, before)
            .map_err(std::io::Error::from)
            .during("giving descriptors back")?;
    }
    let create = [
        "volume",
        "create",
        "more",
        "--size",
        "16MiB",
        "--replicas",
        "3",
    ];
    cluster.command(create).within(SETTLE).succeed()?;
    cluster
        .command(["volume", "delete", "more"])
        .within(SETTLE)
        .succeed()?;
    Tool::new("nbdinfo")
        .arg(cluster.uri_at(primary))
        .succeed()?;
    ctx.step(format!(
        "with descriptors again: new clients, new volumes, and {VOLUME} all the time"
    ));
    client.finish(ctx)?;
    cluster.wait_level()?;
    cluster.equal_digests().map(|_digest| ())
}

/// A primary gets no more memory: it goes on with what it has, or ends whole, and another takes over.
pub(super) fn memory(ctx: &Context) -> Result<()> {
    let mut cluster = Cluster::with_volume(ctx, Spec::dirs(ctx, 3))?;
    let workload = ["--blocks", BLOCKS, "--rate", "2000", "--op-timeout", "1.5"];
    let client = Client::workload(ctx, &cluster, &workload)?;
    pause(Duration::from_secs(1))?;
    let before = cluster.wait_whole()?;
    let primary = cluster.primary()?;
    let pid = cluster.server_pid(primary)?;
    let id = cluster.servers[primary].id.clone();
    limit(pid, Resource::As, address_space_of(pid)? + SPARE_BYTES)?;
    // Its buffers are pooled: large requests of another client need new ones.
    let image = Tool::new("qemu-io")
        .args([
            "-f",
            "raw",
            "-c",
            "aio_write -P 7 64M 32M",
            "-c",
            "aio_write -P 8 96M 32M",
            "-c",
            "aio_flush",
        ])
        .arg(cluster.uri_at(primary))
        .within(SETTLE)
        .run()?;
    ctx.step(format!(
        "{id} gets no more memory; 64 MiB of writes: {}",
        image.status
    ));
    let ended = cluster.server_ended(primary)?;
    match ended {
        Some(status) => {
            let after = cluster.wait_new_epoch(before.epoch, LEASE * 5)?;
            ctx.step(format!(
                "{id} ended whole ({status}); {} serves epoch {}",
                after.primary.as_deref().unwrap_or("nobody"),
                after.epoch
            ));
            cluster.start_server(primary)?;
        }
        None => {
            ctx.step(format!("{id} goes on with what it has"));
            cluster.signal_server(primary, Signal::KILL)?;
            cluster.wait_new_epoch(before.epoch, LEASE * 5)?;
            cluster.kill_server(primary);
            cluster.start_server(primary)?;
        }
    }
    cluster.wait_whole()?;
    client.finish(ctx)?;
    cluster.wait_level()?;
    cluster.equal_digests().map(|_digest| ())
}

/// Lowers what a process may have; says what it might have before.
fn limit(pid: Pid, what: Resource, most: u64) -> Result<Rlimit> {
    let own = getrlimit(what);
    let lower = Rlimit {
        current: Some(most),
        maximum: own.maximum,
    };
    prlimit(Some(pid), what, lower)
        .map_err(std::io::Error::from)
        .during("lowering a limit of a server")
}

/// The limit under which so many more descriptors can be had: it is on their numbers, and the lowest free one is taken.
fn descriptors_but(spare: usize, pid: Pid) -> Result<u64> {
    let dir = format!("/proc/{}/fd", pid.as_raw_nonzero());
    let open: BTreeSet<u64> = std::fs::read_dir(&dir)
        .during(format!("reading {dir}"))?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    let mut free = (0..).filter(|number| !open.contains(number));
    Ok(free.nth(spare).unwrap_or(u64::MAX))
}

fn address_space_of(pid: Pid) -> Result<u64> {
    let path = format!("/proc/{}/status", pid.as_raw_nonzero());
    let text = std::fs::read_to_string(&path).during(format!("reading {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmSize:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .map(|kib| kib << 10)
        .ok_or_else(|| Failure::Expected(format!("no VmSize in {path}")))
}

fn warnings(log: &std::path::Path) -> Result<usize> {
    let text = std::fs::read_to_string(log).during(format!("reading {}", log.display()))?;
    Ok(text.matches("cannot accept a connection").count())
}
