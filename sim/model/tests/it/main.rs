//! The protocol holds in small worlds, and each planted bug is found in one.

use moorline_model::{AckPoint, Mutant, Policy, Report, Search, Size, World, check, progress};

const LOST: &str = "committed is never lost";
const ONE_SERVER: &str = "one server at a time";
const COPIES: &str = "commits have their copies";

/// The mutant shows as exactly these properties failing, and its world is sound without it.
fn finds(mutant: Mutant, properties: &[&'static str]) -> Report {
    let search = Search {
        until: properties.to_vec(),
        ..Search::default()
    };
    let report = check(mutant.world(), &search);
    for property in properties {
        assert!(
            report.fails(property),
            "{mutant:?} does not break {property:?}:\n{report}"
        );
    }
    let healthy = check(mutant.world().healthy(), &Search::default());
    assert!(
        healthy.holds(),
        "{mutant:?} is not needed to break its world:\n{healthy}"
    );
    report
}

fn holds(world: World) {
    let report = check(world, &Search::default());
    assert!(report.holds(), "{report}");
}

#[test]
fn sync_quorum_holds_in_the_ci_world() {
    holds(World::new(Policy::SyncQuorum, AckPoint::Flushed, Size::Ci));
}

#[test]
fn sync_all_holds_in_the_ci_world() {
    holds(World::new(Policy::SyncAll, AckPoint::Flushed, Size::Ci));
}

#[test]
fn sync_all_holds_with_a_floor_of_two_copies() {
    holds(World {
        min_copies: 2,
        ..World::new(Policy::SyncAll, AckPoint::Flushed, Size::Ci)
    });
}

#[test]
fn sync_quorum_at_received_holds_in_the_ci_world() {
    holds(World::new(Policy::SyncQuorum, AckPoint::Received, Size::Ci));
}

#[test]
fn sync_all_at_received_holds_in_the_ci_world() {
    holds(World::new(Policy::SyncAll, AckPoint::Received, Size::Ci));
}

#[test]
fn recovery_is_possible_from_every_state() {
    for (policy, ack, min_copies, wipes) in [
        (Policy::SyncQuorum, AckPoint::Flushed, 1, 1),
        (Policy::SyncQuorum, AckPoint::Received, 1, 0),
        (Policy::SyncAll, AckPoint::Flushed, 1, 1),
        // The floor bites: a wiped member can only leave after another one joined.
        (Policy::SyncAll, AckPoint::Flushed, 2, 1),
        (Policy::SyncAll, AckPoint::Received, 2, 0),
    ] {
        let base = World::new(policy, ack, Size::Ci);
        let world = World {
            epochs: 2,
            writes: 1,
            restarts: 1,
            wipes,
            min_copies,
            ..base
        };
        let progress = progress(world);
        assert!(
            progress.obliged > 0 && progress.wedged.is_none(),
            "{world:?}\n{progress}"
        );
    }
}

#[test]
fn growth_that_needs_the_whole_lease_wedges_at_the_floor() {
    let world = Mutant::GrowNeedsWholeLease.world();
    assert!(progress(world).wedged.is_some());
    let healthy = progress(world.healthy());
    assert!(healthy.wedged.is_none(), "{healthy}");
}

#[test]
fn restarted_primary_that_keeps_its_epoch_is_found() {
    finds(
        Mutant::RestartKeepsEpoch,
        &["one boot per epoch", "one name, one record", COPIES],
    );
}

#[test]
fn wiped_store_that_votes_is_found() {
    finds(Mutant::WipedStoreVotes, &[LOST]);
}

#[test]
fn longest_log_by_promised_epoch_is_found() {
    finds(Mutant::LongestByPromised, &[LOST]);
}

#[test]
fn sync_all_that_waits_for_the_dead_never_gets_a_successor() {
    let report = check(Mutant::WaitsForTheDead.world(), &Search::default());
    assert!(report.violations.is_empty(), "waiting is safe:\n{report}");
    finds(
        Mutant::WaitsForTheDead,
        &["a successor needs no answer of the old primary"],
    );
}

#[test]
fn lease_from_a_member_that_promises_is_found() {
    finds(Mutant::LeaseWithoutPromise, &[ONE_SERVER]);
}

#[test]
fn member_that_forgets_its_grants_in_a_restart_is_found() {
    finds(Mutant::NoSilenceAfterRestart, &[ONE_SERVER]);
}

#[test]
fn promise_that_is_not_durable_is_found() {
    finds(Mutant::PromiseNotDurable, &[LOST]);
}

#[test]
fn commit_before_the_mark_is_found() {
    finds(Mutant::CommitBeforeMark, &[LOST]);
}

#[test]
fn acknowledgement_before_the_cut_is_found() {
    finds(Mutant::AckBeforeCut, &[COPIES, LOST]);
}

#[test]
fn acknowledgement_before_the_flush_is_found() {
    finds(Mutant::AckBeforeFlush, &[COPIES, LOST]);
}

#[test]
fn shrink_before_it_is_recorded_is_found() {
    finds(
        Mutant::ShrinkBeforeRecord,
        &["required covers recorded", LOST],
    );
}

#[test]
fn growth_below_the_mark_is_found() {
    finds(Mutant::GrowBelowMark, &[LOST]);
}

#[test]
fn growth_without_a_lease_is_found() {
    finds(Mutant::GrowWithoutLease, &[ONE_SERVER]);
}

#[test]
fn memory_lost_in_restarts_and_ignored_is_found() {
    finds(Mutant::IgnoresLostMemory, &[LOST]);
}

#[test]
fn cut_that_leaves_no_evidence_is_found() {
    finds(Mutant::CutsWithoutEvidence, &[LOST]);
}

#[test]
fn counterexample_is_a_readable_path() {
    let report = check(Mutant::LeaseWithoutPromise.world(), &Search::default());
    let (_, path) = report.violations.first().expect("the mutant is found");
    for word in ["-> Mint", "-> Promise", "-> Lease", "committed [e1:mark"] {
        assert!(path.contains(word), "{word:?} is missing in:\n{path}");
    }
}

#[test]
fn search_that_hits_its_limit_says_so() {
    let search = Search {
        states_max: 1000,
        ..Search::default()
    };
    let report = check(
        World::new(Policy::SyncAll, AckPoint::Flushed, Size::Large),
        &search,
    );
    assert!(!report.complete && !report.holds(), "{report}");
    assert!(report.violations.is_empty(), "{report}");
}
