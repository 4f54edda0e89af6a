//! When a write may be acknowledged.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// How many replicas a write needs before its client is told.
///
/// The primary's own flush is required under each of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// The primary alone decides; a failover may lose acknowledged writes and status says so.
    BestEffort,
    /// A majority of all seats, seats without a vote included in the size.
    SyncQuorum,
    /// Every member of the in-sync set, and at least the volume's minimum of copies.
    SyncAll,
}

/// What a copy must have done with a write before it counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AckPoint {
    /// Durable in its log. A client's FLUSH has then nothing left to do.
    Flushed,
    /// In its memory; FLUSH and FUA wait for durable.
    Received,
}

/// A word that names no policy or ack point.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{word}` is not one of: {choices}")]
pub struct ParsePolicyError {
    word: Box<str>,
    choices: &'static str,
}

impl FromStr for Policy {
    type Err = ParsePolicyError;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "best_effort" => Ok(Self::BestEffort),
            "sync_quorum" => Ok(Self::SyncQuorum),
            "sync_all" => Ok(Self::SyncAll),
            _ => Err(ParsePolicyError {
                word: word.into(),
                choices: "best_effort, sync_quorum, sync_all",
            }),
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BestEffort => "best_effort",
            Self::SyncQuorum => "sync_quorum",
            Self::SyncAll => "sync_all",
        })
    }
}

impl FromStr for AckPoint {
    type Err = ParsePolicyError;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "flushed" => Ok(Self::Flushed),
            "received" => Ok(Self::Received),
            _ => Err(ParsePolicyError {
                word: word.into(),
                choices: "flushed, received",
            }),
        }
    }
}

impl fmt::Display for AckPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flushed => "flushed",
            Self::Received => "received",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_back_as_they_are_printed() {
        for policy in [Policy::BestEffort, Policy::SyncQuorum, Policy::SyncAll] {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        for ack in [AckPoint::Flushed, AckPoint::Received] {
            assert_eq!(ack.to_string().parse(), Ok(ack));
        }
    }

    #[test]
    fn a_wrong_word_is_answered_with_the_right_ones() {
        let error = "quorum".parse::<Policy>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "`quorum` is not one of: best_effort, sync_quorum, sync_all"
        );
    }
}
