//! Explores the protocol model from the command line.
//!
//! Exit code 0: all that was explored holds. 1: a violation, or something that must be reachable is not.

use clap::Parser;
use moorline_model::{AckPoint, Mutant, Policy, Search, Size, World, check, progress};
use std::process::ExitCode;
use std::time::Duration;

/// Explores the model of the replication protocol.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// How much to explore.
    #[arg(long, value_enum, default_value = "ci")]
    world: Size,
    /// Only this policy; both when absent.
    #[arg(long, value_enum)]
    policy: Option<Policy>,
    /// Only this ack point; both when absent.
    #[arg(long, value_enum)]
    ack: Option<AckPoint>,
    /// Break this rule, in the smallest world where it shows.
    #[arg(long, value_enum)]
    mutant: Option<Mutant>,
    /// The highest epoch, 2 to 4.
    #[arg(long, value_parser = clap::value_parser!(u8).range(2..=4))]
    epochs: Option<u8>,
    /// Client writes, at most 3.
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=3))]
    writes: Option<u8>,
    /// Restarts, at most 3.
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=3))]
    restarts: Option<u8>,
    /// Wiped stores, at most 3.
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=3))]
    wipes: Option<u8>,
    /// The floor of `sync_all`, 1 to 3.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=3))]
    min_copies: Option<u8>,
    /// Stop after so many minutes.
    #[arg(long, default_value_t = 60)]
    minutes: u64,
    /// Stop at so many million distinct states (each takes about 14 bytes depth first, 60 breadth first).
    #[arg(long, default_value_t = 600)]
    million_states: usize,
    /// Worker threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Search depth first: a fraction of the memory, longer counterexamples. `large` always does.
    #[arg(long)]
    depth_first: bool,
    /// Check instead that recovery is possible from everywhere; keeps every state and edge in memory.
    #[arg(long)]
    progress: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let search = Search {
        threads: arguments.threads.max(1),
        time_max: Duration::from_secs(arguments.minutes * 60),
        states_max: arguments.million_states * 1_000_000,
        depth_first: arguments.depth_first || arguments.world == Size::Large,
        progress: true,
        ..Search::default()
    };
    let mut wrong = false;
    for world in worlds(&arguments) {
        if arguments.progress || arguments.mutant == Some(Mutant::GrowNeedsWholeLease) {
            let progress = progress(world);
            println!("{world:?}\n{progress}");
            wrong |= progress.wedged.is_some();
            continue;
        }
        let report = check(world, &search);
        println!("{report}");
        let stuck = report.complete && !report.unreached.is_empty();
        wrong |= stuck || !report.violations.is_empty();
    }
    ExitCode::from(u8::from(wrong))
}

fn worlds(arguments: &Arguments) -> Vec<World> {
    let acks = match (arguments.ack, arguments.mutant) {
        (Some(ack), _) => vec![ack],
        (None, Some(mutant)) => vec![mutant.world().ack],
        (None, None) => vec![AckPoint::Flushed, AckPoint::Received],
    };
    let policies = match (arguments.policy, arguments.mutant) {
        (Some(policy), _) => vec![policy],
        (None, Some(mutant)) => vec![mutant.world().policy],
        (None, None) => vec![Policy::SyncQuorum, Policy::SyncAll],
    };
    let adjusted = |(policy, ack)| {
        let base = match arguments.mutant {
            Some(mutant) => World {
                policy,
                ack,
                ..mutant.world()
            },
            None => World::new(policy, ack, arguments.world),
        };
        World {
            epochs: arguments.epochs.unwrap_or(base.epochs),
            writes: arguments.writes.unwrap_or(base.writes),
            restarts: arguments.restarts.unwrap_or(base.restarts),
            wipes: arguments.wipes.unwrap_or(base.wipes),
            min_copies: arguments.min_copies.unwrap_or(base.min_copies),
            ..base
        }
    };
    let both = |policy| acks.iter().map(move |&ack| (policy, ack));
    policies.into_iter().flat_map(both).map(adjusted).collect()
}
