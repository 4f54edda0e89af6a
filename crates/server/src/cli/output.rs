//! How answers look: tables and sentences for people, JSON for programs.
//!
//! Pure: the same values give the same text. Words of states are those of the JSON.

mod table;
mod time;
mod view;

use std::{fmt, io::Write};

use moorline_types::Lsn;
use serde::Serialize;

use super::CliError;

pub use table::{Cell, Table, Tone};
pub use time::{clock, utc};
pub use view::{cluster, event, servers, summary_line, volume, volume_list};

/// Whether text may carry colour.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Paint {
    /// None.
    Plain,
    /// The terminal's own sixteen.
    Color,
}

/// Prints one value as JSON over several lines.
///
/// # Errors
///
/// If standard output is gone.
pub fn json<T: Serialize>(out: &mut dyn Write, value: &T) -> Result<(), CliError> {
    serde_json::to_writer_pretty(&mut *out, value)
        .map_err(|error| CliError::Output(error.into()))?;
    writeln!(out).map_err(CliError::Output)
}

/// Prints one value as JSON on one line.
///
/// # Errors
///
/// If standard output is gone.
pub fn json_line<T: Serialize>(out: &mut dyn Write, value: &T) -> Result<(), CliError> {
    serde_json::to_writer(&mut *out, value).map_err(|error| CliError::Output(error.into()))?;
    writeln!(out).map_err(CliError::Output)
}

/// The word that stands for a variant in JSON.
#[must_use]
pub fn word<T: Serialize + fmt::Debug>(value: &T) -> String {
    let json = serde_json::to_value(value).unwrap_or_default();
    let tag = json.as_object().and_then(|fields| fields.keys().next());
    match json.as_str().or(tag.map(String::as_str)) {
        Some(word) => word.to_owned(),
        None => format!("{value:?}"),
    }
}

/// `1 replica`, `3 replicas`.
#[must_use]
pub fn count(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

/// A position, or `-` where none is known.
#[must_use]
pub fn lsn(value: Option<Lsn>) -> String {
    value.map_or_else(|| "-".to_owned(), |lsn| lsn.to_string())
}

/// Names in a row, or `none`.
#[must_use]
pub fn names<T: fmt::Display>(values: &[T]) -> String {
    if values.is_empty() {
        return "none".to_owned();
    }
    let names: Vec<String> = values.iter().map(ToString::to_string).collect();
    names.join(" ")
}

#[cfg(test)]
mod tests;
