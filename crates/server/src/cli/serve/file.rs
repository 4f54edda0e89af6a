//! The configuration file of `moorline serve`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Deserializer, de};

use crate::{
    cli::args::parse_bytes,
    config::{DeviceAccess, LogFormat, NbdLimits, OnVolatileLoss},
};

/// What `moorline serve --print-config` prints: every key, with its default where it has one.
pub(super) const SAMPLE: &str = include_str!("sample.toml");

/// The settings in a file; all of them may be left out and given as flags.
#[derive(Clone, PartialEq, Eq, Default, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct ConfigFile {
    pub(super) server_id: Option<String>,
    pub(super) dir: Option<PathBuf>,
    pub(super) device: Option<PathBuf>,
    pub(super) master: Option<String>,
    pub(super) data: Option<String>,
    pub(super) control: Option<String>,
    pub(super) nbd: Option<String>,
    pub(super) data_advertise: Option<String>,
    pub(super) control_advertise: Option<String>,
    pub(super) nbd_advertise: Option<String>,
    pub(super) nbd_unix: Option<PathBuf>,
    pub(super) metrics: Option<String>,
    pub(super) cluster_key: Option<PathBuf>,
    pub(super) insecure: Option<bool>,
    pub(super) on_volatile_loss: Option<VolatileLossWord>,
    pub(super) io: Option<IoWord>,
    pub(super) log: Option<String>,
    pub(super) log_format: Option<FormatWord>,
    pub(super) nbd_limits: Option<LimitsTable>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(super) enum VolatileLossWord {
    /// Clients get an error until an operator accepts the loss
    Stop,
    /// It is noted, and service goes on
    Continue,
}

impl From<VolatileLossWord> for OnVolatileLoss {
    fn from(word: VolatileLossWord) -> Self {
        match word {
            VolatileLossWord::Stop => Self::Stop,
            VolatileLossWord::Continue => Self::Continue,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum IoWord {
    Probe,
    Sync,
}

impl From<IoWord> for DeviceAccess {
    fn from(word: IoWord) -> Self {
        match word {
            IoWord::Probe => Self::Probe,
            IoWord::Sync => Self::Sync,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum FormatWord {
    Text,
    Json,
}

impl From<FormatWord> for LogFormat {
    fn from(word: FormatWord) -> Self {
        match word {
            FormatWord::Text => Self::Text,
            FormatWord::Json => Self::Json,
        }
    }
}

#[derive(Clone, PartialEq, Eq, Default, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct LimitsTable {
    connections: Option<usize>,
    handshakes: Option<usize>,
    handshake_ms: Option<u64>,
    connection_bytes: Option<Size>,
    total_bytes: Option<Size>,
}

impl LimitsTable {
    /// The limits, with the default of whatever is left out.
    pub(super) fn limits(&self) -> NbdLimits {
        let defaults = NbdLimits::default();
        NbdLimits {
            connections_max: self.connections.unwrap_or(defaults.connections_max),
            handshakes_max: self.handshakes.unwrap_or(defaults.handshakes_max),
            handshake_ms_max: self.handshake_ms.unwrap_or(defaults.handshake_ms_max),
            connection_bytes_max: self
                .connection_bytes
                .map_or(defaults.connection_bytes_max, |size| size.0),
            total_bytes_max: self
                .total_bytes
                .map_or(defaults.total_bytes_max, |size| size.0),
        }
    }
}

/// Bytes: a number, or text with a unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Size(usize);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Size;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number of bytes, or one with a unit such as \"64MiB\"")
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Size, E> {
                let size = usize::try_from(value).map(Size);
                size.map_err(|_| E::invalid_value(de::Unexpected::Signed(value), &self))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                let bytes = parse_bytes(text).map_err(E::custom)?;
                usize::try_from(bytes).map(Size).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// A configuration file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFileError {
    /// It cannot be read.
    #[error("cannot read the configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It says something that it cannot say.
    #[error("{}, line {line}: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Counted from one.
        line: usize,
        /// What is wrong there, and what would do.
        reason: String,
    },
}

impl ConfigFile {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// If it cannot be read, is no TOML, or has an unknown key or a value that cannot be.
    pub(super) fn read(path: &Path) -> Result<Self, ConfigFileError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigFileError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ConfigFileError> {
        toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start).min(text.len());
            let line = text.as_bytes()[..at]
                .iter()
                .filter(|&&b| b == b'\n')
                .count()
                + 1;
            ConfigFileError::Content {
                path: path.to_owned(),
                line,
                reason: in_our_words(error.message()),
            }
        })
    }
}

/// The parser speaks of fields; users know keys.
fn in_our_words(message: &str) -> String {
    message
        .replace("unknown field", "unknown key")
        .replace(", expected one of ", "; the keys are ")
        .replace('\n', ", ")
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn parse(text: &str) -> Result<ConfigFile, String> {
        ConfigFile::parse(Path::new("server.toml"), text).map_err(|error| error.to_string())
    }

    fn refused(text: &str, want: Expect) {
        want.assert_eq(&parse(text).unwrap_err());
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_the_known_ones() {
        refused(
            "server-id = \"s1\"\n\nanchor = true\n",
            expect![
                "server.toml, line 3: unknown key `anchor`; the keys are `server-id`, `dir`, `device`, `master`, `data`, `control`, `nbd`, `data-advertise`, `control-advertise`, `nbd-advertise`, `nbd-unix`, `metrics`, `cluster-key`, `insecure`, `on-volatile-loss`, `io`, `log`, `log-format`, `nbd-limits`"
            ],
        );
        refused(
            "[nbd-limits]\nconections = 5\n",
            expect![[
                r#"server.toml, line 2: unknown key `conections`; the keys are `connections`, `handshakes`, `handshake-ms`, `connection-bytes`, `total-bytes`"#
            ]],
        );
    }

    #[test]
    fn wrong_values_are_named_with_their_line() {
        refused(
            "server-id = \n",
            expect!["server.toml, line 1: string values must be quoted, expected literal string"],
        );
        refused(
            "insecure = \"no\"\n",
            expect![[r#"server.toml, line 1: invalid type: string "no", expected a boolean"#]],
        );
        refused(
            "io = \"fast\"\n",
            expect!["server.toml, line 1: unknown variant `fast`, expected `probe` or `sync`"],
        );
        refused(
            "[nbd-limits]\ntotal-bytes = \"1GB\"\n",
            expect![[
                r#"server.toml, line 2: `GB` is no unit here: use KiB, MiB, GiB, TiB or PiB (1 KiB is 1024 bytes)"#
            ]],
        );
        refused(
            "[nbd-limits]\ntotal-bytes = -1\n",
            expect![[
                r#"server.toml, line 2: invalid value: integer `-1`, expected a number of bytes, or one with a unit such as "64MiB""#
            ]],
        );
        refused(
            "dir = \"a\"\ndir = \"b\"\n",
            expect!["server.toml, line 2: duplicate key"],
        );
    }

    #[test]
    fn sizes_are_numbers_or_have_units() {
        let file = parse("[nbd-limits]\nconnection-bytes = 65536\ntotal-bytes = \"1GiB\"\n");
        let limits = file.unwrap().nbd_limits.unwrap().limits();
        assert_eq!(limits.connection_bytes_max, 65_536);
        assert_eq!(limits.total_bytes_max, 1 << 30);
        assert_eq!(limits.connections_max, NbdLimits::default().connections_max);
    }

    #[test]
    fn the_sample_parses_with_every_key_taken_out_of_its_comment() {
        assert!(parse(SAMPLE).is_ok());
        let live: String = SAMPLE
            .lines()
            .map(|line| match line.strip_prefix("#") {
                Some(rest) if !rest.starts_with(' ') => format!("{rest}\n"),
                Some(_) | None => format!("{line}\n"),
            })
            .collect();
        let file = parse(&live).unwrap();
        // `device` stands for `dir`, the rest is there: a new key cannot miss the sample.
        let shown = format!("{file:?}");
        assert_eq!(shown.matches("None").count(), 0, "{shown}");
        assert_eq!(file.nbd_limits.unwrap().limits(), NbdLimits::default());
    }
}
