//! What runs came to: numbers, and the story of a broken rule.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use moorline_sim::{MUTANTS, Mutant, Outcome, Plan, Timeline, run_plan, shrink};
use serde::{Deserialize, Serialize};

/// Lines of a story.
const STORY_MAX: usize = 160;

/// Sums over runs.
#[derive(Default)]
pub(crate) struct Totals {
    pub(crate) seeds: u64,
    pub(crate) failed: Vec<u64>,
    pub(crate) real: Duration,
    simulated: Duration,
    events: u64,
    ops: u64,
    done: u64,
    unknown: u64,
    rejected: u64,
    reigns: u64,
    faults: BTreeMap<&'static str, u64>,
    notes: BTreeMap<&'static str, u64>,
    struck: BTreeMap<String, u64>,
    struck_again: BTreeMap<String, u64>,
}

impl Totals {
    pub(crate) fn add(&mut self, outcome: &Outcome) {
        let (counts, copied) = (&outcome.counts, &outcome.copied);
        self.seeds += 1;
        if outcome.violation.is_some() {
            self.failed.push(outcome.seed);
        }
        // What another run had done before this one began as its copy was counted there.
        self.simulated += Duration::from_nanos(counts.simulated_ns - copied.simulated_ns);
        self.events += counts.events - copied.events;
        self.ops += counts.ops - copied.ops;
        self.done += counts.done - copied.done;
        self.unknown += counts.unknown - copied.unknown;
        self.rejected += counts.rejected - copied.rejected;
        self.reigns += counts.reigns - copied.reigns;
        for (into, from, copied) in [
            (&mut self.faults, &counts.faults, &copied.faults),
            (&mut self.notes, &counts.notes, &copied.notes),
        ] {
            for (name, count) in from {
                let before = copied.get(name).copied().unwrap_or_default();
                *into.entry(name).or_default() += count - before;
            }
        }
        for (into, from, copied) in [
            (&mut self.struck, &counts.struck, &copied.struck),
            (
                &mut self.struck_again,
                &counts.struck_again,
                &copied.struck_again,
            ),
        ] {
            for (key @ (place, moment), count) in from {
                let before = copied.get(key).copied().unwrap_or_default();
                *into.entry(format!("{place} {moment}")).or_default() += count - before;
            }
        }
    }

    fn per_second(&self, real: Duration) -> f64 {
        Duration::from_secs(self.seeds).as_secs_f64() / real.as_secs_f64().max(1e-6)
    }

    fn pace(&self, real: Duration) -> f64 {
        self.simulated.as_secs_f64() / real.as_secs_f64().max(1e-6)
    }

    /// One line of progress.
    pub(crate) fn line(&self, real: Duration) -> String {
        format!(
            "{} seeds, {:.1}/s, {:.0}x real time, {} faults of {} kinds, {} failed",
            self.seeds,
            self.per_second(real),
            self.pace(real),
            self.faults.values().sum::<u64>(),
            self.faults.len(),
            self.failed.len()
        )
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "seeds": self.seeds,
            "failed": self.failed,
            "seconds": self.real.as_secs_f64(),
            "seeds_per_second": self.per_second(self.real),
            "simulated_seconds": self.simulated.as_secs_f64(),
            "simulated_to_real": self.pace(self.real),
            "events": self.events,
            "ops": self.ops,
            "done": self.done,
            "unknown": self.unknown,
            "rejected": self.rejected,
            "reigns": self.reigns,
            "faults": self.faults,
            "notes": self.notes,
            "persist_points_struck": self.struck,
            "struck_again_in_recovery": self.struck_again,
        })
    }
}

/// A run to be replayed: what `--replay` reads.
#[derive(Serialize, Deserialize)]
pub(crate) struct Replay {
    pub(crate) seed: u64,
    pub(crate) mutant: Option<String>,
    pub(crate) plan: Plan,
}

/// Shrinks a run that broke a rule, tells its story, and says how to replay it.
pub(crate) fn explain(outcome: &Outcome, mutant: Option<Mutant>, shrink_runs: usize) {
    let (Some(violation), Some(plan)) = (&outcome.violation, &outcome.plan) else {
        return;
    };
    let planted = MUTANTS.iter().find(|(_, known, _)| Some(*known) == mutant);
    let name = planted.map(|(name, ..)| (*name).to_owned());
    let flag = name
        .as_ref()
        .map_or(String::new(), |name| format!(" --mutant {name}"));
    println!("seed {}: {violation}", outcome.seed);
    println!(
        "  replay: cargo run --profile sim -p moorline-sim -- run --seed {}{flag} --trace",
        outcome.seed
    );
    let shrunk = shrink(
        outcome.seed,
        plan.clone(),
        (mutant, violation.rule),
        shrink_runs,
    );
    println!(
        "  shrunk in {} runs from {} faults and {} requests to {} and {}:",
        shrunk.runs,
        plan.faults.len(),
        plan.ops,
        shrunk.plan.faults.len(),
        shrunk.plan.ops
    );
    let small = run_plan(outcome.seed, shrunk.plan.clone(), mutant, Timeline::Kept);
    story(&small).iter().for_each(|line| println!("    {line}"));
    if let Ok(text) = serde_json::to_string(&shrunk.plan) {
        println!("  {text}");
    }
    let replay = Replay {
        seed: outcome.seed,
        mutant: name,
        plan: shrunk.plan,
    };
    let path = std::env::temp_dir().join(format!("moorline-sim-{}.json", outcome.seed));
    match save(&replay, &path) {
        Ok(()) => println!(
            "  replay: cargo run --profile sim -p moorline-sim -- run --replay {} --trace",
            path.display()
        ),
        Err(error) => println!("  {} was not written: {error}", path.display()),
    }
}

fn save(replay: &Replay, path: &PathBuf) -> std::io::Result<()> {
    let text = serde_json::to_string_pretty(replay).map_err(std::io::Error::other)?;
    std::fs::write(path, text)
}

/// What happened to servers and, if one is concerned, to the sector, in order of time.
fn story(outcome: &Outcome) -> Vec<String> {
    // Messages and the comings and goings of sessions are in the trace.
    let told = |line: &&String| {
        let noise = [
            " < ",
            " session_",
            " connected ",
            " progress ",
            " exec_",
            " sender_",
            " handshake_failed",
            " escalated",
        ];
        !noise.iter().any(|noise| line.contains(noise))
    };
    let mut lines: Vec<String> = outcome.lines.iter().filter(told).cloned().collect();
    lines.extend(outcome.about.iter().cloned());
    // Each line begins with its time in a column of one width; the sort keeps equal times in order.
    lines.sort_by(|a, b| a.get(..12).cmp(&b.get(..12)));
    let skipped = lines.len().saturating_sub(STORY_MAX);
    if skipped > 0 {
        lines.drain(..skipped);
        lines.insert(0, format!("({skipped} earlier lines)"));
    }
    for line in &mut lines {
        line.truncate(line.floor_char_boundary(240));
    }
    if let Some(violation) = &outcome.violation {
        lines.push(format!("{violation}"));
    }
    lines
}
