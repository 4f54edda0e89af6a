//! The bounded list of what happened to each volume.

use std::collections::VecDeque;

use moorline_types::{ServerId, VolumeId};
use moorline_wire::control::{EventKind, EventRow, ReportedEvent};

use super::{Authority, Volume};
use crate::{
    record::{Key, Value},
    store::{Change, Expected},
};

/// Events kept per volume; the oldest go first.
const EVENTS_MAX: usize = 256;

const NAME_BYTES_MAX: usize = 64;
const DETAIL_BYTES_MAX: usize = 1024;

impl Volume {
    /// The changes that save what happened, and remove what is beyond the bound, or everything.
    pub(super) fn event_changes(&mut self, id: VolumeId, remove_all: bool) -> Vec<Change> {
        let change = |seq, value| Change {
            key: Key::Event(id, seq),
            expected: Expected::Anything,
            value,
        };
        let unsaved = std::mem::take(&mut self.unsaved);
        if remove_all {
            let saved = std::mem::take(&mut self.saved);
            return saved.into_iter().map(|seq| change(seq, None)).collect();
        }
        let mut changes = Vec::new();
        for row in unsaved {
            self.saved.push_back(row.seq);
            changes.push(change(row.seq, Some(Value::Event(id, Box::new(row)))));
        }
        while self.saved.len() > EVENTS_MAX {
            changes.extend(self.saved.pop_front().map(|seq| change(seq, None)));
        }
        changes
    }
}

impl Authority {
    /// Notes that something happened; it is saved with the volume's next transaction.
    pub(super) fn note(&mut self, id: VolumeId, event: EventKind) {
        let at_unix_ms = self.unix_ms();
        let Some(volume) = self.volumes.get_mut(&id) else {
            return;
        };
        volume.event_seq += 1;
        let row = EventRow {
            seq: volume.event_seq,
            at_unix_ms,
            event,
        };
        push_bounded(&mut volume.events, row.clone());
        volume.unsaved.push(row);
        if volume.unsaved.len() > EVENTS_MAX {
            volume.unsaved.remove(0);
        }
    }

    pub(super) fn note_reported(&mut self, server: ServerId, reported: ReportedEvent) {
        let seated = self
            .volumes
            .get(&reported.volume)
            .is_some_and(|volume| volume.has_seat(&server));
        if !seated {
            return;
        }
        let event = EventKind::Reported {
            server,
            epoch: reported.epoch,
            name: cut(reported.name, NAME_BYTES_MAX),
            peer: reported.peer,
            detail: cut(reported.detail, DETAIL_BYTES_MAX),
        };
        self.note(reported.volume, event);
    }
}

fn push_bounded(events: &mut VecDeque<EventRow>, row: EventRow) {
    events.push_back(row);
    if events.len() > EVENTS_MAX {
        events.pop_front();
    }
}

/// The text, cut to at most `bytes` at the end of a character.
fn cut(mut text: String, bytes: usize) -> String {
    let end = (0..=bytes.min(text.len()))
        .rev()
        .find(|end| text.is_char_boundary(*end));
    text.truncate(end.unwrap_or(0));
    text
}
