//! Which volumes there are and who serves them.

use std::collections::BTreeMap;

use moorline_nbd::{Access, Export, Exports, ListedExport, Lookup, MultiConn};
use moorline_types::VolumeId;
use moorline_volume::ExportState;

#[derive(Clone, PartialEq, Eq, Debug)]
struct Entry {
    volume: VolumeId,
    state: ExportState,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
enum Welcome {
    #[default]
    Open,
    ShuttingDown,
}

/// The exports by name.
#[derive(Default, Debug)]
pub(super) struct ExportTable {
    entries: BTreeMap<String, Entry>,
    welcome: Welcome,
}

impl ExportTable {
    pub(super) fn set(&mut self, volume: VolumeId, name: String, state: ExportState) {
        let is_others = |entry: &Entry| entry.volume != volume;
        match state {
            // A volume that was made since under the same name stays.
            ExportState::Gone => {
                self.entries
                    .retain(|known, entry| *known != name || is_others(entry));
            }
            ExportState::Serving { .. }
            | ExportState::Elsewhere { .. }
            | ExportState::VolatileLoss => {
                self.entries.insert(name, Entry { volume, state });
            }
        }
    }

    pub(super) fn serves_any(&self) -> bool {
        self.welcome == Welcome::Open
            && self
                .entries
                .values()
                .any(|entry| matches!(entry.state, ExportState::Serving { .. }))
    }

    pub(super) fn shut_down(&mut self) {
        self.welcome = Welcome::ShuttingDown;
    }

    /// The volume that is served under `name` here.
    pub(super) fn served(&self, name: &str) -> Option<VolumeId> {
        let entry = self.entries.get(name)?;
        match entry.state {
            ExportState::Serving { .. } => Some(entry.volume),
            ExportState::Elsewhere { .. } | ExportState::VolatileLoss | ExportState::Gone => None,
        }
    }

    /// The only volume that is served here, which the empty name means.
    fn default_name(&self) -> Option<&str> {
        let mut served = self
            .entries
            .iter()
            .filter(|(_, entry)| matches!(entry.state, ExportState::Serving { .. }));
        match (served.next(), served.next()) {
            (Some((name, _)), None) => Some(name),
            (Some(_), Some(_)) | (None, _) => None,
        }
    }
}

impl Exports for ExportTable {
    fn find(&self, name: &str) -> Lookup {
        if self.welcome == Welcome::ShuttingDown {
            return Lookup::ShuttingDown;
        }
        let name = if name.is_empty() {
            self.default_name().unwrap_or(name)
        } else {
            name
        };
        match self.entries.get(name).map(|entry| &entry.state) {
            Some(ExportState::Serving { bytes }) => Lookup::Found(Export {
                name: name.to_owned(),
                description: "replicated volume".to_owned(),
                size_bytes: *bytes,
                access: Access::ReadWrite,
                multi_conn: MultiConn::Shared,
            }),
            Some(ExportState::Elsewhere {
                primary: Some((server, address)),
            }) => Lookup::Elsewhere {
                message: format!("volume `{name}` is served by {server}: connect to {address}"),
            },
            Some(ExportState::Elsewhere { primary: None }) => Lookup::Elsewhere {
                message: format!("volume `{name}` has no primary now: try again"),
            },
            Some(ExportState::VolatileLoss) => Lookup::Elsewhere {
                message: format!(
                    "volume `{name}` is stopped: acknowledged writes that were only in memory may be lost; \
                     to go on without them, `moorline volume accept-loss`"
                ),
            },
            Some(ExportState::Gone) | None => Lookup::Unknown,
        }
    }

    fn list(&self) -> Vec<ListedExport> {
        self.entries
            .iter()
            .map(|(name, entry)| ListedExport {
                name: name.clone(),
                description: match &entry.state {
                    ExportState::Elsewhere {
                        primary: Some((server, address)),
                    } => format!("served by {server} at {address}"),
                    ExportState::Elsewhere { primary: None } => "without a primary now".to_owned(),
                    ExportState::VolatileLoss => {
                        "stopped: acknowledged writes may be lost".to_owned()
                    }
                    ExportState::Serving { .. } | ExportState::Gone => {
                        "replicated volume".to_owned()
                    }
                },
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVING: ExportState = ExportState::Serving { bytes: 8192 };

    fn elsewhere() -> ExportState {
        ExportState::Elsewhere {
            primary: Some(("s2".parse().unwrap(), "10.0.0.2:10809".to_owned())),
        }
    }

    #[test]
    fn a_volume_that_lost_acknowledged_writes_says_what_an_operator_does() {
        let mut table = ExportTable::default();
        let id = VolumeId::new(1);
        table.set(id, "demo".to_owned(), ExportState::VolatileLoss);
        let Lookup::Elsewhere { message } = table.find("demo") else {
            panic!("it is refused");
        };
        assert!(message.contains("moorline volume accept-loss"), "{message}");
        assert_eq!(table.served("demo"), None);
        assert!(!table.serves_any());
    }

    #[test]
    fn a_refusal_names_the_primary() {
        let mut table = ExportTable::default();
        assert_eq!(table.find("demo"), Lookup::Unknown);
        table.set(VolumeId::new(1), "demo".to_owned(), elsewhere());
        let Lookup::Elsewhere { message } = table.find("demo") else {
            panic!("it is elsewhere");
        };
        assert!(
            message.contains("s2") && message.contains("10.0.0.2:10809"),
            "{message}"
        );
        assert_eq!(table.served("demo"), None);
        assert!(!table.serves_any());
    }

    #[test]
    fn the_empty_name_means_the_only_volume_served() {
        let mut table = ExportTable::default();
        table.set(VolumeId::new(1), "a".to_owned(), SERVING);
        table.set(VolumeId::new(2), "b".to_owned(), elsewhere());
        assert!(matches!(table.find(""), Lookup::Found(export) if export.name == "a"));
        table.set(VolumeId::new(2), "b".to_owned(), SERVING);
        assert_eq!(table.find(""), Lookup::Unknown);
        table.set(VolumeId::new(2), "b".to_owned(), ExportState::Gone);
        assert_eq!(table.list().len(), 1);
        // What is gone under a name does not take a later volume of that name with it.
        table.set(VolumeId::new(9), "a".to_owned(), ExportState::Gone);
        assert_eq!(table.served("a"), Some(VolumeId::new(1)));
        table.shut_down();
        assert_eq!(table.find("a"), Lookup::ShuttingDown);
    }
}
