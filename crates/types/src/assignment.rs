//! The newest line about one volume that the master recorded: who leads, who is a member.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    AckPoint, BlockCount, BootId, ConfigVersion, Epoch, OpenCount, Opening, Policy, ServerId,
    StoreId, VolumeId,
};

/// What a request meets while the policy cannot be met.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum NoQuorum {
    /// It waits for as long as it takes.
    #[default]
    Wait,
    /// It fails after this many seconds.
    Error(u32),
}

impl fmt::Display for NoQuorum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wait => f.write_str("wait"),
            Self::Error(secs) => write!(f, "error:{secs}"),
        }
    }
}

/// A word that is no such setting.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{word}` is neither `wait` nor `error:SECONDS` with 1 to 86400 seconds")]
pub struct ParseNoQuorumError {
    word: Box<str>,
}

impl FromStr for NoQuorum {
    type Err = ParseNoQuorumError;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        if word == "wait" {
            return Ok(Self::Wait);
        }
        let seconds = word
            .strip_prefix("error:")
            .and_then(|text| text.parse().ok());
        match seconds.filter(|seconds| (1..=86_400).contains(seconds)) {
            Some(seconds) => Ok(Self::Error(seconds)),
            None => Err(ParseNoQuorumError { word: word.into() }),
        }
    }
}

/// One run of one master: which instance of its store, and how often that was started.
///
/// A store that turns out to be an old copy begins another instance. Members remember the run that
/// they heard of last, so that a master which never was that run learns that its store is old.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, Default,
)]
pub struct MasterRun {
    /// Made with the store, and anew whenever the store is found to be an old copy.
    pub instance: u64,
    /// Raised durably at every start.
    pub start: u64,
}

impl fmt::Display for MasterRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}.{}", self.instance, self.start)
    }
}

/// One seat of a volume's member set and what is recorded about who sits there.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Member {
    /// The server; its replica is `<volume>/<server>`.
    pub server: ServerId,
    /// The store that has the seat's vote; `None` while none is recorded: the seat then counts in
    /// the size of the set and not in the votes.
    pub store: Option<StoreId>,
    /// The highest open counter seen of that store.
    pub open: OpenCount,
    /// The boot that was seen with that counter: another one with the same counter opened a copy.
    pub opened_by: Option<BootId>,
    /// The boot of that server that was last called in sync, or made the store.
    pub boot: Option<BootId>,
    /// Where its replication listener is.
    pub data_addr: String,
    /// Where its control listener is.
    pub control_addr: String,
    /// Where its NBD listener is.
    pub nbd_addr: String,
    /// Raised at each change of an address; lower is stale.
    pub endpoint_version: u64,
}

impl Member {
    /// The opening of the store that is recorded, for [`Openings::descends_from`]; `None` while no
    /// boot is.
    ///
    /// [`Openings::descends_from`]: crate::Openings::descends_from
    #[must_use]
    pub fn opening(&self) -> Option<Opening> {
        self.opened_by.map(|boot| Opening {
            open: self.open,
            boot,
        })
    }
}

/// One assignment of one volume, ordered by `(epoch, config)`.
///
/// The same `(epoch, config)` with other content is refused loudly by whoever sees both.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct AssignmentLine {
    /// The volume.
    pub volume: VolumeId,
    /// Its name, which is also its NBD export name.
    pub name: String,
    /// Its size in 4 KiB blocks.
    pub size_blocks: BlockCount,
    /// How many copies a write needs.
    pub policy: Policy,
    /// What a copy must have done to count.
    pub ack: AckPoint,
    /// The least number of copies under [`Policy::SyncAll`], the primary's included.
    pub min_copies: u32,
    /// The reign.
    pub epoch: Epoch,
    /// Orders the changes within the reign.
    pub config: ConfigVersion,
    /// The server that was given the reign and the boot that asked for it; `None` before the first.
    pub primary: Option<(ServerId, BootId)>,
    /// The seats, ascending by server id.
    pub members: Vec<Member>,
    /// The members called in sync, ascending.
    pub in_sync: Vec<ServerId>,
    /// What requests meet while the policy cannot be met.
    pub no_quorum: NoQuorum,
    /// How long a lease lasts, in milliseconds.
    pub lease_ms: u32,
}

impl AssignmentLine {
    /// What lines are ordered by.
    #[must_use]
    pub const fn version(&self) -> (Epoch, ConfigVersion) {
        (self.epoch, self.config)
    }

    /// The seat of `server`, if it has one.
    #[must_use]
    pub fn member(&self, server: &ServerId) -> Option<&Member> {
        self.members.iter().find(|member| member.server == *server)
    }

    /// Whether `server` is called in sync.
    #[must_use]
    pub fn is_in_sync(&self, server: &ServerId) -> bool {
        self.in_sync.contains(server)
    }

    /// The least number of seats that is more than half of them.
    #[must_use]
    pub fn majority(&self) -> usize {
        self.members.len() / 2 + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_comes_back_as_it_is_printed() {
        for setting in [NoQuorum::Wait, NoQuorum::Error(1), NoQuorum::Error(86_400)] {
            assert_eq!(setting.to_string().parse(), Ok(setting));
        }
        for word in [
            "",
            "error",
            "error:",
            "error:0",
            "error:86401",
            "error:-1",
            "Wait",
        ] {
            assert!(word.parse::<NoQuorum>().is_err(), "{word}");
        }
    }

    #[test]
    fn a_majority_is_more_than_half_of_all_seats() {
        let seat = |n: usize| Member {
            server: format!("s{n}").parse().unwrap(),
            store: None,
            open: OpenCount::default(),
            opened_by: None,
            boot: None,
            data_addr: String::new(),
            control_addr: String::new(),
            nbd_addr: String::new(),
            endpoint_version: 0,
        };
        for (seats, want) in [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3)] {
            let line = AssignmentLine {
                volume: VolumeId::new(1),
                name: "demo".into(),
                size_blocks: BlockCount::new(1),
                policy: Policy::SyncQuorum,
                ack: AckPoint::Flushed,
                min_copies: 1,
                epoch: Epoch::ZERO,
                config: ConfigVersion::ZERO,
                primary: None,
                members: (0..seats).map(seat).collect(),
                in_sync: Vec::new(),
                no_quorum: NoQuorum::Wait,
                lease_ms: 2_000,
            };
            assert_eq!(line.majority(), want, "{seats} seats");
        }
    }
}
