//! What recovery must do, acceptance by acceptance: A1 to A12.

use moorline_sim::{Aim, Outcome, Recipe, Timeline, run};
use moorline_types::Policy;

use crate::stage::{MS, SECOND, Stage};

const PRIMARY: Aim = Aim::Primary;
const FOLLOWER: Aim = Aim::Follower;

fn cut(aim: Aim, down: u64) -> Recipe {
    Recipe::PowerCut { aim, down }
}

#[test]
fn a1_committed_data_survives_failover() {
    let play = Stage::of(50).at(SECOND, cut(PRIMARY, 4 * SECOND));
    let play = play.at(7 * SECOND, cut(PRIMARY, 4 * SECOND));
    assert!(play.play().reigns() >= 3);
}

#[test]
fn a2_a_divergent_tail_is_cut_and_never_comes_back() {
    let diverge = Recipe::Diverge {
        time: 5 * SECOND,
        down: 30 * MS,
    };
    let mut cuts = 0;
    for seed in 30..36 {
        let seen = Stage::of(seed).requests(500).at(2 * SECOND, diverge).play();
        cuts += seen.times("cut");
    }
    assert!(cuts > 0, "no tail diverged");
}

#[test]
fn a3_a_deposed_primary_is_fenced() {
    let cut_off = Recipe::Isolate {
        aim: PRIMARY,
        time: 6 * SECOND,
    };
    let mut deposed = 0;
    for seed in 52..56 {
        let seen = Stage::of(seed).at(2 * SECOND, cut_off).play();
        deposed += seen.times("stepped_down");
    }
    assert!(deposed > 0, "nobody was deposed");
}

#[test]
fn a4_a_short_gap_is_caught_up_and_not_rebuilt() {
    let kill = Recipe::Kill {
        aim: FOLLOWER,
        down: 800 * MS,
    };
    let mut caught_up = 0;
    for seed in 56..60 {
        let seen = Stage::of(seed).requests(400).at(SECOND, kill).play();
        caught_up += seen.times("plan_catchup");
    }
    assert!(caught_up > 0, "nobody lacked anything");
}

#[test]
fn a5_what_cannot_catch_up_escalates() {
    let lag = Recipe::Lag { time: 6 * SECOND };
    let play = Stage::of(57).log_wraps().requests(1_500);
    play.at(300 * MS, lag).play().saw("escalated");
}

#[test]
fn a6_and_a7_a_catch_up_that_races_with_reclaim_reads_the_log_or_ends() {
    let race = Recipe::Race { stall: 120 * MS };
    for seed in 58..61 {
        let play = Stage::of(seed).log_wraps().requests(1_200);
        play.at(200 * MS, race).play().saw("connected");
    }
}

#[test]
fn a8_each_policy_keeps_its_word_through_a_failover() {
    for (policy, replicas) in [
        (Policy::SyncQuorum, 3),
        (Policy::SyncQuorum, 5),
        (Policy::SyncAll, 2),
        (Policy::SyncAll, 3),
        (Policy::BestEffort, 2),
    ] {
        let play = Stage::of(62).policy(policy, replicas);
        let play = play.at(SECOND, cut(FOLLOWER, SECOND));
        play.at(5 * SECOND, cut(PRIMARY, SECOND)).play();
    }
}

#[test]
fn a9_only_who_holds_every_committed_record_leads() {
    // One follower lags, the other loses its store: only the primary knows what was acknowledged.
    let wipe = Recipe::WipeWhileLagging {
        time: 3 * SECOND,
        rollback: false,
    };
    for seed in 63..66 {
        Stage::of(seed).at(SECOND, wipe).play();
    }
}

#[test]
fn a10_a_server_that_comes_back_at_another_address_is_the_same_member() {
    for (seed, aim) in [(70, PRIMARY), (71, FOLLOWER), (72, PRIMARY)] {
        let moved = Recipe::Moved {
            aim,
            down: 500 * MS,
        };
        let play = Stage::of(seed).requests(400).log_lasts();
        let seen = play.at(2 * SECOND, moved).at(6 * SECOND, moved).play();
        assert_eq!(seen.times("escalated"), 0, "the log reaches back");
        assert!(seen.times("connected") >= 4, "{:?}", seen.0.counts.notes);
    }
}

#[test]
fn a11_late_answers_change_nothing() {
    let hangs = Recipe::HungDisk {
        aim: FOLLOWER,
        time: 11 * SECOND,
    };
    let pause = Recipe::Pause {
        aim: FOLLOWER,
        time: 5 * SECOND,
    };
    let mut timed_out = 0;
    for (seed, recipe) in [(67, hangs), (67, pause), (68, hangs), (68, pause)] {
        let seen = Stage::of(seed).at(SECOND, recipe).play();
        timed_out += seen.times("in_sync_ended");
    }
    assert!(timed_out > 0, "nobody was late");
}

#[test]
fn a12_timers_that_race_are_decided_the_same_way_every_time() {
    let trace = |outcome: Outcome| (outcome.counts.trace, outcome.counts.events);
    for seed in [68, 69, 70] {
        let first = trace(run(seed, None, Timeline::Off));
        assert_eq!(first, trace(run(seed, None, Timeline::Off)), "seed {seed}");
    }
}
