//! One fio job, and what it says.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::error::{Failure, Result, ensure};
use crate::process::Tool;

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Read,
    Write,
}

/// One measured pattern.
#[derive(Debug)]
pub(super) struct Job {
    /// Its name in tables.
    pub(super) name: &'static str,
    pattern: &'static str,
    direction: Direction,
    block: &'static str,
    depth: u32,
}

/// The patterns, in the order in which they run: writes before the reads that find what they wrote.
pub(super) const JOBS: &[Job] = &[
    Job {
        name: "randwrite 4k qd1",
        pattern: "randwrite",
        direction: Direction::Write,
        block: "4k",
        depth: 1,
    },
    Job {
        name: "randwrite 4k qd32",
        pattern: "randwrite",
        direction: Direction::Write,
        block: "4k",
        depth: 32,
    },
    Job {
        name: "randread 4k qd32",
        pattern: "randread",
        direction: Direction::Read,
        block: "4k",
        depth: 32,
    },
    Job {
        name: "write 128k qd16",
        pattern: "write",
        direction: Direction::Write,
        block: "128k",
        depth: 16,
    },
    Job {
        name: "read 128k qd16",
        pattern: "read",
        direction: Direction::Read,
        block: "128k",
        depth: 16,
    },
];

/// What fio works on.
#[derive(Debug, Clone)]
pub(super) enum Target {
    /// A file, through io_uring and O_DIRECT.
    File(PathBuf),
    /// An NBD export.
    Nbd(String),
}

/// One measurement.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    /// Operations a second.
    pub(super) iops: f64,
    /// Megabytes (10^6 bytes) a second.
    pub(super) megabytes: f64,
    /// Median completion latency, in microseconds.
    pub(super) p50_us: f64,
    /// 99th percentile of the completion latency, in microseconds.
    pub(super) p99_us: f64,
}

/// Runs a job for some seconds, after one more second that does not count.
pub(super) fn run(job: &Job, target: &Target, seconds: u32) -> Result<Sample> {
    let limit = Duration::from_secs(u64::from(seconds) + 60);
    let finished = tool(target)
        .args([
            &format!("--name={}", job.pattern),
            &format!("--rw={}", job.pattern),
            &format!("--bs={}", job.block),
            &format!("--iodepth={}", job.depth),
            &format!("--runtime={seconds}"),
            "--ramp_time=1",
            "--time_based",
            "--randrepeat=0",
            "--norandommap",
            "--size=1g",
            "--output-format=json",
        ])
        .within(limit)
        .succeed()?;
    parse(&finished.stdout, job.direction)
}

/// Writes the whole gigabyte once, so that no later read finds a hole and no later write allocates.
pub(super) fn fill(target: &Target) -> Result<()> {
    tool(target)
        .args([
            "--name=fill",
            "--rw=write",
            "--bs=1m",
            "--iodepth=8",
            "--size=1g",
            "--end_fsync=1",
        ])
        .within(Duration::from_secs(300))
        .succeed()
        .map(|_finished| ())
}

fn tool(target: &Target) -> Tool {
    let tool = Tool::new("fio").arg("--refill_buffers");
    match target {
        Target::File(path) => tool
            .args(["--ioengine=io_uring", "--direct=1"])
            .arg(format!("--filename={}", path.display())),
        Target::Nbd(uri) => tool.arg("--ioengine=nbd").arg(format!("--uri={uri}")),
    }
}

fn parse(text: &str, direction: Direction) -> Result<Sample> {
    // fio may print a warning before its document.
    let start = text.find('{').unwrap_or(0);
    let document: Value = serde_json::from_str(&text[start..])
        .map_err(|error| Failure::Expected(format!("fio printed no JSON ({error}): {text}")))?;
    let job = &document["jobs"][0];
    ensure!(job["error"] == 0, "fio reports error {}", job["error"]);
    let side = &job[match direction {
        Direction::Read => "read",
        Direction::Write => "write",
    }];
    let number = |value: &Value, what: &str| {
        value
            .as_f64()
            .ok_or_else(|| Failure::Expected(format!("fio's output lacks {what}: {side}")))
    };
    let percentile = |name: &str| {
        number(&side["clat_ns"]["percentile"][name], "a latency")
            .map(|nanoseconds| nanoseconds / 1e3)
    };
    Ok(Sample {
        iops: number(&side["iops"], "iops")?,
        megabytes: number(&side["bw_bytes"], "a bandwidth")? / 1e6,
        p50_us: percentile("50.000000")?,
        p99_us: percentile("99.000000")?,
    })
}

impl Sample {
    /// All of it, for a file.
    pub(super) fn json(&self) -> Value {
        json!({ "iops": self.iops, "mb_per_s": self.megabytes, "p50_us": self.p50_us, "p99_us": self.p99_us })
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>8.0} IOPS {:>7.1} MB/s  p50 {:>7.0} us  p99 {:>8.0} us",
            self.iops, self.megabytes, self.p50_us, self.p99_us
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_side_that_the_job_used_is_read() {
        let text = r#"note: something
        {"jobs":[{"error":0,"read":{"iops":10.0,"bw_bytes":40960,
            "clat_ns":{"percentile":{"50.000000":2000,"99.000000":9000}}},"write":{"iops":0}}]}"#;
        let sample = parse(text, Direction::Read).unwrap();
        assert!((sample.iops - 10.0).abs() < f64::EPSILON);
        assert!((sample.p99_us - 9.0).abs() < f64::EPSILON);
        assert!(parse(text, Direction::Write).is_err());
    }
}
