//! What a node asked of its driver, in a few words each.

use std::fmt::Debug;

use moorline_types::{BootId, ServerId};
use moorline_volume::{
    Action, ExportState,
    client::{ClientError, ClientReply},
    journal::Happening,
};
use moorline_wire::{
    LeaseRefusal, LeaseRefused, Message, PromiseRefusal, RefusedReason, VolumeMessage,
    control::ServerToMaster,
};

use super::stage::Who;

/// A value's name, without what it carries.
pub(super) fn plain(value: &impl Debug) -> String {
    let text = format!("{value:?}");
    let end = text.find(|c: char| !c.is_alphanumeric());
    snake(&text[..end.unwrap_or(text.len())])
}

fn snake(name: &str) -> String {
    let mut text = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.extend(letter.to_lowercase());
    }
    text
}

/// A server, and its boot if it is not the usual one.
pub(super) fn holder(server: &ServerId, boot: BootId) -> String {
    if Who::of(server).boot() == boot {
        server.to_string()
    } else {
        format!("{server}'s other boot")
    }
}

/// `None` for what says nothing about the role: operations of the device and heartbeats.
pub(super) fn of(action: &Action) -> Option<String> {
    Some(match action {
        Action::Device { .. }
        | Action::CreateDevice { .. }
        | Action::RemoveDevice { .. }
        | Action::TellMaster(ServerToMaster::Heartbeat(_) | ServerToMaster::Register(_)) => {
            return None;
        }
        Action::Dial { server, .. } => format!("dial({server})"),
        Action::HangUp { .. } => "hang_up".into(),
        Action::Send { message, .. } => format!(">{}", sent(message)),
        Action::TellMaster(told) => format!(">master:{}", told_master(told)),
        Action::Reply { reply, .. } => match reply {
            ClientReply::Failed(ClientError::NotPrimary) => "reply(not_primary)".into(),
            ClientReply::Failed(error) => format!("reply(failed: {error})"),
            done => format!("reply({})", plain(done)),
        },
        Action::SetExport { state, .. } => match state {
            ExportState::Elsewhere {
                primary: Some((server, _)),
            } => format!("export(at {server})"),
            state => format!("export({})", plain(state)),
        },
        Action::Note(note) => format!("!{}", noted(&note.what)?),
        Action::Stopped => "stopped".into(),
    })
}

fn told_master(told: &ServerToMaster) -> String {
    match told {
        ServerToMaster::PrimaryFault { reason, .. } => format!("fault({})", plain(reason)),
        ServerToMaster::PromotionFailed { reason, .. } => {
            format!("promotion_failed({})", plain(reason))
        }
        ServerToMaster::ChangeConfig(change) => {
            let names: Vec<String> = change
                .in_sync
                .iter()
                .map(|member| member.server.to_string())
                .collect();
            format!("change_config({})", names.join(","))
        }
        other => plain(other),
    }
}

/// Steps of a peer's recovery are in the engine's tables.
fn noted(what: &Happening) -> Option<String> {
    let name = what.name();
    let detail = match what {
        Happening::Recovery(_) => return None,
        Happening::LineTaken { epoch, config, .. } => format!("{epoch}.{config}"),
        Happening::LineRefused { reason } => plain(reason),
        Happening::Promised { epoch, to } => format!("{epoch} to {to}"),
        Happening::PromotionDeclined { reason, .. } => plain(reason),
        Happening::SteppedDown { epoch, reason } => format!("{epoch}: {}", plain(reason)),
        Happening::PeerRefused { peer, reason } => format!("{peer}: {reason}"),
        Happening::Cut { through } => through.to_string(),
        _ => return Some(name.to_owned()),
    };
    Some(format!("{name}({detail})"))
}

fn sent(message: &Message) -> String {
    match message {
        Message::Volume(_, body) => body_of(body),
        Message::LeaseRequest(_) => "lease_request".into(),
        Message::LeaseGrant(grant) => {
            let granted = grant.granted.iter().map(|_| "lease_grant".to_owned());
            let refused = grant.refused.iter().map(lease_refused);
            granted.chain(refused).collect::<Vec<_>>().join(",")
        }
        other => plain(other),
    }
}

fn lease_refused(refused: &LeaseRefused) -> String {
    match &refused.reason {
        LeaseRefusal::Stale(epoch) => format!("lease_refused(stale {epoch})"),
        LeaseRefusal::Ahead(epoch) => format!("lease_refused(ahead of {epoch})"),
        LeaseRefusal::OtherHolder(other) => {
            format!(
                "lease_refused(other_holder {})",
                holder(&other.server, other.boot)
            )
        }
        reason => format!("lease_refused({})", plain(reason)),
    }
}

fn body_of(body: &VolumeMessage) -> String {
    match body {
        VolumeMessage::PromiseRefused(refused) => {
            let wait = refused.wait_ms.map_or(String::new(), |_| ", later".into());
            match &refused.reason {
                PromiseRefusal::Promised(promised) => format!(
                    "promise_refused(promised {}:{}{wait})",
                    promised.epoch,
                    holder(&promised.server, promised.boot)
                ),
                reason => format!("promise_refused({}{wait})", plain(reason)),
            }
        }
        VolumeMessage::Refused(refused) => match &refused.reason {
            RefusedReason::Stale { epoch, .. } => format!("refused(stale, {epoch})"),
            RefusedReason::Ahead { epoch, .. } => format!("refused(ahead, {epoch})"),
            reason => format!("refused({})", plain(reason)),
        },
        VolumeMessage::Truncate(truncate) => format!("truncate({})", truncate.through),
        VolumeMessage::TruncationRecorded(recorded) => {
            format!("truncation_recorded({})", recorded.through)
        }
        VolumeMessage::Records(records) => {
            let through = records.through().unwrap_or(records.previous);
            format!("records({}..{through})", records.previous.next())
        }
        VolumeMessage::Commit(commit) => format!("commit({})", commit.committed),
        VolumeMessage::Ack(ack) => format!("ack({}, {})", ack.received, ack.flushed),
        VolumeMessage::NeedRecords(need) => format!("need_records(after {})", need.after),
        VolumeMessage::StreamEnded(ended) => format!("stream_ended({})", plain(&ended.reason)),
        VolumeMessage::Fetch(fetch) => format!("fetch{}", fetch.range),
        VolumeMessage::Fetched(fetched) => format!("fetched({})", plain(&fetched.outcome)),
        other => plain(other),
    }
}
