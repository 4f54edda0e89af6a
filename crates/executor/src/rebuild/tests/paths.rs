//! Each source, step by step, and what is refused on the way.

use moorline_engine::PinNeed;

use super::*;

#[test]
fn a_rebuild_joins_first_and_then_lays_the_base_in_order_from_each_source() {
    for from in ALL {
        let mut stage = Stage::joined(from);
        assert_eq!(
            stage.link.records,
            (from.base() + 1..=70).collect::<Vec<_>>(),
            "{from:?}: the join ships what lies above the base"
        );
        assert!(
            stage.image.asked.is_empty(),
            "nothing is read before the join"
        );
        stage.lay();
        let stride = if from == From::Delta { 2 } else { 1 };
        let want: Vec<u64> = (0..from.extents()).map(|n| n * stride * EXTENT).collect();
        assert_eq!(stage.link.base, want, "{from:?}");
        // The last step that was not `Sent` told the session; all was durable, so it is complete.
        assert!(!stage.rebuild.is_over(), "it waits for its release");
        assert_eq!(stage.sender.needs_rebuild(), None, "{from:?}");
        assert_eq!(stage.sender.bucket(), Bucket::Disconnected);
        let completed = Some(ReleaseCause::Completed);
        assert_eq!(
            stage.release(ReleaseCause::Completed).map(|it| it.cause),
            completed
        );
        assert_eq!(stage.pins.live(), 0);
        let source = match from {
            From::Snapshot => "plan_rebuild_snapshot_tail",
            From::Delta => "plan_rebuild_delta",
            From::Full => "plan_rebuild_full_base",
        };
        let told = stage.events();
        let tail = told.iter().position(|event| *event == source).unwrap();
        let mut want = vec![source, "exec_started", "joined"];
        want.extend(vec![
            "progress";
            from.extents().div_ceil(2).try_into().unwrap()
        ]);
        want.extend(["base_whole", "completed", "resources_released"]);
        assert_eq!(told[tail..], want, "{from:?}");
    }
}

#[test]
fn two_runs_tell_the_same_story() {
    for from in ALL {
        let run = || {
            let mut stage = Stage::joined(from);
            stage.lay();
            let _released = stage.release(ReleaseCause::Completed);
            stage.out
        };
        assert_eq!(run(), run());
    }
}

#[test]
fn the_log_is_held_for_the_time_of_the_join_only_and_the_image_to_the_end() {
    for from in ALL {
        let mut stage = Stage::new(from);
        let base = Some(lsn(from.base()));
        loop {
            match stage.step() {
                RebuildOutcome::Waiting(Waiting::Window) => {
                    stage.rebuild.acknowledged(lsn(69), lsn(0));
                }
                RebuildOutcome::Shipped { .. } => {}
                RebuildOutcome::AtHead { .. } => break,
                other => panic!("{other:?}"),
            }
            assert_eq!(stage.pins.lowest(), base, "{from:?}");
        }
        assert_eq!(stage.rebuild.hand_over(lsn(70)), HandOver::At(lsn(70)));
        let joined = Fact::Joined {
            join_point: lsn(70),
        };
        assert_eq!(stage.fact(joined), Answer::Done);
        stage.rebuild.acknowledged(lsn(69), lsn(69));
        assert_eq!(stage.pins.lowest(), base, "the join point is not received");
        stage.rebuild.acknowledged(lsn(70), lsn(69));
        assert_eq!(stage.pins.lowest(), None, "no record is held any longer");
        assert_eq!(stage.pins.list().len(), 1, "but the image is");
        // A full log cannot break what needs nothing of it.
        assert_eq!(stage.pins.break_through(Lsn::MAX), []);
    }
}

#[test]
fn what_was_received_before_the_hand_over_needs_no_second_answer() {
    for from in ALL {
        let stage = Stage::joined(from);
        assert_eq!(
            stage.pins.lowest(),
            None,
            "{from:?}: an idle volume holds its log"
        );
        assert_eq!(stage.pins.list().len(), 1);
    }
}

#[test]
fn a_join_that_ships_nothing_waits_for_no_answer() {
    let mut stage = Stage::new(From::Full);
    stage.source.head = lsn(60);
    assert_eq!(stage.step(), RebuildOutcome::AtHead { head: lsn(60) });
    assert_eq!(stage.rebuild.hand_over(lsn(60)), HandOver::At(lsn(60)));
    assert_eq!(stage.pins.lowest(), None);
    let joined = Fact::Joined {
        join_point: lsn(60),
    };
    assert_eq!(stage.fact(joined), Answer::Done);
    stage.lay();
    assert_eq!(
        stage.sender.needs_rebuild(),
        None,
        "an empty tail is complete"
    );
}

#[test]
fn the_target_is_what_is_committed_when_the_base_is_whole() {
    let mut stage = Stage::joined(From::Full);
    (stage.source.head, stage.source.committed) = (lsn(90), lsn(85));
    while stage
        .rebuild
        .execution
        .running()
        .is_ok_and(|laying| !laying.base.is_laid())
    {
        let RebuildOutcome::Sent { extents } = stage.step() else {
            panic!("the base flows");
        };
        assert_eq!(stage.lays(extents), Ok(Answer::Done));
    }
    assert_eq!(stage.step(), RebuildOutcome::BaseWhole { target: lsn(85) });
    assert_eq!(stage.step(), RebuildOutcome::Waiting(Waiting::Proof));
    assert_eq!(stage.acks(84), Answer::Done);
    assert!(stage.sender.needs_rebuild().is_some());
    assert_eq!(stage.acks(85), Answer::Done);
    assert_eq!(stage.sender.needs_rebuild(), None);
}

#[test]
fn the_base_waits_for_the_session_to_know_of_the_join() {
    let mut stage = Stage::new(From::Full);
    while let RebuildOutcome::Shipped { through } = stage.step() {
        let _answer = stage.acks(through.get());
    }
    assert_eq!(stage.rebuild.hand_over(lsn(70)), HandOver::At(lsn(70)));
    assert_eq!(stage.step(), RebuildOutcome::Waiting(Waiting::Live));
    assert!(stage.image.asked.is_empty());
}

#[test]
fn what_is_on_its_way_is_bounded_and_the_cursor_is_the_replicas() {
    let mut stage = Stage::joined(From::Full);
    assert_eq!(stage.step(), RebuildOutcome::Sent { extents: 2 });
    assert_eq!(stage.step(), RebuildOutcome::Sent { extents: 4 });
    assert_eq!(stage.step(), RebuildOutcome::Waiting(Waiting::Laid));
    // Words that cannot be, or say nothing new.
    let (extents, sent) = (5, 4);
    assert_eq!(stage.lays(5), Err(LaidRefused::NotSent { extents, sent }));
    assert_eq!(stage.lays(3), Ok(Answer::Done));
    for stale in [3, 2, 0] {
        let want = Ok(Answer::Unchanged(Known::StaleProgress));
        assert_eq!(stage.lays(stale), want);
    }
    // Half a page in flight is durable: there is room again.
    assert_eq!(stage.step(), RebuildOutcome::Sent { extents: 6 });
    assert_eq!(stage.step(), RebuildOutcome::Waiting(Waiting::Laid));
    assert_eq!(stage.lays(6), Ok(Answer::Done));
    assert_eq!(stage.step(), RebuildOutcome::BaseWhole { target: lsn(60) });
}

#[test]
fn a_replica_that_lacks_a_record_is_brought_to_the_live_stream_before_the_base_goes_on() {
    let mut stage = Stage::joined(From::Full);
    assert_eq!(stage.step(), RebuildOutcome::Sent { extents: 2 });
    stage.source.head = lsn(73);
    stage.rebuild.live_shipped(lsn(73));
    assert_eq!(stage.rebuild.rewind(lsn(71)), Rewind::To(lsn(71)));
    assert!(!stage.rebuild.is_live());
    assert_eq!(stage.step(), RebuildOutcome::Shipped { through: lsn(73) });
    assert_eq!(stage.link.records.iter().rev().take(2).count(), 2);
    assert_eq!(stage.step(), RebuildOutcome::AtHead { head: lsn(73) });
    assert_eq!(stage.rebuild.hand_over(lsn(73)), HandOver::At(lsn(73)));
    assert_eq!(stage.rebuild.hand_over(lsn(73)), HandOver::Already(lsn(73)));
    assert_eq!(stage.step(), RebuildOutcome::Sent { extents: 4 });
}

#[test]
fn a_base_of_another_time_or_place_is_never_laid() {
    type Spoil = fn(&mut Vec<BaseExtent>);
    let spoiled: [(&str, Spoil); 9] = [
        ("0 extents came back instead of 1 to 6", Vec::clear),
        ("7 extents came back instead of 1 to 6", |extents| {
            *extents = (0..7).map(|n| extent(n, 60)).collect();
        }),
        ("block 0 came back where the base goes on at 4", |extents| {
            extents[1] = extents[0].clone();
        }),
        ("block 9 came back where the base goes on at 0", |extents| {
            extents[0].blocks[0].block = BlockIndex::new(9);
        }),
        ("block 1 came back where the base goes on at 2", |extents| {
            let again = extents[0].blocks[0].clone();
            extents[0].blocks.push(again);
        }),
        (
            "an extent as of 59 is none of a base of 60, with 60 committed",
            |extents| extents[0].as_of = lsn(59),
        ),
        (
            "an extent as of 61 is none of a base of 60, with 60 committed",
            |extents| extents[0].as_of = lsn(61),
        ),
        (
            "block 1 was changed by 61 in an extent as of 60",
            |extents| extents[0].blocks[0].lsn = lsn(61),
        ),
        (
            "block 1 came with another payload than one block",
            |extents| extents[0].blocks[0].payload = Payload::empty(),
        ),
    ];
    for (want, spoil) in spoiled {
        let mut stage = Stage::joined(From::Full);
        stage.image.answers = Answers::Later;
        assert_eq!(stage.step(), RebuildOutcome::Waiting(Waiting::Base));
        assert_eq!(stage.step(), RebuildOutcome::Waiting(Waiting::Base));
        let mut came: Vec<_> = (0..2).map(|n| extent(n, 60)).collect();
        spoil(&mut came);
        let base = &mut stage.rebuild.execution.running_mut().unwrap().base;
        let refused = base.transfer(Ok(BaseStart::Ready(came.clone())), lsn(60), &mut stage.link);
        assert_eq!(refused.err().unwrap().to_string(), want);
        let (rebuild, mut turn, link) = stage.turn();
        let said = rebuild.base_read(&mut turn, Ok(came), lsn(60), link);
        let Ok(RebuildOutcome::Ended(released)) = said else {
            panic!("{want}: {said:?}");
        };
        assert_eq!(released.cause, ReleaseCause::ReadFailed);
        assert_eq!((stage.pins.live(), &stage.link.base[..]), (0, &[][..]));
        assert_eq!(stage.sender.bucket(), Bucket::NeedsRebuild, "{want}");
    }
}

#[test]
fn an_answer_that_nobody_waits_for_is_refused() {
    let mut stage = Stage::joined(From::Full);
    let (rebuild, mut turn, link) = stage.turn();
    let said = rebuild.base_read(&mut turn, Ok(vec![extent(0, 60)]), lsn(60), link);
    assert_eq!(said, Err(BaseRefused::NoRead));
    let said = rebuild.records_read(&mut turn, Ok(vec![record(71)]), link);
    assert_eq!(said, Err(RecordsRefused::NoRead));
    let _released = rebuild.release(&mut turn, ReleaseCause::Cancelled);
    let said = rebuild.base_read(&mut turn, Ok(vec![extent(0, 60)]), lsn(60), link);
    assert_eq!(said, Err(BaseRefused::Over));
    let said = rebuild.records_read(&mut turn, Ok(vec![record(71)]), link);
    assert_eq!(said, Err(RecordsRefused::Over));
}

#[test]
fn cancelled_twice_is_cancelled_once_and_nothing_is_done_afterwards() {
    for from in ALL {
        let mut stage = Stage::joined(from);
        assert!(stage.release(ReleaseCause::Cancelled).is_some());
        assert_eq!(stage.release(ReleaseCause::Cancelled), None);
        assert_eq!(stage.release(ReleaseCause::LinkLost), None);
        let refused = RebuildOutcome::Refused(ReleaseCause::Cancelled);
        assert_eq!(stage.step(), refused);
        let over = HandOver::Refused(ReleaseCause::Cancelled);
        assert_eq!(stage.rebuild.hand_over(lsn(70)), over);
        let over = Rewind::Refused(ReleaseCause::Cancelled);
        assert_eq!(stage.rebuild.rewind(lsn(61)), over);
        let over = LaidRefused::Over(ReleaseCause::Cancelled);
        assert_eq!(stage.lays(1), Err(over));
        assert_eq!(stage.releases(), [ReleaseCause::Cancelled]);
        assert_eq!(stage.sender.bucket(), Bucket::NeedsRebuild);
        assert_eq!((stage.pins.live(), stage.image.asked.len()), (0, 0));
    }
}

#[test]
fn only_the_plan_that_a_session_waits_for_is_bound_and_only_once() {
    let (sender, _, plan) = planned(From::Delta);
    let no_pin = |_: PinNeed| -> Result<ImagePin, PinRefused> { panic!("nothing is pinned") };
    let refused = |sender: &Sender, plan: &Plan| {
        let (mut told, mut out) = (sender.clone(), Actions::new());
        let refused = bind(&mut told, &mut out, plan, no_pin);
        assert_eq!(
            (&told, out),
            (sender, Actions::new()),
            "a refusal changed it"
        );
        refused.unwrap_err().to_string()
    };
    let mut foreign = plan.clone();
    foreign.replica.volume = VolumeId::new(2);
    let text = refused(&sender, &foreign);
    assert!(text.starts_with("the plan is for"), "{text}");
    let mut older = plan.clone();
    older.stamp.session = SessionId::new(OpenCount::new(1), 1);
    let text = "session 1-1 was named, but the latest is 1-2";
    assert_eq!(refused(&sender, &older), text);
    let mut longer = plan.clone();
    longer.kind = match longer.kind {
        PlanKind::Rebuild { source, extents } => PlanKind::Rebuild {
            source,
            extents: extents + 1,
        },
        other => panic!("{other:?}"),
    };
    let text = "the session does not wait for this plan: it is source_selected";
    assert_eq!(refused(&sender, &longer), text);
    let mut none = plan.clone();
    none.kind = PlanKind::ZeroGap { after: lsn(60) };
    assert_eq!(refused(&sender, &none), "the plan is no rebuild");
    // A pin of another image, or of another place.
    let pins = PinTable::new();
    let wrong = |pin: fn(&PinTable) -> Result<ImagePin, PinRefused>| {
        let (mut told, mut out) = (sender.clone(), Actions::new());
        let refused = bind(&mut told, &mut out, &plan, |_| pin(&pins));
        assert_eq!((told, pins.live()), (sender.clone(), 0));
        refused.unwrap_err().to_string()
    };
    let snapshot = |pins: &PinTable| {
        let pin = pins.snapshot(lsn(60), holder(), at(0));
        pin.map(ImagePin::Snapshot)
    };
    let text = "a Snapshot pin at 60 was handed in, not a Delta pin at 60";
    assert_eq!(wrong(snapshot), text);
    let later = |pins: &PinTable| {
        let pin = pins.full_base(lsn(61), holder(), at(0));
        pin.map(ImagePin::Base)
    };
    let text = "a Delta pin at 61 was handed in, not a Delta pin at 60";
    assert_eq!(wrong(later), text);
    // Twice.
    let (mut told, mut out) = (sender.clone(), Actions::new());
    let bound = bind(&mut told, &mut out, &plan, |need| hold(&pins, need)).unwrap();
    let text = "the session does not wait for this plan: it is joining";
    assert_eq!(refused(&told, &plan), text);
    drop(bound);
    assert_eq!(pins.live(), 0);
}

#[test]
fn a_refused_image_is_named_and_leaves_the_need_of_a_rebuild() {
    for from in ALL {
        let (mut sender, mut out, plan) = planned(from);
        let (after, tail) = (lsn(from.base()), lsn(from.base() + 1));
        let refused = PinRefused::Reclaimed { after, tail };
        let said = bind(&mut sender, &mut out, &plan, |_| Err(refused));
        let Err(BindRefused::Pin(refusal)) = said else {
            panic!("{said:?}");
        };
        assert_eq!(Some(refusal.pin), plan.needs().map(|need| need.kind));
        assert_eq!(refusal.lsn, after);
        assert_eq!(sender.bucket(), Bucket::NeedsRebuild);
        assert!(sender.live_session().is_none());
    }
}

#[test]
fn whoever_panics_while_it_pins_leaves_no_session() {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    let (mut sender, mut out, plan) = planned(From::Full);
    let panics = |_: PinNeed| -> Result<ImagePin, PinRefused> {
        std::panic::resume_unwind(Box::new("planted"))
    };
    let bound = AssertUnwindSafe(|| bind(&mut sender, &mut out, &plan, panics).is_ok());
    assert!(catch_unwind(bound).is_err());
    assert!(sender.live_session().is_none());
    assert_eq!(sender.bucket(), Bucket::NeedsRebuild);
}

#[test]
fn the_sender_of_another_volume_is_not_taken_for_ones_own() {
    let mut stage = Stage::joined(From::Full);
    let replica = ReplicaId {
        volume: VolumeId::new(2),
        server: "s2".parse().unwrap(),
    };
    let endpoint = stage.sender.endpoint().clone();
    stage.sender = Sender::new(replica, endpoint, EPOCH, SenderConfig::default());
    assert_eq!(stage.lays(0), Err(LaidRefused::OtherReplica));
    assert!(matches!(stage.step(), RebuildOutcome::Ended(_)));
    assert_eq!(stage.pins.live(), 0);
}
