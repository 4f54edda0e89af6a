//! `moorline volume status --json`, as far as the scenarios look at it.

use serde_json::Value;

use crate::error::{Failure, Result, fail};

/// An epoch: assignment, then reign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Epoch {
    assignment: u64,
    reign: u64,
}

/// One replica of the volume.
#[derive(Debug, Clone)]
pub(crate) struct ReplicaStatus {
    /// The server it lives on.
    pub(crate) server: String,
    /// What it says it does.
    pub(crate) state: String,
    /// How far it is durable, if it is known.
    pub(crate) flushed: Option<u64>,
    /// How far it lags behind, if it is known.
    pub(crate) lag: Option<u64>,
}

/// The volume as its master and primary see it.
#[derive(Debug, Clone)]
pub(crate) struct VolumeStatus {
    /// The epoch.
    pub(crate) epoch: Epoch,
    /// The server that serves it, if one does.
    pub(crate) primary: Option<String>,
    /// Whether it really does: it may still be on its way.
    pub(crate) serving: bool,
    /// The servers in the in-sync set, sorted.
    pub(crate) in_sync: Vec<String>,
    /// The highest committed LSN, if it is known.
    pub(crate) committed: Option<u64>,
    /// All seats.
    pub(crate) replicas: Vec<ReplicaStatus>,
}

impl std::fmt::Display for Epoch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.assignment, self.reign)
    }
}

impl ReplicaStatus {
    /// Whether it takes part in every write.
    fn is_in_sync(&self) -> bool {
        matches!(self.state.as_str(), "primary" | "in_sync")
    }
}

impl VolumeStatus {
    /// Reads the document that the command printed.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let document: Value = serde_json::from_str(text).map_err(|error| {
            Failure::Expected(format!(
                "`volume status --json` printed no JSON ({error}): {text}"
            ))
        })?;
        for key in [
            "name",
            "size",
            "policy",
            "ack",
            "epoch",
            "config_version",
            "primary",
            "serving",
            "in_sync_set",
            "committed_lsn",
            "replicas",
        ] {
            if document.get(key).is_none() {
                fail!("`volume status --json` lacks {key:?}: {document}");
            }
        }
        let mut in_sync: Vec<String> = array(&document["in_sync_set"])
            .iter()
            .filter_map(server_name)
            .collect();
        in_sync.sort();
        Ok(Self {
            epoch: epoch(&document["epoch"])?,
            primary: server_name(&document["primary"]),
            serving: document["serving"] == true,
            in_sync,
            committed: document["committed_lsn"].as_u64(),
            replicas: array(&document["replicas"])
                .iter()
                .map(replica)
                .collect::<Result<_>>()?,
        })
    }

    /// One line for step output and error messages.
    pub(crate) fn summary(&self) -> String {
        let replicas: Vec<String> = self
            .replicas
            .iter()
            .map(|replica| {
                let flushed = replica
                    .flushed
                    .map_or_else(|| "?".to_owned(), |lsn| lsn.to_string());
                format!("{}={}@{flushed}", replica.server, replica.state)
            })
            .collect();
        format!(
            "epoch {} committed {} primary {} in sync [{}] {}",
            self.epoch,
            self.committed
                .map_or_else(|| "?".to_owned(), |lsn| lsn.to_string()),
            self.primary.as_deref().unwrap_or("none"),
            self.in_sync.join(" "),
            replicas.join(" ")
        )
    }

    /// Whether a primary serves.
    pub(crate) fn serves(&self) -> bool {
        self.primary.is_some() && self.serving
    }

    /// Whether all `count` replicas are in sync, under a primary that serves.
    pub(crate) fn is_whole(&self, count: usize) -> bool {
        self.serves()
            && self.in_sync.len() == count
            && self.replicas.iter().all(ReplicaStatus::is_in_sync)
    }

    /// Whether it is whole and every replica has every record, as it comes to be without load.
    pub(crate) fn is_level(&self, count: usize) -> bool {
        let has_all = |replica: &ReplicaStatus| replica.lag.is_none_or(|lag| lag == 0);
        self.is_whole(count) && self.replicas.iter().all(has_all)
    }
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A server's id, out of `s1` or a replica's id `demo/s1`.
fn server_name(value: &Value) -> Option<String> {
    let text = value.as_str()?;
    let name = text.rsplit_once('/').map_or(text, |(_, server)| server);
    (!name.is_empty()).then(|| name.to_owned())
}

fn epoch(value: &Value) -> Result<Epoch> {
    let whole = value.as_u64().map(|assignment| Epoch {
        assignment,
        reign: 0,
    });
    let pair = || {
        Some(Epoch {
            assignment: value.get("assignment")?.as_u64()?,
            reign: value.get("reign").map_or(Some(0), Value::as_u64)?,
        })
    };
    let text = || {
        let (assignment, reign) = value.as_str()?.split_once('.')?;
        Some(Epoch {
            assignment: assignment.parse().ok()?,
            reign: reign.parse().ok()?,
        })
    };
    match whole.or_else(pair).or_else(text) {
        Some(epoch) => Ok(epoch),
        None => fail!("`volume status --json` has an epoch that is none: {value}"),
    }
}

fn replica(value: &Value) -> Result<ReplicaStatus> {
    let Some(server) = server_name(&value["server_id"]) else {
        fail!("a replica without a server_id: {value}");
    };
    Ok(ReplicaStatus {
        server,
        state: value["state"].as_str().unwrap_or("unknown").to_owned(),
        flushed: value["flushed_lsn"].as_u64(),
        lag: value["lag_records"].as_u64(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_read_as_number_pair_or_text() {
        for text in ["3", r#"{"assignment":3,"reign":0}"#, r#""3.0""#] {
            let value = serde_json::from_str(text).unwrap();
            assert_eq!(
                epoch(&value).unwrap(),
                Epoch {
                    assignment: 3,
                    reign: 0
                }
            );
        }
        assert!(epoch(&Value::Null).is_err());
    }

    #[test]
    fn a_volume_is_whole_when_every_seat_is_in_sync_and_level_when_none_lags() {
        let text = r#"{"name":"demo","size":1,"policy":"sync_quorum","ack":"flushed","epoch":2,"config_version":1,
            "primary":"s1","serving":true,"in_sync_set":["demo/s1","demo/s2"],"committed_lsn":9,"replicas":[
            {"server_id":"s1","state":"primary","flushed_lsn":9,"lag_records":0},
            {"server_id":"s2","state":"in_sync","flushed_lsn":9,"lag_records":0}]}"#;
        let status = VolumeStatus::parse(text).unwrap();
        assert!(status.is_whole(2));
        assert!(!status.is_whole(3));
        assert!(status.is_level(2));
        let lagging = text.replace(r#""lag_records":0}]"#, r#""lag_records":7}]"#);
        let status = VolumeStatus::parse(&lagging).unwrap();
        assert!(status.is_whole(2) && !status.is_level(2));
        assert_eq!(status.committed, Some(9));
    }

    #[test]
    fn a_missing_key_is_named() {
        let error = VolumeStatus::parse("{}").unwrap_err().to_string();
        assert!(error.contains("\"name\""), "{error}");
    }
}
