//! What each path of a recovery tells, in full and in order, and the same in every run.

use std::fmt::Write as _;

use expect_test::expect_file;
use moorline_engine::{
    Action, Actions, Answer, Applied, Cause, Event, Registry, RegistryIdentity, SenderConfig,
    SessionKind,
};
use moorline_types::{Epoch, Instant, OpenCount, VolumeId};

use crate::{
    model::Fact,
    reference::{engine_fact, line, server_id},
};

/// What happens to s2, beside facts of its latest session.
#[derive(Clone, Copy)]
enum Beat {
    LinkUp,
    LinkLost,
    Silent,
    Told(Fact),
    Rebuild,
    Superseded,
    Raised,
    Unassigned,
}

use Beat::{LinkLost, LinkUp, Raised, Rebuild, Silent, Superseded, Told, Unassigned};

/// Every event about s2, from its assignment on.
fn story(beats: &[Beat]) -> String {
    let (now, server) = (Instant::ZERO, server_id(2));
    let identity = RegistryIdentity {
        volume: VolumeId::new(1),
        own: server_id(1),
        open: OpenCount::new(7),
    };
    let mut registry = Registry::new(identity, Epoch::new(1, 0), SenderConfig::default());
    let mut out = Actions::new();
    let applied = registry.apply(now, &line(1, 1), &mut out);
    assert!(matches!(applied, Applied::Reconciled(_)));
    for beat in beats {
        let kind = SessionKind::CatchUp;
        let answer = match *beat {
            LinkUp => registry.link_up(now, &server, Cause::Reconnect, &mut out),
            LinkLost => registry.handle(now, &server, Event::LinkLost, &mut out),
            Silent => registry.handle(now, &server, Event::PeerSilent, &mut out),
            Told(fact) => {
                let sender = registry.sender(&server).expect("s2 is assigned");
                let session = sender.session().expect("facts are of a session");
                let (stamp, fact) = (session.stamp(), engine_fact(fact));
                registry.handle(now, &server, Event::Session { stamp, fact }, &mut out)
            }
            Rebuild => {
                let what = (SessionKind::Rebuild, Cause::Operator);
                registry.request_session(now, &server, what, &mut out)
            }
            Superseded => {
                let (fresh, cause) = (registry.fresh_session_id(), Cause::Operator);
                let event = Event::SessionReplaced { fresh, kind, cause };
                registry.handle(now, &server, event, &mut out)
            }
            Raised => {
                let _raise = registry.raise_epoch(now, Epoch::new(2, 0), &mut out);
                Answer::Done
            }
            Unassigned => {
                let mut line = line(1, 2);
                line.members.retain(|member| member.server != server);
                let _applied = registry.apply(now, &line, &mut out);
                Answer::Done
            }
        };
        assert_eq!(answer, Answer::Done, "a story is made of what counts");
    }
    let mut text = String::new();
    for asked in out.iter().filter(|asked| asked.replica == server) {
        if let Action::Emit(event) = &asked.action {
            writeln!(text, "  {event}").expect("a string takes it");
        }
    }
    text
}

/// The primary: head 20, committed 12, tail 5. A base has three extents.
fn stories() -> Vec<(&'static str, Vec<Beat>)> {
    let answered = |head, flushed| Told(Fact::Answered { head, flushed });
    let gap = [LinkUp, answered(6, 6), Told(Fact::Bound)];
    let too_old = [LinkUp, answered(3, 3)];
    let proofs = [
        Told(Fact::Joined(22)),
        Told(Fact::Acked(22)),
        Told(Fact::Recorded),
    ];
    let rebuild = [Rebuild, LinkUp, Told(Fact::Offered), Told(Fact::Bound)];
    let laid = [
        Told(Fact::Acked(9)),
        Told(Fact::Joined(20)),
        Told(Fact::Laid(1)),
        Told(Fact::Laid(3)),
    ];
    let path = |parts: &[&[Beat]]| parts.concat();
    vec![
        ("zero gap", path(&[&[LinkUp, answered(14, 12)], &proofs])),
        (
            "a mere cut",
            path(&[&[LinkUp, answered(25, 25), Told(Fact::Cut(20))], &proofs]),
        ),
        (
            "catch-up",
            path(&[
                &gap,
                &[Told(Fact::Acked(9)), Told(Fact::Acked(12))],
                &proofs,
            ]),
        ),
        (
            "catch-up after a cut",
            path(&[
                &[LinkUp, answered(25, 8), Told(Fact::Bound)],
                &[Told(Fact::Cut(20)), Told(Fact::Acked(12))],
                &proofs,
            ]),
        ),
        (
            "rebuild",
            path(&[
                &too_old,
                &rebuild,
                &laid,
                &[Told(Fact::Whole(12)), Told(Fact::Acked(12))],
            ]),
        ),
        (
            "rebuild, then the ordinary path",
            path(&[
                &too_old,
                &rebuild,
                &laid,
                &[Told(Fact::Acked(20)), Told(Fact::Whole(12))],
                &[LinkUp, answered(20, 20)],
                &proofs,
            ]),
        ),
        (
            "catch-up, its pin refused",
            vec![LinkUp, answered(6, 6), Told(Fact::PinRefused)],
        ),
        (
            "catch-up, its pin broken",
            path(&[&gap, &[Told(Fact::PinBroken)]]),
        ),
        (
            "catch-up, cancelled while it is planned",
            vec![LinkUp, answered(6, 6), Told(Fact::Cancelled)],
        ),
        ("catch-up, its link lost", path(&[&gap, &[LinkLost]])),
        ("catch-up, its peer silent", path(&[&gap, &[Silent]])),
        ("catch-up, superseded", path(&[&gap, &[Superseded]])),
        ("catch-up, its epoch over", path(&[&gap, &[Raised]])),
        ("catch-up, unassigned", path(&[&gap, &[Unassigned]])),
        (
            "catch-up, its records unreadable",
            path(&[&gap, &[Told(Fact::ReadFailed)]]),
        ),
        (
            "rebuild, its image refused",
            path(&[&too_old, &rebuild[..3], &[Told(Fact::PinRefused)]]),
        ),
        (
            "rebuild, its source's epoch over",
            path(&[&too_old, &rebuild, &laid, &[Raised]]),
        ),
        (
            "rebuild, its executor gone",
            path(&[&too_old, &rebuild, &laid, &[Told(Fact::Panicked)]]),
        ),
        (
            "refused by the replica",
            vec![LinkUp, Told(Fact::NotMember)],
        ),
    ]
}

#[test]
fn every_path_tells_its_whole_story_in_order_and_the_same_again() {
    let mut text = String::new();
    for (name, beats) in stories() {
        let told = story(&beats);
        assert_eq!(told, story(&beats), "{name}");
        writeln!(text, "{name}\n{told}").unwrap();
    }
    expect_file!["../../tables/stories.txt"].assert_eq(&text);
}
