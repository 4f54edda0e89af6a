//! The fault matrix, row by row: what is done to the cluster, and what must be seen. That nothing
//! acknowledged is lost, nothing stale is read and nobody waits for ever, the oracle says of each.

use moorline_sim::{Aim, Damage, Forgery, Moment, OpClass, Reach, Recipe, Region, StrayKind};
use moorline_types::Policy;

use crate::stage::{MS, SECOND, Stage};

const PRIMARY: Aim = Aim::Primary;
const FOLLOWER: Aim = Aim::Follower;

#[test]
fn a_primary_that_restarts_within_its_lease_leads_no_epoch_twice() {
    let kill = |down| Recipe::Kill { aim: PRIMARY, down };
    let play = Stage::of(6).at(SECOND, kill(50 * MS));
    play.at(10 * SECOND, kill(5 * MS)).play().failed_over();
}

#[test]
fn a_wiped_store_under_an_old_name_has_no_vote() {
    let wipe = Recipe::WipeWhileLagging {
        time: 3 * SECOND,
        rollback: false,
    };
    for seed in 20..23 {
        Stage::of(seed).at(SECOND, wipe).play();
    }
}

#[test]
fn a_store_that_was_rolled_back_has_no_vote() {
    let rollback = Recipe::WipeWhileLagging {
        time: 3 * SECOND,
        rollback: true,
    };
    for seed in 20..23 {
        Stage::of(seed).at(SECOND, rollback).play();
    }
}

#[test]
fn every_promise_is_known_though_one_superblock_cannot_be_read() {
    let rot = Recipe::SuperblockRot {
        aim: PRIMARY,
        down: 30 * MS,
    };
    let shift = Recipe::Shift {
        time: 3 * SECOND,
        rot: true,
    };
    Stage::of(21).at(SECOND, rot).play().failed_over();
    Stage::of(22).at(SECOND, shift).play();
}

/// Every moment of one place, near the beginning and near the end of a play.
fn power_lost_at(place: &'static str, reach: Reach) {
    let mut struck = 0;
    for moment in Moment::ALL {
        for point in (1..140).step_by(13) {
            let seen = Stage::short(31).power_lost(point, moment, reach).play();
            let key = (place, moment.name());
            struck += seen.0.counts.struck.get(&key).copied().unwrap_or(0);
        }
    }
    assert!(struck > 0, "the power never went at a write of {place}");
}

#[test]
fn power_lost_by_one_machine_at_a_write_of_its_log_cuts_only_what_nobody_was_promised() {
    power_lost_at("log", Reach::One);
}

#[test]
fn power_lost_by_all_machines_at_a_write_of_a_promise_leaves_one_superblock() {
    power_lost_at("superblock", Reach::All);
}

#[test]
fn one_bad_disk_is_never_believed_and_never_answers() {
    let regions = [
        Region::Superblock,
        Region::Log,
        Region::Map,
        Region::Extents,
    ];
    let strays = [StrayKind::Lost, StrayKind::Misdirected];
    let rots = regions.map(|region| Recipe::BitRot { region });
    let strays = strays.map(|kind| Recipe::StrayWrite { kind, count: 2 });
    for recipe in rots.into_iter().chain(strays) {
        let play = Stage::of(41).bad_disk().at(2 * SECOND, recipe);
        play.at(4 * SECOND, recipe).play();
    }
}

#[test]
fn a_disk_that_failed_once_is_never_believed_again_and_its_primary_hands_over() {
    for what in [OpClass::Write, OpClass::Flush] {
        let fails = Recipe::TransientError {
            aim: PRIMARY,
            what,
            count: 1,
            time: 6 * SECOND,
        };
        let seen = Stage::of(9).at(2 * SECOND, fails).play().failed_over();
        assert_eq!(seen.times("store_failed"), 1, "{what:?}");
    }
}

#[test]
fn a_short_write_is_a_failed_one() {
    let short = Recipe::ShortOperation {
        aim: PRIMARY,
        what: OpClass::Write,
        time: 6 * SECOND,
    };
    let seen = Stage::of(9).at(2 * SECOND, short).play();
    seen.saw("store_failed").failed_over();
}

#[test]
fn a_followers_failed_disk_leaves_the_in_sync_set_and_stops_nobody() {
    let fails = Recipe::LastingError {
        aim: FOLLOWER,
        what: OpClass::Write,
        time: 5 * SECOND,
    };
    let seen = Stage::of(14).at(2 * SECOND, fails).play();
    seen.saw("store_failed").saw("in_sync_ended").one_reign();
}

#[test]
fn a_full_disk_breaks_no_promise() {
    let full = Recipe::FullDisk {
        aim: PRIMARY,
        time: 4 * SECOND,
    };
    Stage::of(12).at(2 * SECOND, full).play();
    let all = Recipe::FullDisks { time: 3 * SECOND };
    Stage::of(12).at(2 * SECOND, all).play().saw("store_failed");
}

#[test]
fn a_slow_or_hung_follower_is_out_of_the_way_of_acknowledgements() {
    let hangs = Recipe::HungDisk {
        aim: FOLLOWER,
        time: 9 * SECOND,
    };
    let slow = Recipe::SlowDisk {
        aim: FOLLOWER,
        factor: 200,
        time: 5 * SECOND,
    };
    for recipe in [hangs, slow] {
        Stage::of(10).at(2 * SECOND, recipe).play().one_reign();
    }
}

#[test]
fn a_primary_whose_disk_hangs_hands_over() {
    let hangs = Recipe::HungDisk {
        aim: PRIMARY,
        time: 12 * SECOND,
    };
    Stage::of(11).at(2 * SECOND, hangs).play().failed_over();
}

#[test]
fn a_device_that_is_gone_or_another_servers_is_refused() {
    let gone = Recipe::GoneDisk {
        aim: PRIMARY,
        time: 4 * SECOND,
    };
    let seen = Stage::of(13).at(2 * SECOND, gone).play();
    seen.saw("store_failed").failed_over();
    let swapped = Recipe::SwappedDisks { time: 3 * SECOND };
    let seen = Stage::of(13).at(2 * SECOND, swapped).play();
    assert_eq!(seen.times("store_refused"), 2);
}

#[test]
fn a_primary_cut_off_from_everyone_stops_by_its_lease() {
    let diverge = Recipe::Diverge {
        time: 5 * SECOND,
        down: 30 * MS,
    };
    let creep = Recipe::Creep { time: SECOND };
    for recipe in [diverge, creep] {
        Stage::of(30).at(2 * SECOND, recipe).play().failed_over();
    }
}

#[test]
fn a_primary_cut_off_from_the_master_alone_breaks_no_promise() {
    let unreachable = Recipe::MasterUnreachable {
        aim: PRIMARY,
        time: 6 * SECOND,
    };
    Stage::of(32).at(2 * SECOND, unreachable).play();
}

#[test]
fn heartbeats_that_go_one_way_are_not_health() {
    for (seed, aim) in [(33, PRIMARY), (34, PRIMARY), (35, FOLLOWER)] {
        let one_way = Recipe::OneWay {
            aim,
            time: 5 * SECOND,
        };
        Stage::of(seed).at(2 * SECOND, one_way).play();
    }
}

#[test]
fn connections_that_break_in_the_middle_of_frames_lose_and_repeat_nothing() {
    let reset = Recipe::Reset { aim: PRIMARY };
    let play = (1..8).fold(Stage::of(36), |play, turn| {
        play.at(turn * SECOND / 2, reset)
    });
    play.play().saw("in_sync_ended");
}

#[test]
fn the_data_path_goes_on_without_the_master() {
    let crash = Recipe::MasterCrash { down: 8 * SECOND };
    Stage::of(37).at(SECOND, crash).play().one_reign();
}

#[test]
fn a_primary_that_was_stopped_answers_nothing_without_a_lease() {
    for time in [SECOND, 6 * SECOND, 20 * SECOND] {
        let pause = Recipe::Pause { aim: PRIMARY, time };
        Stage::of(8).at(2 * SECOND, pause).play();
    }
}

/// The primary is lost twice between the copy and its return, so that the copy lacks two reigns.
#[test]
fn a_restored_master_promotes_nobody_until_it_knows() {
    let restored = Recipe::MasterRestored {
        age: 9 * SECOND,
        down: SECOND / 2,
    };
    let kill = Recipe::Kill {
        aim: PRIMARY,
        down: 3 * SECOND,
    };
    for policy in [Policy::SyncQuorum, Policy::SyncAll] {
        for seed in 50..53 {
            let play = Stage::of(seed).policy(policy, 3).at(SECOND, restored);
            let play = play.at(2 * SECOND, kill).at(6 * SECOND, kill);
            // And once more, under the master that learned what it had lost.
            let play = play.at(14 * SECOND, kill).play();
            play.saw("master_restored").failed_over();
        }
    }
}

#[test]
fn a_restored_master_stops_nobody_whose_lease_the_members_grant() {
    let restored = Recipe::MasterRestored {
        age: 3 * SECOND,
        down: 2 * SECOND,
    };
    let seen = Stage::of(54).at(2 * SECOND, restored).play();
    seen.saw("master_restored").one_reign();
}

#[test]
fn what_an_ended_connection_said_changes_nothing_in_the_next_one() {
    for (seed, time) in [(40, 200 * MS), (41, SECOND), (42, 2 * SECOND)] {
        let replay = Recipe::Replay { aim: PRIMARY, time };
        let play = Stage::of(seed).requests(400);
        let play = (1..6).fold(play, |play, turn| play.at(turn * 3 * SECOND, replay));
        play.play().saw("frames_replayed").one_reign();
    }
}

#[test]
fn leases_that_arrive_when_others_lead_are_over() {
    for seed in 43..46 {
        let late = Recipe::LateGrants { time: 5 * SECOND };
        let play = Stage::of(seed).requests(400).at(2 * SECOND, late);
        play.play().failed_over();
    }
}

#[test]
fn a_damaged_frame_ends_its_connection_and_changes_nothing() {
    for damage in [Damage::Half, Damage::Flipped] {
        for aim in [PRIMARY, FOLLOWER] {
            let recipe = Recipe::DamagedFrame { aim, damage };
            let play = Stage::of(46).requests(400);
            let play = (1..9).fold(play, |play, turn| play.at(turn * SECOND, recipe));
            play.play().saw("frames_refused");
        }
    }
}

#[test]
fn epochs_that_nobody_minted_are_refused() {
    for forgery in [
        Forgery::Stale,
        Forgery::Far,
        Forgery::NearMaximum,
        Forgery::Maximum,
    ] {
        for aim in [PRIMARY, FOLLOWER] {
            let forged = Recipe::ForgedEpoch { aim, forgery };
            let play = Stage::of(47).requests(300);
            let play = (1..6).fold(play, |play, turn| play.at(turn * SECOND, forged));
            play.play().saw("frames_forged").one_reign();
        }
    }
}

/// Before and after each of the transactions that follow when a primary is lost.
#[test]
fn a_master_that_ends_at_any_of_its_transactions_forgets_no_decision() {
    let kill = Recipe::Kill {
        aim: PRIMARY,
        down: 3 * SECOND,
    };
    let mut struck = 0;
    for moment in [Moment::Before, Moment::After] {
        for txn in 1..=8 {
            let play = Stage::short(48).at(SECOND, kill);
            let seen = play.master_lost(txn, moment).play();
            let key = ("master", moment.name());
            struck += seen.0.counts.struck.get(&key).copied().unwrap_or(0);
        }
    }
    assert!(struck > 0, "the master ended at {struck} transactions");
}

#[test]
fn clocks_that_drift_begin_anew_or_leave_time_out_break_no_promise() {
    let slew = |per_million| Recipe::ClockSlew {
        aim: PRIMARY,
        per_million,
    };
    let reset = |to| Recipe::ClockReset {
        aim: PRIMARY,
        down: 300 * MS,
        to,
    };
    let jump = Recipe::ClockJump { by: 8 * SECOND };
    let play = Stage::of(49).at(SECOND, slew(980_000));
    play.at(6 * SECOND, slew(1_019_999)).play().one_reign();
    for to in [0, 900 * SECOND] {
        Stage::of(49).at(2 * SECOND, reset(to)).play().failed_over();
    }
    Stage::of(49).at(2 * SECOND, jump).play();
}
