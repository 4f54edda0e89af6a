//! What a stock client is told about the export, and each command of the protocol by hand.

use serde_json::Value;

use crate::e2e::cluster::Cluster;
use crate::e2e::context::Context;
use crate::e2e::spec::Spec;
use crate::error::{Failure, Result, ensure};
use crate::process::Tool;

const BYTES: u64 = 64 << 20;

/// Every line is a qemu-io command that fails unless the bytes are as the lines before left them.
const COMMANDS: &[&str] = &[
    // Unaligned at both ends, within one block, and over a boundary.
    "write -P 0x11 0 64k",
    "write -P 0x22 100 5000",
    "read -P 0x11 0 100",
    "read -P 0x22 100 5000",
    "read -P 0x11 5100 1k",
    "write -P 0x33 8191 2",
    "read -P 0x33 8191 2",
    "read -P 0x11 8193 100",
    // Zeroes with and without holes, unaligned too.
    "write -z 16k 8k",
    "read -P 0 16k 8k",
    "write -z -u 32k 5000",
    "read -P 0 32k 5000",
    "read -P 0x11 37768 100",
    "discard 48k 16k",
    "read -P 0 48k 16k",
    // Forced unit access, flush, and the largest request.
    "write -f -P 0x44 1M 4k",
    "flush",
    "read -P 0x44 1M 4k",
    "write -P 0x55 16M 32M",
    "read -P 0x55 16M 32M",
    // The very end.
    "write -P 0x66 67108863 1",
    "read -P 0x66 67108863 1",
];

pub(super) fn run(ctx: &Context) -> Result<()> {
    let spec = Spec {
        size: "64MiB",
        ..Spec::dirs(ctx, 3)
    };
    let mut cluster = Cluster::with_volume(ctx, spec)?;
    let uri = cluster.uri()?;
    told(&uri)?;
    ctx.step("nbdinfo is told size, block sizes, and every capability");
    let mut tool = Tool::new("qemu-io").args(["-f", "raw"]);
    for command in COMMANDS {
        tool = tool.args(["-c", command]);
    }
    let finished = tool.arg(&uri).succeed()?;
    // qemu-io ends with 0 also after a pattern that did not match.
    let text = finished.output();
    ensure!(
        !text.contains("Pattern verification failed"),
        "qemu-io read other bytes: {text}"
    );
    ctx.step(format!("{} commands by qemu-io", COMMANDS.len()));
    allocation(&uri)?;
    ctx.step("base:allocation covers the volume");
    cluster.wait_level()?;
    cluster.check_alive()?;
    cluster.equal_digests().map(|_digest| ())
}

fn told(uri: &str) -> Result<()> {
    let document = json_of(Tool::new("nbdinfo").args(["--json", uri]))?;
    ensure!(
        document["structured"] == true,
        "no structured replies: {document}"
    );
    let export = &document["exports"][0];
    for (key, want) in [
        ("export-size", Value::from(BYTES)),
        ("is_read_only", Value::from(false)),
        ("can_multi_conn", Value::from(true)),
        ("can_flush", Value::from(true)),
        ("can_fua", Value::from(true)),
        ("can_trim", Value::from(true)),
        ("can_zero", Value::from(true)),
        ("can_cache", Value::from(true)),
        ("can_fast_zero", Value::from(true)),
        ("block_size_minimum", Value::from(1)),
        ("block_size_preferred", Value::from(4096)),
        ("block_size_maximum", Value::from(32 << 20)),
    ] {
        ensure!(
            export[key] == want,
            "nbdinfo was told {key} = {}, not {want}",
            export[key]
        );
    }
    let contexts = export["contexts"].to_string();
    ensure!(
        contexts.contains("base:allocation"),
        "no base:allocation: {export}"
    );
    Ok(())
}

/// The extents follow each other without a gap to the end of the volume.
fn allocation(uri: &str) -> Result<()> {
    let document = json_of(Tool::new("nbdinfo").args(["--map", "--json", uri]))?;
    let mut end = 0;
    for extent in document.as_array().map_or(&[][..], Vec::as_slice) {
        ensure!(
            extent["offset"] == end,
            "an extent starts at {}, not at {end}",
            extent["offset"]
        );
        end += extent["length"].as_u64().unwrap_or(0);
    }
    ensure!(end == BYTES, "the extents end at {end}, not at {BYTES}");
    Ok(())
}

fn json_of(tool: Tool) -> Result<Value> {
    let finished = tool.succeed()?;
    serde_json::from_str(&finished.stdout).map_err(|error| {
        Failure::Expected(format!(
            "nbdinfo printed no JSON ({error}): {}",
            finished.stdout
        ))
    })
}
