//! Ctrl-C and SIGTERM as an error that unwinds, so that every guard on the stack cleans up.
//!
//! All waiting in this crate goes through here; nothing blocks longer than a slice without looking.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use crate::error::{During, Failure, Result};

/// How often a wait looks for an interruption.
const SLICE: Duration = Duration::from_millis(20);

/// Signals asked for so far. The third ends the process at once: clean-up itself may hang.
static ASKED: AtomicU32 = AtomicU32::new(0);
const PATIENCE: u32 = 3;

/// Catches SIGINT and SIGTERM for the rest of the process.
pub(crate) fn install() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .during("starting the signal watcher")?;
    let (mut interrupts, mut terminations) = {
        let _context = runtime.enter();
        (
            signal(SignalKind::interrupt()).during("catching SIGINT")?,
            signal(SignalKind::terminate()).during("catching SIGTERM")?,
        )
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                loop {
                    tokio::select! {
                        _ = interrupts.recv() => {}
                        _ = terminations.recv() => {}
                    }
                    if ASKED.fetch_add(1, Ordering::SeqCst) + 1 >= PATIENCE {
                        std::process::exit(130);
                    }
                    eprintln!("xtask: interrupted, cleaning up");
                }
            });
        })
        .during("starting the signal watcher")?;
    Ok(())
}

/// Fails with [`Failure::Interrupted`] once the user asked to stop.
pub(crate) fn check() -> Result<()> {
    if ASKED.load(Ordering::SeqCst) > 0 {
        return Err(Failure::Interrupted);
    }
    Ok(())
}

/// Waits, unless interrupted.
pub(crate) fn pause(length: Duration) -> Result<()> {
    let until = Instant::now() + length;
    loop {
        check()?;
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(SLICE));
    }
}

/// What one look at a condition found.
pub(crate) enum Look<T> {
    /// It holds.
    There(T),
    /// Not yet; what was seen instead, for the error message.
    NotYet(String),
}

/// Looks until the condition holds, at most for `limit`. An error of `look` ends the wait at once.
pub(crate) fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<Look<T>>,
) -> Result<T> {
    let until = Instant::now() + limit;
    loop {
        check()?;
        let seen = match look()? {
            Look::There(found) => return Ok(found),
            Look::NotYet(seen) => seen,
        };
        if Instant::now() >= until {
            return Err(Failure::Overdue {
                what: what.to_owned(),
                limit,
                detail: format!("; last seen: {seen}"),
            });
        }
        std::thread::sleep(SLICE);
    }
}
