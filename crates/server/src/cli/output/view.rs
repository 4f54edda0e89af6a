//! Volumes, servers and events as people read them.

use std::fmt::Write as _;

use moorline_types::ByteCount;
use moorline_wire::control::{
    ClusterStatus, EventKind, EventRow, Health, ReplicaState, ReplicaStatus, ServerState,
    ServerStatus, SessionStatus, VolumeStatus, VolumeSummary, VoteState,
};

use super::{Cell, Paint, Table, Tone, lsn, names, utc, word};

/// `moorline volume list`.
#[must_use]
pub fn volume_list(volumes: &[VolumeSummary], paint: Paint) -> String {
    if volumes.is_empty() {
        return "no volumes: `moorline volume create` makes one\n".to_owned();
    }
    let heads = [
        "NAME",
        ">SIZE",
        ">REPLICAS",
        "POLICY",
        "ACK",
        "HEALTH",
        "PRIMARY",
        ">EPOCH",
    ];
    let mut table = Table::new(0, &heads, paint);
    for volume in volumes {
        let primary = volume.primary.as_ref();
        table.row(vec![
            volume.name.clone().into(),
            ByteCount::new(volume.size).to_string().into(),
            volume.replicas.to_string().into(),
            volume.policy.to_string().into(),
            volume.ack.to_string().into(),
            Cell::toned(word(&volume.health), health_tone(volume.health)),
            primary.map_or("none", |server| server.as_str()).into(),
            volume.epoch.to_string().into(),
        ]);
    }
    table.to_string()
}

/// `moorline volume status`.
#[must_use]
pub fn volume(volume: &VolumeStatus, paint: Paint) -> String {
    let mut text = String::new();
    let health = health_tone(volume.health).paint(&word(&volume.health), paint);
    let serving = if volume.serving { "" } else { ", not serving" };
    let _written = writeln!(text, "volume {}: {health}{serving}", volume.name);
    if let Some(reason) = &volume.reason {
        let _written = writeln!(text, "  {reason}");
    }
    let copies = match volume.copies {
        Some(1) => ", the next write has 1 copy".to_owned(),
        Some(copies) => format!(", the next write has {copies} copies"),
        None => String::new(),
    };
    let _written = writeln!(
        text,
        "  {}, {} at {}{copies}",
        ByteCount::new(volume.size),
        volume.policy,
        volume.ack,
    );
    let primary = volume.primary.as_ref();
    let _written = writeln!(
        text,
        "  epoch {}, config {}, primary {}, in sync: {}, committed {}",
        epoch(volume),
        volume.config_version,
        primary.map_or("none", |server| server.as_str()),
        names(&volume.in_sync_set),
        lsn(volume.committed_lsn),
    );
    if let Some(uri) = &volume.nbd_uri {
        let _written = writeln!(text, "  {uri}");
    }
    let _written = write!(text, "{}", replicas(&volume.replicas, paint));
    text
}

fn epoch(volume: &VolumeStatus) -> String {
    if volume.reign == 0 {
        volume.epoch.to_string()
    } else {
        format!("{}.{}", volume.epoch, volume.reign)
    }
}

fn replicas(replicas: &[ReplicaStatus], paint: Paint) -> Table {
    let heads = [
        "REPLICA",
        "STATE",
        "VOTE",
        ">HEAD",
        ">FLUSHED",
        ">APPLIED",
        ">CHECKPOINT",
        ">TAIL",
        ">LAG",
    ];
    let mut table = Table::new(2, &heads, paint);
    for replica in replicas {
        let vote = match replica.vote {
            VoteState::Yes => Cell::from("yes"),
            VoteState::Unknown => Cell::toned("unknown", Tone::Dim),
            VoteState::NoneRecorded
            | VoteState::OtherStore
            | VoteState::RolledBack
            | VoteState::Copied
            | VoteState::NotClaimed => Cell::toned(word(&replica.vote), Tone::Bad),
        };
        table.row(vec![
            replica.server_id.as_str().into(),
            Cell::toned(word(&replica.state), state_tone(replica.state)),
            vote,
            lsn(replica.head_lsn).into(),
            lsn(replica.flushed_lsn).into(),
            lsn(replica.applied_lsn).into(),
            lsn(replica.checkpoint_lsn).into(),
            lsn(replica.tail_lsn).into(),
            lag(replica).into(),
        ]);
        if let Some(live) = &replica.session {
            table.line(session(live));
        }
        if let Some(slow) = &replica.writes_slowed {
            table.line(format!(
                "log {} % full, held by {}: writes are let in at {}/s",
                replica.log_fill_percent.unwrap_or_default(),
                word(&slow.log_held_by),
                ByteCount::new(slow.bytes_per_s)
            ));
        }
        if let Some(damage) = replica.damage.filter(|damage| damage.found > 0) {
            table.line(format!(
                "damaged blocks: {} found, {} repaired, {} lost",
                damage.found, damage.repaired, damage.lost
            ));
        }
        for pin in &replica.pins {
            table.line(format!(
                "pin {}: records above {} held by {} for {}",
                word(&pin.kind),
                pin.lsn,
                pin.holder,
                age(pin.age_ms)
            ));
        }
    }
    table
}

fn lag(replica: &ReplicaStatus) -> String {
    match (replica.lag_records, replica.lag_bytes) {
        (None, _) => "-".to_owned(),
        (Some(0), _) => "0".to_owned(),
        (Some(records), None) => records.to_string(),
        (Some(records), Some(bytes)) => format!("{records} ({})", ByteCount::new(bytes)),
    }
}

fn session(session: &SessionStatus) -> String {
    let mut text = format!(
        "session {}: {}, {}, {} % ({} of {}), {}/s, because of {}",
        session.id,
        word(&session.kind),
        word(&session.phase),
        session.percent,
        session.recovered_to,
        session.target_lsn,
        ByteCount::new(session.rate_bytes_per_s),
        word(&session.cause),
    );
    if let Some(limit) = &session.limited_by {
        let _written = write!(text, ", limited by {}", word(limit));
    }
    text
}

fn age(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..120_000 => format!("{} s", ms / 1_000),
        _ => format!("{} min", ms / 60_000),
    }
}

/// The servers of a cluster.
#[must_use]
pub fn servers(servers: &[ServerStatus], paint: Paint) -> String {
    if servers.is_empty() {
        return "no servers yet: `moorline serve` starts one\n".to_owned();
    }
    let heads = [
        "SERVER", "STATE", ">SEATS", "NBD", "DATA", "CONTROL", "VERSION",
    ];
    let mut table = Table::new(0, &heads, paint);
    for server in servers {
        let state = match server.state {
            ServerState::Up => Cell::toned("up", Tone::Good),
            ServerState::Down => Cell::toned("down", Tone::Bad),
        };
        table.row(vec![
            server.server_id.as_str().into(),
            state,
            server.seats.to_string().into(),
            server.nbd_addr.clone().into(),
            server.data_addr.clone().into(),
            server.control_addr.clone().into(),
            server.version.clone().into(),
        ]);
    }
    table.to_string()
}

/// `moorline status`.
#[must_use]
pub fn cluster(cluster: &ClusterStatus, paint: Paint) -> String {
    let mut text = servers(&cluster.servers, paint);
    for unknown in &cluster.unknown_volumes {
        let next = match unknown.need {
            Some(need) => format!("taken over when {need} replicas report it"),
            None => {
                "not taken over: this master was not restored, or has another volume of that name"
                    .to_owned()
            }
        };
        let _written = write!(
            text,
            "\nunknown volume {} ({}): reported by {}, not by {}; {next}\n",
            unknown.name,
            unknown.id,
            names(&unknown.reported),
            names(&unknown.missing)
        );
    }
    if cluster.volumes.is_empty() {
        text.push_str("\nno volumes: `moorline volume create` makes one\n");
    }
    for status in &cluster.volumes {
        text.push('\n');
        text.push_str(&volume(status, paint));
    }
    text
}

/// What changes of a volume are told by: the same line is the same state.
///
/// Positions are left out: they move with every write.
#[must_use]
pub fn summary_line(volume: &VolumeStatus) -> String {
    let mut text = format!(
        "volume {}: {}, {}, epoch {}, primary {}, in sync: {}",
        volume.name,
        word(&volume.health),
        if volume.serving {
            "serving"
        } else {
            "not serving"
        },
        epoch(volume),
        volume
            .primary
            .as_ref()
            .map_or("none", |server| server.as_str()),
        names(&volume.in_sync_set),
    );
    for replica in &volume.replicas {
        let _written = write!(text, "; {} {}", replica.server_id, word(&replica.state));
    }
    if let Some(reason) = &volume.reason {
        let _written = write!(text, " ({reason})");
    }
    text
}

/// One line of `moorline events`.
#[must_use]
pub fn event(row: &EventRow) -> String {
    format!(
        "{} {:>4}  {}",
        utc(row.at_unix_ms),
        row.seq,
        what_happened(&row.event)
    )
}

fn what_happened(event: &EventKind) -> String {
    match event {
        EventKind::CreateStarted { servers, .. } => {
            format!("create_started on {}", names(servers))
        }
        EventKind::Created { .. } => "created".to_owned(),
        EventKind::CreateRolledBack { .. } => {
            "create_rolled_back: what was made is removed".to_owned()
        }
        EventKind::DeleteStarted { .. } => "delete_started".to_owned(),
        EventKind::EpochMinted {
            epoch,
            primary,
            in_sync,
            cause,
        } => format!(
            "epoch_minted {epoch}: {primary} is to lead, in sync: {}, because of {}",
            names(in_sync),
            word(cause)
        ),
        EventKind::PrimaryServing { epoch, primary } => {
            format!("primary_serving: {primary} in epoch {epoch}")
        }
        EventKind::InSyncChanged {
            epoch,
            config,
            in_sync,
        } => format!(
            "in_sync_changed in epoch {epoch}, config {config}: {}",
            names(in_sync)
        ),
        EventKind::EndpointChanged { server, config } => {
            format!("endpoint_changed of {server}, config {config}")
        }
        EventKind::VoteChanged { server, store } => {
            format!("vote_changed: the seat of {server} goes to store {store}")
        }
        EventKind::VoteRefused { server, vote } => {
            format!("vote_refused: the store of {server} is {}", word(vote))
        }
        EventKind::PromotionFailed {
            epoch,
            server,
            reason,
        } => format!(
            "promotion_failed: {server} declined epoch {epoch}: {}",
            word(reason)
        ),
        EventKind::PrimaryFault {
            epoch,
            server,
            reason,
        } => format!(
            "primary_fault: {server} gave epoch {epoch} up: {}",
            word(reason)
        ),
        EventKind::MasterRestored { why } => {
            format!("master_restored: the master's store may be an old copy: {why}")
        }
        EventKind::LineTakenOver {
            epoch,
            config,
            reported,
            missing,
            overruled,
        } => {
            let by = match overruled {
                true => ", an operator overruled the rest",
                false => "",
            };
            format!(
                "line_taken_over: the master goes on above epoch {epoch}, config {config}; reported by {}, not by {}{by}",
                names(reported),
                names(missing)
            )
        }
        EventKind::LossAccepted { through } => format!(
            "loss_accepted: an operator goes on without what memory lost, as announced through epoch {through}"
        ),
        EventKind::Reported {
            server,
            epoch,
            name,
            peer,
            detail,
        } => {
            let peer = peer
                .as_ref()
                .map_or_else(String::new, |peer| format!(" about {peer}"));
            format!("{name} by {server} in epoch {epoch}{peer}: {detail}")
        }
    }
}

fn health_tone(health: Health) -> Tone {
    match health {
        Health::Ok => Tone::Good,
        Health::Creating | Health::Deleting | Health::Degraded => Tone::Warn,
        Health::Unavailable => Tone::Bad,
    }
}

fn state_tone(state: ReplicaState) -> Tone {
    match state {
        ReplicaState::Primary | ReplicaState::InSync => Tone::Good,
        ReplicaState::Candidate
        | ReplicaState::Opening
        | ReplicaState::Idle
        | ReplicaState::Connecting
        | ReplicaState::CatchingUp
        | ReplicaState::Rebuilding
        | ReplicaState::Joining
        | ReplicaState::Degraded => Tone::Warn,
        ReplicaState::Unreachable
        | ReplicaState::Fenced
        | ReplicaState::Failed
        | ReplicaState::Disconnected
        | ReplicaState::NeedsRebuild
        | ReplicaState::Missing => Tone::Bad,
    }
}
