//! What replication costs: fio on the raw file, on qemu-nbd over a plain file, and on volumes with one and three
//! replicas, all on one disk, in one run, so that only ratios need to be believed.
//!
//! One subject is alive at a time; runs go round all subjects, so that a drift of the machine hits all alike; the
//! figure is the median of the runs.

mod fio;
mod idle;
mod report;
mod subject;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use self::fio::{JOBS, Job, Sample};
use self::report::Report;
use self::subject::Subject;
use crate::e2e::context::{Context, Depth, Options};
use crate::error::{During, Result, ensure};
use crate::{packages, workspace};

/// Options of `cargo xtask bench`.
#[derive(Debug, Args)]
pub(crate) struct Command {
    /// Two runs of 2 seconds a job: enough to see a silly mistake, not enough to publish
    #[arg(long)]
    quick: bool,
    /// Runs; the figure is their median
    #[arg(long)]
    runs: Option<u32>,
    /// Seconds for each job
    #[arg(long)]
    seconds: Option<u32>,
    /// Measure this binary instead of building one
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Only these subjects: raw, qemu-nbd, one, three
    #[arg(long = "subject")]
    subjects: Vec<String>,
    /// Only jobs whose name contains this
    #[arg(long)]
    job: Option<String>,
    /// Where to write the table, besides the terminal
    #[arg(long)]
    markdown: Option<PathBuf>,
    /// Where to write all samples
    #[arg(long)]
    json: Option<PathBuf>,
    /// Leave out the idle measurement
    #[arg(long)]
    no_idle: bool,
}

/// Measures, prints, and writes the files asked for.
pub(crate) fn run(command: &Command) -> Result<()> {
    packages::provide()?;
    let binary = match &command.binary {
        Some(binary) => std::path::absolute(binary).during(binary.display().to_string())?,
        None => workspace::build_release()?,
    };
    let options = Options {
        binary,
        depth: Depth::Gate,
        rounds: None,
        seed: 1,
    };
    let ctx = Context::new("bench", &options)?;
    match measure(command, &ctx) {
        Ok(report) => publish(command, &report),
        Err(error) => {
            println!("   kept {}", ctx.keep().display());
            Err(error)
        }
    }
}

fn measure(command: &Command, ctx: &Context) -> Result<Report> {
    let runs = command.runs.unwrap_or(if command.quick { 2 } else { 5 });
    let seconds = command
        .seconds
        .unwrap_or(if command.quick { 2 } else { 10 });
    let jobs: Vec<&Job> = JOBS
        .iter()
        .filter(|job| {
            command
                .job
                .as_deref()
                .is_none_or(|part| job.name.contains(part))
        })
        .collect();
    ensure!(!jobs.is_empty(), "no job's name contains {:?}", command.job);
    let mut subjects = Vec::new();
    for name in subject::NAMES {
        if command.subjects.is_empty() || command.subjects.iter().any(|wanted| wanted == name) {
            ctx.step(format!("preparing {name}"));
            subjects.push(Subject::prepare(ctx, name)?);
        }
    }
    ensure!(
        !subjects.is_empty(),
        "no such subject; there are {}",
        subject::NAMES.join(", ")
    );
    let mut report = Report::new(runs, seconds);
    for run in 1..=runs {
        for subject in &mut subjects {
            subject.start(ctx)?;
            for job in &jobs {
                let sample: Sample = fio::run(job, &subject.target()?, seconds)?;
                ctx.step(format!(
                    "run {run} {:<9} {:<18} {sample}",
                    subject.name(),
                    job.name
                ));
                report.add(subject.name(), job.name, sample);
            }
            subject.stop()?;
        }
    }
    if !command.no_idle {
        let length = Duration::from_secs(if command.quick { 10 } else { 30 });
        ctx.step(format!("idle `dev` for {} s", length.as_secs()));
        report.set_idle(idle::measure(ctx, length)?);
    }
    Ok(report)
}

fn publish(command: &Command, report: &Report) -> Result<()> {
    let table = report.markdown();
    println!("\n{table}");
    if let Some(path) = &command.markdown {
        std::fs::write(path, &table).during(format!("writing {}", path.display()))?;
    }
    if let Some(path) = &command.json {
        let text = format!("{:#}\n", report.json());
        std::fs::write(path, text).during(format!("writing {}", path.display()))?;
    }
    Ok(())
}
