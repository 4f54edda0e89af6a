//! The role machine of one replica: what every state makes of everything.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    time::Duration,
};

use expect_test::expect_file;
use moorline_types::{ConfigVersion, Policy};

use self::{
    stage::{OWN_BOOT, Stage, Who, header},
    states::STATES,
};
use crate::world::blocks;

mod events;
mod peers;
mod stage;
mod states;
mod words;

/// Steps between roles: which events make them.
type Edges = BTreeMap<(&'static str, &'static str), BTreeSet<&'static str>>;

/// Words that say the same several times in a row, said once.
fn brief(said: &[String]) -> String {
    let mut words: Vec<(&String, usize)> = Vec::new();
    for word in said {
        match words.iter_mut().find(|(known, _)| *known == word) {
            Some((_, times)) => *times += 1,
            None => words.push((word, 1)),
        }
    }
    let words: Vec<String> = words
        .into_iter()
        .map(|(word, times)| match times {
            1 => word.clone(),
            2 => format!("{word} x2"),
            _ => format!("{word} ..."),
        })
        .collect();
    words.join(" ")
}

fn changes(before: &Stage, after: &Stage) -> String {
    let mut text = String::new();
    let (from, to) = (before.role(), after.role());
    if from != to {
        write!(text, " [{from}->{to}]").unwrap();
    }
    let facts = before.facts().into_iter().zip(after.facts());
    for ((name, old), (_, new)) in facts.filter(|(old, new)| old != new) {
        write!(text, " {name}: {old}->{new},").unwrap();
    }
    text.trim_end_matches(',').to_owned()
}

/// The table, and the steps that it saw.
fn table() -> (String, Edges) {
    let (mut table, mut edges) = (String::new(), Edges::new());
    for (name, build) in STATES {
        let before = build();
        writeln!(table, "{name}\n  = {}", before.summary()).unwrap();
        let mut rows: Vec<(String, Vec<&str>)> = Vec::new();
        let count = events::all(&mut build()).len();
        for index in 0..count {
            let mut stage = build();
            let (event, befalls) = events::all(&mut stage).swap_remove(index);
            stage.said.clear();
            befalls.befall(&mut stage);
            let (from, to) = (before.role(), stage.role());
            if from != to {
                let kind = event.split('(').next().expect("a split has a first part");
                edges.entry((from, to)).or_default().insert(kind);
            }
            let text = format!("{}{}", brief(&stage.said), changes(&before, &stage));
            match rows.iter_mut().find(|(known, _)| *known == text) {
                Some((_, events)) => events.push(event),
                None => rows.push((text, vec![event])),
            }
        }
        // What changes nothing, and says nothing, comes last.
        rows.sort_by_key(|(text, _)| text.is_empty());
        for (text, events) in rows {
            let text = match text.trim_start() {
                "" => "nothing",
                text => text,
            };
            writeln!(table, "  {}\n    {text}", events.join(", ")).unwrap();
        }
    }
    (table, edges)
}

fn draw(edges: &Edges, end: &str) -> String {
    let words = |by: &BTreeSet<&str>| by.iter().copied().collect::<Vec<_>>().join(", ");
    let mut text = String::from("```mermaid\nstateDiagram-v2\n    [*] --> idle\n");
    for ((from, to), by) in edges.iter().filter(|((_, to), _)| *to != end) {
        writeln!(text, "    {from} --> {to} : {}", words(by)).unwrap();
    }
    writeln!(text, "```\n\n| To `{end}` from | by |\n|---|---|").unwrap();
    for ((from, _), by) in edges.iter().filter(|((_, to), _)| *to == end) {
        writeln!(text, "| `{from}` | {} |", words(by)).unwrap();
    }
    text
}

#[test]
fn every_role_answers_every_event() {
    let (table, edges) = table();
    expect_file!["../../tables/roles.txt"].assert_eq(&table);
    let text = format!("{HEAD}\n{}", draw(&edges, "stopped"));
    expect_file!["../../../../docs/role-states.md"].assert_eq(&text);
}

const HEAD: &str = "\
# The roles of a replica

Drawn from the table of every state and every event, `crates/volume/tables/roles.txt`: a test compares both with what a node does, so they cannot part. After
a change of the role machine, `UPDATE_EXPECT=1 cargo test -p moorline-volume roles` writes them anew; read the difference before you commit it. The rules are
in [protocol.md](protocol.md), section 3 has the roles; what each event carries, and what each state answers to it, is in the table. `serving` says that the
mark is committed: whether a client is answered depends on the lease too, at each answer.
";

#[test]
fn a_cut_that_is_ordered_again_is_answered_when_it_is_durable() {
    let mut stage = states::cutting();
    stage.said.clear();
    let cut = events::truncate(2);
    stage.hear(Who::S2, header(Who::Own, 5, 1), cut);
    assert_eq!(stage.said, Vec::<String>::new());
    stage.unhang();
    assert_eq!(
        stage.said,
        ["!cut(2)", ">truncation_recorded(2)", ">ack(2, 2)"]
    );
}

#[test]
fn a_candidate_that_waits_for_a_lease_promises_its_epoch_to_nobody_else() {
    let mut stage = states::own_promise_waits();
    let asked = states::asks_promise(&stage, Who::S3, 5);
    stage.hear(Who::S3, header(Who::Own, 5, 0), asked);
    stage.pass(Duration::from_secs(3));
    assert!(stage.said.contains(&"!promised(5 to s1)".to_owned()));
    stage.promise(Who::S2);
    assert_eq!(stage.role(), "opening");
}

#[test]
fn a_primary_without_a_vote_is_deposed_by_a_higher_promise() {
    let mut stage = states::serving();
    let mut line = stage.line_of(6, Some((Who::S3, Who::S3.boot())));
    line.members[0].store = Some(Who::Stranger.store());
    stage.line = line;
    let asked = states::asks_promise(&stage, Who::S3, 6);
    stage.hear(Who::S3, header(Who::Own, 6, 0), asked);
    assert!(stage.said.contains(&">promise_refused(no_vote)".to_owned()));
    assert_eq!(stage.role(), "replica");
}

#[test]
fn a_member_that_grants_no_lease_leaves_an_idle_volume_that_needs_everybodys() {
    let mut stage = Stage::new();
    stage.line.policy = Policy::SyncAll;
    stage.line.min_copies = 2;
    stage.obedient = true;
    stage.assign(stage.line_of(5, Some((Who::Own, OWN_BOOT))));
    stage.pass(Duration::from_secs(1));
    assert_eq!(stage.role(), "serving");
    // Its connections stand, and no record waits for it.
    stage.silent = Some(Who::S3);
    stage.pass(Duration::from_secs(4));
    let asked = ">master:change_config(s1,s2)".to_owned();
    assert!(stage.said.contains(&asked), "{:?}", stage.said);
    let mut line = stage.line_of(5, Some((Who::Own, OWN_BOOT)));
    line.config = ConfigVersion::new(3);
    line.in_sync.truncate(2);
    stage.assign(line);
    let write = stage.request(Stage::write(blocks(3, 1)));
    stage.tell(write);
    stage.pass(Duration::from_secs(1));
    assert!(stage.said.contains(&"reply(done)".to_owned()));
}
