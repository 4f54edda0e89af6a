//! The count of what passed and failed, and the closing lines that a reader of CI looks for.

use std::time::{Duration, Instant};

use crate::error::{Failure, Result, fail};

/// One checked thing.
#[derive(Debug)]
struct Entry {
    name: String,
    took: Duration,
    failure: Option<String>,
}

/// What was run so far: steps of the gate, and the tests counted inside them.
#[derive(Debug)]
pub(crate) struct Tally {
    began: Instant,
    entries: Vec<Entry>,
    inner_passed: usize,
    inner_failed: usize,
}

impl Tally {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            entries: Vec::new(),
            inner_passed: 0,
            inner_failed: 0,
        }
    }

    /// Runs one step and notes how it ended. Only an interruption ends the whole run; a failed step does not hide
    /// what the next ones would say.
    pub(crate) fn step(&mut self, name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        self.counted(name, || work().map(|()| (0, 0)))
    }

    /// Like [`Tally::step`], for work that counts tests of its own: (passed, failed).
    pub(crate) fn counted(
        &mut self,
        name: &str,
        work: impl FnOnce() -> Result<(usize, usize)>,
    ) -> Result<()> {
        println!("\n== {name}");
        let began = Instant::now();
        let outcome = work();
        let took = began.elapsed();
        let failure = match outcome {
            Ok((passed, failed)) => {
                self.inner_passed += passed;
                self.inner_failed += failed;
                (failed > 0).then(|| format!("{failed} of {} failed", passed + failed))
            }
            Err(Failure::Interrupted) => return Err(Failure::Interrupted),
            Err(other) => Some(other.to_string()),
        };
        match &failure {
            None => println!("== {name}: ok in {took:.1?}"),
            Some(why) => println!("== {name}: FAILED in {took:.1?}: {why}"),
        }
        self.entries.push(Entry {
            name: name.to_owned(),
            took,
            failure,
        });
        Ok(())
    }

    /// Prints the summary; fails when anything failed.
    pub(crate) fn close(self) -> Result<()> {
        println!("\n== summary");
        for entry in &self.entries {
            let verdict = if entry.failure.is_some() {
                "FAILED"
            } else {
                "ok"
            };
            println!(
                "{verdict:>7} {:>7.1} s  {}",
                entry.took.as_secs_f64(),
                entry.name
            );
        }
        // A step that holds failed tests is one of them already.
        let steps_failed = self
            .entries
            .iter()
            .filter(|entry| entry.failure.is_some())
            .count();
        let passed = self.inner_passed + self.entries.len() - steps_failed;
        let failed = self.inner_failed.max(steps_failed);
        let verdict = if failed == 0 { "ok" } else { "FAILED" };
        println!(
            "\ntest result: {verdict}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out; \
             finished in {:.2}s",
            self.began.elapsed().as_secs_f64()
        );
        println!("{passed} passed, {failed} failed");
        if failed > 0 {
            fail!("{failed} failed");
        }
        Ok(())
    }
}
