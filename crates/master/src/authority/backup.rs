//! A copy of the records, for a file that can take the store's place. It is marked: the master that
//! starts over it learns from the members what it lacks (`MASTER-7`), so pages of different instants
//! do no harm.

use std::collections::BTreeMap;

use moorline_wire::control::BackupPage;

use super::Authority;
use crate::{
    record::{Key, MetaRecord, Value, VolumePhase},
    store::RecordVersion,
};

/// Bytes of records in one page: well below the largest message.
const PAGE_BYTES: usize = 256 << 10;

impl Authority {
    /// The records whose keys come after `after`, as many as fit a page.
    pub(super) fn backup(&self, after: Option<String>) -> BackupPage {
        let mut page = BackupPage {
            records: Vec::new(),
            is_last: true,
        };
        let mut bytes = 0;
        for (key, (version, value)) in self.all_records() {
            if after.as_ref().is_some_and(|after| key <= *after) {
                continue;
            }
            // A record always has a JSON: its maps have text for keys.
            let Ok(json) = serde_json::to_string(&value) else {
                continue;
            };
            if bytes + json.len() > PAGE_BYTES && !page.records.is_empty() {
                page.is_last = false;
                break;
            }
            bytes += json.len();
            page.records.push((key, version.get(), json));
        }
        page
    }

    fn all_records(&self) -> BTreeMap<String, (RecordVersion, Value)> {
        let mut all = BTreeMap::new();
        let mut add = |key: Key, version, value| {
            all.insert(key.to_string(), (version, value));
        };
        let meta = MetaRecord {
            copied_at_unix_ms: Some(self.unix_ms()),
            ..self.meta.clone()
        };
        add(Key::Meta, self.meta_write.version, Value::Meta(meta));
        for (id, server) in &self.servers {
            if let Some(record) = &server.record {
                let value = Value::Server(record.value.clone());
                add(Key::Server(id.clone()), record.version, value);
            }
        }
        for (id, volume) in &self.volumes {
            let Some(version) = volume.version else {
                continue;
            };
            let record = &volume.record;
            let named = matches!(
                record.phase,
                VolumePhase::Creating { .. } | VolumePhase::Live
            );
            if named {
                let key = Key::Name(record.line.name.clone());
                add(key, RecordVersion::FIRST, Value::Name(*id));
            }
            let value = Value::Volume(Box::new(record.clone()));
            add(Key::Volume(*id), version, value);
            for row in volume
                .events
                .iter()
                .filter(|row| row.seq <= record.event_seq)
            {
                let value = Value::Event(*id, Box::new(row.clone()));
                add(Key::Event(*id, row.seq), RecordVersion::FIRST, value);
            }
        }
        all
    }
}
