//! A store that may be an old copy (`MASTER-7`): how that is noticed, and how the lines that it
//! lacks are taken over from the members. Until then a volume is *unsettled*: nobody is promoted in
//! it, no line of it is told, no lease granted, no change recorded.

use std::collections::BTreeMap;

use moorline_types::{ClusterId, MasterRun, ServerId, VolumeId};
use moorline_wire::control::{EventKind, KnownLine, Restored, RestoredWhy, UnknownVolume};

use super::{Actions, AskId, Authority, MasterAction, Purpose, StartFacts, Volume, reign::Reign};
use crate::{
    error::StartError,
    mutants::Mutant,
    record::{Key, MetaRecord, Seen, Trust, Value, VolumePhase, VolumeRecord},
    restored::{GAP, Known, Told, weigh},
    store::{Change, Expected},
    succession::Hindrance,
};

/// The master's own record for a new run over what was found, and why that is an old copy, if so.
pub(super) fn meta_at_start(
    found: Option<MetaRecord>,
    start: &StartFacts,
) -> Result<(MetaRecord, Option<RestoredWhy>), StartError> {
    let fresh = instance(start.seed, 0);
    let began_empty = found.is_none();
    let mut meta = found.unwrap_or_else(|| {
        let cluster = start.adopts.unwrap_or(ClusterId::new(start.seed));
        MetaRecord::new(cluster, fresh)
    });
    if let Some(wanted) = start.adopts.filter(|wanted| *wanted != meta.cluster) {
        let found = meta.cluster;
        return Err(StartError::OtherCluster { found, wanted });
    }
    let moved = matches!((meta.home, start.home), (Some(was), Some(is)) if was != is);
    let why = match meta.copied_at_unix_ms.take() {
        Some(made_unix_ms) => Some(RestoredWhy::Backup { made_unix_ms }),
        None if moved => Some(RestoredWhy::Elsewhere),
        None if began_empty && start.adopts.is_some() => Some(RestoredWhy::Empty),
        None => None,
    };
    if let Some(why) = why.clone() {
        if !began_empty {
            meta.forebears.insert(meta.instance);
        }
        meta.instance = fresh;
        meta.restored = Some(Restored {
            why,
            at_unix_ms: start.unix_ms,
        });
    }
    meta.start += 1;
    meta.home = start.home.or(meta.home);
    Ok((meta, why))
}

/// The `count`-th instance that a run may begin.
fn instance(seed: u128, count: u64) -> u64 {
    let folded = (seed >> 64) ^ (seed & u128::from(u64::MAX));
    let bits = u64::try_from(folded).unwrap_or(u64::MAX) ^ count.rotate_right(8);
    bits.max(1)
}

impl Authority {
    /// Whether the record of a volume may be older than what its members acted on.
    pub(super) fn is_unsettled(&self, id: VolumeId) -> bool {
        if self.config.mutants.has(Mutant::OldCopyBelieved) {
            return false;
        }
        let open = |volume: &&Volume| match volume.record.phase {
            VolumePhase::Creating { .. } | VolumePhase::Live => true,
            // Nothing leads back from there.
            VolumePhase::RollingBack { .. } | VolumePhase::Deleting { .. } => false,
        };
        self.volumes
            .get(&id)
            .filter(|volume| volume.version.is_some())
            .filter(open)
            .is_some_and(|volume| volume.record.instance != self.meta.instance)
    }

    pub(super) fn note_restored(&mut self, why: &RestoredWhy) {
        let ids = self.volumes.keys().copied();
        let unsettled: Vec<VolumeId> = ids.filter(|id| self.is_unsettled(*id)).collect();
        for id in unsettled {
            self.note(id, EventKind::MasterRestored { why: why.clone() });
        }
    }

    /// Whether what a server says shows that the store is an old copy. If so every connection ends:
    /// servers introduce themselves anew, and say the lines that they know.
    pub(super) fn learn_of_old_copy(&mut self, server: &ServerId, out: &mut Actions) -> bool {
        let Some(link) = self.servers.get(server).and_then(|s| s.link.as_ref()) else {
            return false;
        };
        if self.config.mutants.has(Mutant::OldCopyBelieved) {
            return false;
        }
        let runs = link.stores.values().filter_map(|store| store.master);
        let strange: Vec<MasterRun> = runs.filter(|run| !self.meta.knows(*run)).collect();
        let newer = link.stores.iter().any(|(id, store)| {
            let record = self.volume(*id).filter(|_| !self.is_unsettled(*id));
            let (Some(record), Some(line)) = (record, store.line) else {
                return false;
            };
            let sane = !record.line.epoch.jump_is_insane(line.epoch);
            sane && (line.epoch, line.config) > record.line.version()
        });
        let why = match (strange.is_empty(), newer) {
            (false, _) => RestoredWhy::UnknownRun {
                server: server.clone(),
            },
            (true, true) => RestoredWhy::NewerLine {
                server: server.clone(),
            },
            (true, false) => return false,
        };
        self.ids += 1;
        self.meta.forebears.insert(self.meta.instance);
        self.meta
            .forebears
            .extend(strange.iter().map(|run| run.instance));
        self.meta.instance = instance(self.start.seed, self.ids);
        self.meta.restored = Some(Restored {
            why: why.clone(),
            at_unix_ms: self.unix_ms(),
        });
        for volume in self.volumes.values_mut() {
            volume.reign = Reign::default();
            volume.deferred.clear();
            volume.wake = None;
        }
        self.note_restored(&why);
        self.write_meta(out);
        let links: Vec<_> = self.links.keys().copied().collect();
        for link in links {
            out.push(MasterAction::Close { link });
            self.on_link_closed(link, out);
        }
        true
    }

    /// What connected servers say of a volume.
    fn told(&self, id: VolumeId) -> Vec<Told<'_>> {
        let up = self.servers.iter().filter_map(|(server, known)| {
            let link = known.up()?;
            Some(Told {
                server,
                store: link.stores.get(&id),
                line: link.known.get(&id).map(|known| &known.line),
            })
        });
        up.filter(|told| told.store.is_some()).collect()
    }

    pub(super) fn known_of(&self, id: VolumeId) -> Option<Known> {
        let record = self.volumes.get(&id).map(|volume| &volume.record);
        let seen = |server: &ServerId| record.and_then(|record| record.seen.get(server));
        weigh(record.map(|record| &record.line), seen, &self.told(id))
    }

    /// Takes over the newest line, once it is sure to be that.
    pub(super) fn reconcile_old_copy(&mut self, id: VolumeId, out: &mut Actions) {
        let Some(known) = self.known_of(id) else {
            return;
        };
        let Some(volume) = self.volumes.get(&id) else {
            return;
        };
        let creating = matches!(volume.record.phase, VolumePhase::Creating { .. });
        if creating && known.newest.primary.is_none() {
            // Perhaps it became live, and was written to, since the copy was made: every seat says.
            if self.all_seats_said(volume) {
                let mut record = volume.record.clone();
                record.instance = self.meta.instance;
                self.propose_volume(id, record, Purpose::Seen, Vec::new(), out);
            }
            return;
        }
        if known.is_enough() {
            return self.settle(id, known, None, Vec::new(), out);
        }
        let hindrance = match known.conflict {
            true => Hindrance::TwoMasters,
            false => Hindrance::OldCopy {
                have: known.reported.len(),
                need: known.need,
            },
        };
        if let Some(volume) = self.volumes.get_mut(&id) {
            volume.reign.hinder(hindrance);
        }
    }

    fn all_seats_said(&self, volume: &Volume) -> bool {
        let members = &volume.record.line.members;
        members.iter().all(|member| {
            let link = self.up_link(&member.server);
            link.is_some_and(|link| link.stores_opening == Some(0))
        })
    }

    /// The volume goes on above a line. `by` is the operator who overruled, if one did; `changes`
    /// are made with it.
    pub(super) fn settle(
        &mut self,
        id: VolumeId,
        known: Known,
        by: Option<AskId>,
        changes: Vec<Change>,
        out: &mut Actions,
    ) {
        let Some(volume) = self.volumes.get(&id) else {
            return;
        };
        let mut record = volume.record.clone();
        record.instance = self.meta.instance;
        let mut line = known.newest;
        if line.primary.is_some() {
            record.phase = VolumePhase::Live;
            record.epoch_floor = line.epoch.assignment().saturating_add(GAP);
            line.config = line.config.above(GAP);
        }
        for member in &line.members {
            let Some((store, boot)) = member.store.zip(member.opened_by) else {
                continue;
            };
            let fresh = Seen {
                store,
                open: member.open,
                boot,
                trust: Trust::Trusted,
            };
            let seen = record.seen.entry(member.server.clone()).or_insert(fresh);
            let outdated = seen.trust == Trust::Trusted && seen.open < fresh.open;
            if seen.store != store || outdated {
                *seen = fresh;
            }
        }
        let event = EventKind::LineTakenOver {
            epoch: line.epoch,
            config: line.config,
            reported: known.reported,
            missing: known.missing,
            overruled: by.is_some(),
        };
        // The lost master may have granted its lease a moment ago.
        self.leases.grant(self.now, id, line.epoch);
        record.line = line;
        if let Some(volume) = self.volumes.get_mut(&id) {
            volume.reign = Reign::default();
            volume.made = BTreeMap::new();
            volume.failure = None;
        }
        self.note(id, event);
        let purpose = by.map_or(Purpose::Line, |ask| Purpose::Agreed { ask });
        self.propose_volume(id, record, purpose, changes, out);
    }

    /// The volumes that servers report and nobody here knows, with the newest lines.
    fn unknown(&self) -> BTreeMap<VolumeId, KnownLine> {
        let mut found: BTreeMap<VolumeId, KnownLine> = BTreeMap::new();
        for link in self.servers.values().filter_map(super::Server::up) {
            for (id, known) in &link.known {
                let newer = found
                    .get(id)
                    .is_none_or(|other| other.line.version() < known.line.version());
                if newer && !self.volumes.contains_key(id) && known.line.primary.is_some() {
                    found.insert(*id, known.clone());
                }
            }
        }
        found
    }

    pub(super) fn is_reported_unknown(&self, name: &str) -> bool {
        self.unknown().values().any(|known| known.line.name == name)
    }

    pub(super) fn unknown_volumes(&self) -> Vec<UnknownVolume> {
        let unknown = self.unknown();
        let mut shown: Vec<UnknownVolume> = unknown
            .keys()
            .filter_map(|id| {
                let known = self.known_of(*id)?;
                let adopts = self.meta.restored.is_some() && self.is_free(&known.newest.name);
                let need = u32::try_from(known.need).unwrap_or(u32::MAX);
                Some(UnknownVolume {
                    id: *id,
                    name: known.newest.name,
                    reported: known.reported,
                    missing: known.missing,
                    need: adopts.then_some(need),
                })
            })
            .collect();
        shown.sort_by(|a, b| a.name.cmp(&b.name));
        shown
    }

    fn is_free(&self, name: &str) -> bool {
        self.by_name(name).is_none()
    }

    /// Takes over volumes that the store lost altogether. Only of a restored store: elsewhere what
    /// is not known was deleted.
    pub(super) fn adopt_unknown(&mut self, out: &mut Actions) {
        if self.meta.restored.is_none() {
            return;
        }
        for (id, told) in self.unknown() {
            let known = self.known_of(id).filter(Known::is_enough);
            if let Some(known) = known.filter(|known| self.is_free(&known.newest.name)) {
                self.adopt(id, told.log_bytes, known, None, out);
            }
        }
    }

    /// The unknown volume of a name, with the bytes of its logs.
    pub(super) fn unknown_named(&self, name: &str) -> Option<(VolumeId, u64, Known)> {
        let mut unknown = self.unknown().into_iter();
        let (id, told) = unknown.find(|(_, told)| told.line.name == name)?;
        Some((id, told.log_bytes, self.known_of(id)?))
    }

    pub(super) fn adopt(
        &mut self,
        id: VolumeId,
        log_bytes: u64,
        known: Known,
        by: Option<AskId>,
        out: &mut Actions,
    ) {
        let record = VolumeRecord {
            line: known.newest.clone(),
            log_bytes,
            phase: VolumePhase::Live,
            seen: BTreeMap::new(),
            event_seq: 0,
            instance: self.meta.instance,
            epoch_floor: 0,
            loss_accepted: None,
        };
        let name = Change {
            key: Key::Name(record.line.name.clone()),
            expected: Expected::Anything,
            value: Some(Value::Name(id)),
        };
        self.volumes.insert(id, Volume::new(None, record));
        if let Some(restored) = self.meta.restored.clone() {
            let why = restored.why;
            self.note(id, EventKind::MasterRestored { why });
        }
        self.settle(id, known, by, vec![name], out);
    }

    /// In words: what is waited for, and what an operator may do.
    pub(super) fn old_copy_words(&self, volume: &Volume) -> String {
        let why = self.meta.restored.as_ref().map(|restored| &restored.why);
        let why = why.map_or_else(|| "it is not known why".to_owned(), ToString::to_string);
        let Some(known) = self.known_of(volume.record.line.volume) else {
            return format!("the master's store may be old ({why})");
        };
        if known.conflict {
            return format!(
                "the master's store may be old ({why}), and replicas have two assignments of one version: two masters were at work, stop one; then `moorline volume overrule {}`",
                known.newest.name
            );
        }
        let missing: Vec<&str> = known.missing.iter().map(ServerId::as_str).collect();
        format!(
            "the master's store may be old ({why}): {} of {} replicas needed have reported what they know, missing are {}: start their servers, or `moorline volume overrule {}`",
            known.reported.len(),
            known.need,
            missing.join(", "),
            known.newest.name
        )
    }
}
