//! Medians, ratios, and the table.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::process::Command;

use serde_json::{Value, json};

use super::fio::{JOBS, Sample};
use super::subject::{NAMES, QEMU, RAW, THREE};
use crate::workspace::root;

/// The job and the share of unreplicated qemu-nbd that three replicas have to reach.
const GOAL_JOB: &str = "randwrite 4k qd32";
const GOAL_RATIO: f64 = 1.0 / 3.0;
/// What an idle `dev` may use, in percent of one CPU.
const GOAL_IDLE: f64 = 1.0;

/// All samples of one run of the benchmark.
#[derive(Debug)]
pub(super) struct Report {
    runs: u32,
    seconds: u32,
    samples: BTreeMap<(&'static str, &'static str), Vec<Sample>>,
    idle_percent: Option<f64>,
}

impl Report {
    /// No samples yet.
    pub(super) fn new(runs: u32, seconds: u32) -> Self {
        Self {
            runs,
            seconds,
            samples: BTreeMap::new(),
            idle_percent: None,
        }
    }

    /// Adds a measurement.
    pub(super) fn add(&mut self, subject: &'static str, job: &'static str, sample: Sample) {
        self.samples.entry((subject, job)).or_default().push(sample);
    }

    /// Adds the CPU share of an idle `dev`, in percent of one CPU.
    pub(super) fn set_idle(&mut self, percent: f64) {
        self.idle_percent = Some(percent);
    }

    fn median(
        &self,
        subject: &'static str,
        job: &'static str,
        of: fn(&Sample) -> f64,
    ) -> Option<f64> {
        let mut values: Vec<f64> = self.samples.get(&(subject, job))?.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        let upper = *values.get(values.len() / 2)?;
        let lower = *values.get((values.len() - 1) / 2)?;
        Some(f64::midpoint(lower, upper))
    }

    fn ratio(&self, subject: &'static str, to: &'static str, job: &'static str) -> Option<f64> {
        let iops = |subject| self.median(subject, job, |sample| sample.iops);
        Some(iops(subject)? / iops(to)?)
    }

    /// The table, its circumstances, and whether the goals were met.
    pub(super) fn markdown(&self) -> String {
        let mut text = String::new();
        let mut line = |parts: std::fmt::Arguments<'_>| {
            text.write_fmt(parts)
                .and_then(|()| text.write_char('\n'))
                .expect("writing to a String cannot fail");
        };
        line(format_args!(
            "Medians of {} runs of {} s; {}.\n",
            self.runs,
            self.seconds,
            circumstances()
        ));
        line(format_args!(
            "| job | subject | IOPS | MB/s | p50 us | p99 us | of raw | of qemu-nbd |"
        ));
        line(format_args!("|---|---|---:|---:|---:|---:|---:|---:|"));
        for job in JOBS {
            for &subject in NAMES {
                let figure = |of| self.median(subject, job.name, of);
                let Some(iops) = figure(|sample| sample.iops) else {
                    continue;
                };
                line(format_args!(
                    "| {} | {} | {:.0} | {} | {} | {} | {} | {} |",
                    job.name,
                    title(subject),
                    iops,
                    or_dash(figure(|sample| sample.megabytes), 1),
                    or_dash(figure(|sample| sample.p50_us), 0),
                    or_dash(figure(|sample| sample.p99_us), 0),
                    or_dash(self.ratio(subject, RAW, job.name), 2),
                    or_dash(self.ratio(subject, QEMU, job.name), 2),
                ));
            }
        }
        if let Some(ratio) = self.ratio(THREE, QEMU, GOAL_JOB) {
            let verdict = if ratio >= GOAL_RATIO { "met" } else { "MISSED" };
            line(format_args!(
                "\nThree replicas, {GOAL_JOB}: {ratio:.2} of unreplicated qemu-nbd; the goal of {GOAL_RATIO:.2} is \
                 {verdict}."
            ));
        }
        if let Some(idle) = self.idle_percent {
            let verdict = if idle < GOAL_IDLE { "met" } else { "MISSED" };
            line(format_args!(
                "Idle `dev` (a master, three servers): {idle:.2} % of one CPU; the goal of under {GOAL_IDLE:.0} % is \
                 {verdict}."
            ));
        }
        text
    }

    /// Every sample.
    pub(super) fn json(&self) -> Value {
        let samples: Vec<Value> = self
            .samples
            .iter()
            .map(|((subject, job), samples)| {
                let all: Vec<Value> = samples.iter().map(Sample::json).collect();
                json!({ "subject": subject, "job": job, "samples": all })
            })
            .collect();
        json!({
            "circumstances": circumstances(),
            "runs": self.runs,
            "seconds": self.seconds,
            "results": samples,
            "idle_percent": self.idle_percent,
        })
    }
}

fn title(subject: &str) -> &str {
    match subject {
        "raw" => "raw file, io_uring, O_DIRECT",
        "qemu-nbd" => "qemu-nbd over a file",
        "one" => "one replica",
        "three" => "three replicas, one disk",
        other => other,
    }
}

fn or_dash(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

/// Commit, kernel, processor, memory, tools.
fn circumstances() -> String {
    let first = |program: &str, args: &[&str]| {
        let output = Command::new(program)
            .args(args)
            .current_dir(root())
            .output()
            .ok();
        let text = output
            .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
            .unwrap_or_default();
        text.lines().next().unwrap_or("?").to_owned()
    };
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map(|(_, name)| name);
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    format!(
        "commit {}, Linux {}, {} x {cores}, {}, {}",
        first("git", &["rev-parse", "--short", "HEAD"]),
        first("uname", &["-r"]),
        model.unwrap_or("unknown CPU"),
        first("fio", &["--version"]),
        first("qemu-nbd", &["--version"]),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(iops: f64) -> Sample {
        Sample {
            iops,
            megabytes: 0.0,
            p50_us: 0.0,
            p99_us: 0.0,
        }
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        let mut report = Report::new(4, 1);
        for iops in [40.0, 10.0, 30.0, 20.0] {
            report.add(RAW, GOAL_JOB, sample(iops));
        }
        assert_eq!(
            report.median(RAW, GOAL_JOB, |sample| sample.iops),
            Some(25.0)
        );
        assert_eq!(report.median(QEMU, GOAL_JOB, |sample| sample.iops), None);
    }

    #[test]
    fn the_goal_is_judged_against_qemu_nbd_of_the_same_run() {
        let mut report = Report::new(1, 1);
        report.add(QEMU, GOAL_JOB, sample(30.0));
        report.add(THREE, GOAL_JOB, sample(9.0));
        assert!(report.markdown().contains("is MISSED"));
        report.samples.clear();
        report.add(QEMU, GOAL_JOB, sample(30.0));
        report.add(THREE, GOAL_JOB, sample(11.0));
        assert!(report.markdown().contains("is met"));
    }
}
