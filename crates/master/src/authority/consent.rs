//! What only an operator may agree to: a loss, and going on without knowing all.

use moorline_types::VolumeId;
use moorline_wire::control::{ClientError, ClientResponse, EventKind, LineVersion, LossConsent};

use super::{Actions, AskId, Authority, Purpose, Volume};
use crate::restored::Known;

impl Authority {
    /// Records that the loss which the epoch in force announced is accepted; the next epoch, which
    /// is minted for it, opens with that in its mark (`PROM-12`).
    pub(super) fn accept_loss(
        &mut self,
        ask: AskId,
        name: String,
        out: &mut Actions,
    ) -> Result<(), ClientError> {
        let Some((id, volume)) = self.by_name(&name) else {
            return Err(ClientError::NotFound { name });
        };
        if volume.pending.is_some() || self.is_unsettled(id) {
            return Err(ClientError::Busy { name });
        }
        if !volume.is_live() || !self.waits_for_operator(volume) {
            return Err(ClientError::NoLoss { name });
        }
        let mut record = volume.record.clone();
        let through = record.line.epoch;
        record.loss_accepted = Some(through);
        self.note(id, EventKind::LossAccepted { through });
        self.propose_volume(id, record, Purpose::Agreed { ask }, Vec::new(), out);
        Ok(())
    }

    /// Takes over the newest line reported, though it may not be the newest there is.
    pub(super) fn overrule(
        &mut self,
        ask: AskId,
        name: String,
        consent: LossConsent,
        out: &mut Actions,
    ) -> Result<(), ClientError> {
        let named = self.by_name(&name).map(|(id, volume)| {
            let busy = volume.pending.is_some();
            (id, busy)
        });
        let Some((id, busy)) = named else {
            let Some((id, log_bytes, known)) = self.unknown_named(&name) else {
                return Err(ClientError::NotFound { name });
            };
            agreed(&known, consent, name)?;
            self.adopt(id, log_bytes, known, Some(ask), out);
            return Ok(());
        };
        if busy {
            return Err(ClientError::Busy { name });
        }
        if !self.is_unsettled(id) {
            return Err(ClientError::NothingToOverrule { name });
        }
        let Some(known) = self.known_of(id) else {
            return Err(ClientError::NothingToOverrule { name });
        };
        agreed(&known, consent, name)?;
        self.settle(id, known, Some(ask), Vec::new(), out);
        Ok(())
    }

    /// What was agreed to is durable.
    pub(super) fn answer_agreed(&self, id: VolumeId, ask: AskId, out: &mut Actions) {
        let Some(volume) = self.volumes.get(&id) else {
            return;
        };
        if let Some(response) = agreement(volume, &volume.record.line.name) {
            self.answer(ask, response, out);
        }
    }

    pub(super) fn answer_agreement_lost(&self, id: VolumeId, ask: AskId, out: &mut Actions) {
        if let Some(volume) = self.volumes.get(&id) {
            let name = volume.record.line.name.clone();
            let error = ClientError::Busy { name };
            self.answer(ask, ClientResponse::Failed(error), out);
        }
    }
}

/// The answer to the agreement that was recorded last: its event says what it was.
fn agreement(volume: &Volume, name: &str) -> Option<ClientResponse> {
    volume.events.iter().rev().find_map(|row| {
        if let EventKind::LossAccepted { through } = &row.event {
            return Some(ClientResponse::LossAccepted {
                name: name.to_owned(),
                through: *through,
            });
        }
        let EventKind::LineTakenOver {
            epoch,
            config,
            reported,
            missing,
            overruled: _,
        } = &row.event
        else {
            return None;
        };
        Some(ClientResponse::Overruled {
            name: name.to_owned(),
            line: LineVersion {
                epoch: *epoch,
                config: *config,
            },
            reported: reported.clone(),
            missing: missing.clone(),
        })
    })
}

fn agreed(known: &Known, consent: LossConsent, name: String) -> Result<(), ClientError> {
    match consent {
        LossConsent::Given => Ok(()),
        LossConsent::No => Err(ClientError::NotSettled {
            name,
            reported: known.reported.clone(),
            missing: known.missing.clone(),
            need: u32::try_from(known.need).unwrap_or(u32::MAX),
        }),
    }
}
