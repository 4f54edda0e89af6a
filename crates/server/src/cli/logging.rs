//! Log lines of servers and masters: to standard error, as the settings say.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use super::CliError;
use crate::config::{LogFormat, LogSettings};

/// What is logged unless said otherwise.
const FILTER_DEFAULT: &str = "info";

/// Sets up the log of this process. Called once, before anything is logged.
pub(super) fn init(settings: &LogSettings) -> Result<(), CliError> {
    let filter = settings.filter.as_deref().unwrap_or(FILTER_DEFAULT);
    let filter = EnvFilter::try_new(filter).map_err(|error| CliError::BadSetting {
        key: "log",
        value: filter.to_owned(),
        reason: format!("{error}; use a level (error, warn, info, debug, trace) or target=level"),
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    let set = match settings.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    set.map_err(|error| CliError::Setup {
        what: "set up the log",
        source: io::Error::other(error),
    })
}
