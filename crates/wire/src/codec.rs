//! Messages to bytes and back.
//!
//! What travels with every write ([`Records`], [`Ack`], [`Commit`]) has a fixed layout, written and
//! read field by field; the rest is postcard, control messages are JSON.

use bytes::{BufMut, Bytes, BytesMut};
use moorline_types::{BlockIndex, ConfigVersion, Epoch, Lsn, LsnRange, Payload, StoreId, VolumeId};
use serde::{Serialize, de::DeserializeOwned};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U32, U64, U128},
};

use crate::{
    error::{DecodeError, EncodeError},
    frame::{Kind, Limits, PREAMBLE_BYTES, Preamble},
    message::{
        Ack, Commit, FetchOutcome, Fetched, FetchedBlock, Message, PayloadParts, Records,
        VolumeHeader, VolumeMessage,
    },
};

/// The highest LSN that a frame may name: far above what a volume reaches, and far enough below the
/// end that arithmetic on it cannot run over.
pub const LSN_MAX: Lsn = Lsn::new(1 << 62);

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawVolumeHeader {
    volume: U128,
    store: U128,
    epoch_assignment: U64,
    epoch_reign: U64,
    config: U64,
    session: U64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawRecords {
    previous: U64,
    committed: U64,
    acknowledged: U64,
    count: U32,
    reserved: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawAck {
    received: U64,
    flushed: U64,
    applied: U64,
    checkpoint: U64,
    tail: U64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawCommit {
    committed: U64,
    acknowledged: U64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawFetched {
    after: U64,
    through: U64,
    count: U32,
    outcome: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawFetchedBlock {
    request: U64,
    block: U64,
}

/// Appends the bytes of `message` to `parts`: preamble and header in one piece, then the payload's
/// pieces, shared. For one vectored write.
///
/// # Errors
///
/// When no frame can carry it; `parts` is then as it was.
pub fn encode(message: &Message, parts: &mut Vec<Bytes>) -> Result<(), EncodeError> {
    let mut bytes = BytesMut::with_capacity(PREAMBLE_BYTES + 192 + records_bytes(message));
    bytes.put_bytes(0, PREAMBLE_BYTES);
    let kind = put_header(message, &mut bytes);
    let header = &bytes[PREAMBLE_BYTES..];
    let header_max = Limits::MEMBER.header_max;
    let header_bytes = u32::try_from(header.len())
        .ok()
        .filter(|&n| n <= header_max);
    let header_bytes = header_bytes.ok_or(EncodeError::HeaderTooLong {
        bytes: header.len(),
        max: header_max,
    })?;
    let payload = payload_length(message);
    let payload_max = kind.payload_max(Limits::MEMBER);
    let payload_bytes = u32::try_from(payload).ok().filter(|&n| n <= payload_max);
    let payload_bytes = payload_bytes.ok_or(EncodeError::PayloadTooLong {
        bytes: payload,
        max: payload_max,
    })?;
    let preamble = Preamble {
        kind,
        header_bytes,
        payload_bytes,
        header_crc: crc32fast::hash(header),
    };
    bytes[..PREAMBLE_BYTES].copy_from_slice(&preamble.to_bytes());
    parts.push(bytes.freeze());
    push_payload(message, parts);
    Ok(())
}

fn records_bytes(message: &Message) -> usize {
    match message {
        Message::Volume(_, VolumeMessage::Records(records)) => records.headers.len(),
        Message::Volume(_, VolumeMessage::Fetched(fetched)) => fetched.headers.len(),
        Message::Volume(..)
        | Message::Hello(_)
        | Message::LeaseRequest(_)
        | Message::LeaseGrant(_)
        | Message::ServerToMaster(_)
        | Message::MasterToServer(_)
        | Message::ClientRequest { .. }
        | Message::ClientResponse { .. } => 0,
    }
}

/// The pieces of payload that go with a message.
fn payload_of(message: &Message) -> (Option<&PayloadParts>, Option<&Payload>) {
    match message {
        Message::Volume(_, VolumeMessage::Records(records)) => (Some(&records.payload), None),
        Message::Volume(_, VolumeMessage::Fetched(fetched)) => (Some(&fetched.payload), None),
        Message::Volume(_, VolumeMessage::FetchedBlock(block)) => (None, block.content.as_ref()),
        Message::Volume(..)
        | Message::Hello(_)
        | Message::LeaseRequest(_)
        | Message::LeaseGrant(_)
        | Message::ServerToMaster(_)
        | Message::MasterToServer(_)
        | Message::ClientRequest { .. }
        | Message::ClientResponse { .. } => (None, None),
    }
}

fn payload_length(message: &Message) -> usize {
    let (parts, block) = payload_of(message);
    parts.map_or(0, PayloadParts::len) + block.map_or(0, Payload::len)
}

fn push_payload(message: &Message, out: &mut Vec<Bytes>) {
    let (parts, block) = payload_of(message);
    out.extend(
        parts
            .into_iter()
            .flat_map(PayloadParts::iter)
            .map(Payload::bytes),
    );
    out.extend(block.map(Payload::bytes));
}

fn put_header(message: &Message, out: &mut BytesMut) -> Kind {
    match message {
        Message::Hello(hello) => put(hello, Kind::Hello, out),
        Message::Volume(header, body) => {
            put_volume_header(header, out);
            put_volume_body(body, out)
        }
        Message::LeaseRequest(body) => put(body, Kind::LeaseRequest, out),
        Message::LeaseGrant(body) => put(body, Kind::LeaseGrant, out),
        Message::ServerToMaster(body) => put_json(body, Kind::ServerToMaster, out),
        Message::MasterToServer(body) => put_json(body, Kind::MasterToServer, out),
        Message::ClientRequest { id, request } => {
            put_json(&(id, request), Kind::ClientRequest, out)
        }
        Message::ClientResponse { id, response } => {
            put_json(&(id, response), Kind::ClientResponse, out)
        }
    }
}

fn put<T: Serialize>(body: &T, kind: Kind, out: &mut BytesMut) -> Kind {
    let taken = std::mem::take(out);
    *out = postcard::to_extend(body, taken).expect("every message type can be serialised");
    kind
}

fn put_json<T: Serialize>(body: &T, kind: Kind, out: &mut BytesMut) -> Kind {
    serde_json::to_writer(out.writer(), body).expect("every message type can be serialised");
    kind
}

fn put_volume_header(header: &VolumeHeader, out: &mut BytesMut) {
    let raw = RawVolumeHeader {
        volume: U128::new(header.volume.get()),
        store: U128::new(header.store.get()),
        epoch_assignment: U64::new(header.epoch.assignment()),
        epoch_reign: U64::new(header.epoch.reign()),
        config: U64::new(header.config.get()),
        session: U64::new(header.session),
    };
    out.put_slice(raw.as_bytes());
}

fn put_volume_body(body: &VolumeMessage, out: &mut BytesMut) -> Kind {
    match body {
        VolumeMessage::Records(records) => put_records(records, out),
        VolumeMessage::Ack(ack) => put_ack(ack, out),
        VolumeMessage::Commit(commit) => put_commit(commit, out),
        VolumeMessage::Fetched(fetched) => put_fetched(fetched, out),
        VolumeMessage::FetchedBlock(block) => put_fetched_block(block, out),
        VolumeMessage::PromiseRequest(body) => put(body, Kind::PromiseRequest, out),
        VolumeMessage::Promise(body) => put(body, Kind::Promise, out),
        VolumeMessage::PromiseRefused(body) => put(body, Kind::PromiseRefused, out),
        VolumeMessage::Handshake(body) => put(body, Kind::Handshake, out),
        VolumeMessage::HandshakeAck(body) => put(body, Kind::HandshakeAck, out),
        VolumeMessage::Truncate(body) => put(body, Kind::Truncate, out),
        VolumeMessage::TruncationRecorded(body) => put(body, Kind::TruncationRecorded, out),
        VolumeMessage::NeedRecords(body) => put(body, Kind::NeedRecords, out),
        VolumeMessage::StreamEnded(body) => put(body, Kind::StreamEnded, out),
        VolumeMessage::Fetch(body) => put(body, Kind::Fetch, out),
        VolumeMessage::FetchBlock(body) => put(body, Kind::FetchBlock, out),
        VolumeMessage::Refused(body) => put(body, Kind::Refused, out),
    }
}

fn put_records(records: &Records, out: &mut BytesMut) -> Kind {
    let raw = RawRecords {
        previous: U64::new(records.previous.get()),
        committed: U64::new(records.committed.get()),
        acknowledged: U64::new(records.acknowledged.get()),
        count: U32::new(records.count),
        reserved: U32::new(0),
    };
    out.put_slice(raw.as_bytes());
    out.put_slice(&records.headers);
    Kind::Records
}

fn put_ack(ack: &Ack, out: &mut BytesMut) -> Kind {
    let raw = RawAck {
        received: U64::new(ack.received.get()),
        flushed: U64::new(ack.flushed.get()),
        applied: U64::new(ack.applied.get()),
        checkpoint: U64::new(ack.checkpoint.get()),
        tail: U64::new(ack.tail.get()),
    };
    out.put_slice(raw.as_bytes());
    Kind::Ack
}

fn put_commit(commit: &Commit, out: &mut BytesMut) -> Kind {
    let raw = RawCommit {
        committed: U64::new(commit.committed.get()),
        acknowledged: U64::new(commit.acknowledged.get()),
    };
    out.put_slice(raw.as_bytes());
    Kind::Commit
}

fn put_fetched(fetched: &Fetched, out: &mut BytesMut) -> Kind {
    let raw = RawFetched {
        after: U64::new(fetched.range.after().get()),
        through: U64::new(fetched.range.through().get()),
        count: U32::new(fetched.count),
        outcome: U32::new(u32::from(fetched.outcome as u8)),
    };
    out.put_slice(raw.as_bytes());
    out.put_slice(&fetched.headers);
    Kind::Fetched
}

fn put_fetched_block(block: &FetchedBlock, out: &mut BytesMut) -> Kind {
    let raw = RawFetchedBlock {
        request: U64::new(block.request),
        block: U64::new(block.block.get()),
    };
    out.put_slice(raw.as_bytes());
    Kind::FetchedBlock
}

/// Makes a message of a checked preamble's kind from its header and payload.
pub(crate) fn decode_message(
    kind: Kind,
    header: &Bytes,
    payload: Payload,
) -> Result<Message, DecodeError> {
    match kind {
        Kind::Hello => Ok(Message::Hello(take(kind, header)?)),
        Kind::LeaseRequest => Ok(Message::LeaseRequest(take(kind, header)?)),
        Kind::LeaseGrant => Ok(Message::LeaseGrant(take(kind, header)?)),
        Kind::ServerToMaster => Ok(Message::ServerToMaster(take_json(kind, header)?)),
        Kind::MasterToServer => Ok(Message::MasterToServer(take_json(kind, header)?)),
        Kind::ClientRequest => {
            let (id, request) = take_json(kind, header)?;
            Ok(Message::ClientRequest { id, request })
        }
        Kind::ClientResponse => {
            let (id, response) = take_json(kind, header)?;
            Ok(Message::ClientResponse { id, response })
        }
        Kind::Records
        | Kind::Ack
        | Kind::Commit
        | Kind::Fetched
        | Kind::FetchedBlock
        | Kind::PromiseRequest
        | Kind::Promise
        | Kind::PromiseRefused
        | Kind::Handshake
        | Kind::HandshakeAck
        | Kind::Truncate
        | Kind::TruncationRecorded
        | Kind::NeedRecords
        | Kind::StreamEnded
        | Kind::Fetch
        | Kind::FetchBlock
        | Kind::Refused => decode_volume_message(kind, header, payload),
    }
}

fn decode_volume_message(
    kind: Kind,
    header: &Bytes,
    payload: Payload,
) -> Result<Message, DecodeError> {
    let wrong_length = || DecodeError::HeaderLength {
        kind,
        bytes: header.len(),
    };
    let (raw, _) = RawVolumeHeader::read_from_prefix(header).map_err(|_| wrong_length())?;
    let body = header.slice(size_of::<RawVolumeHeader>()..);
    let volume_header = VolumeHeader {
        volume: VolumeId::new(raw.volume.get()),
        store: StoreId::new(raw.store.get()),
        epoch: Epoch::new(raw.epoch_assignment.get(), raw.epoch_reign.get()),
        config: ConfigVersion::new(raw.config.get()),
        session: raw.session.get(),
    };
    let message = match kind {
        Kind::Records => VolumeMessage::Records(decode_records(&body, payload)?),
        Kind::Ack => VolumeMessage::Ack(decode_ack(&body)?),
        Kind::Commit => VolumeMessage::Commit(decode_commit(&body)?),
        Kind::Fetched => VolumeMessage::Fetched(decode_fetched(&body, payload)?),
        Kind::FetchedBlock => VolumeMessage::FetchedBlock(decode_fetched_block(&body, payload)?),
        Kind::PromiseRequest => VolumeMessage::PromiseRequest(take(kind, &body)?),
        Kind::Promise => VolumeMessage::Promise(take(kind, &body)?),
        Kind::PromiseRefused => VolumeMessage::PromiseRefused(take(kind, &body)?),
        Kind::Handshake => VolumeMessage::Handshake(take(kind, &body)?),
        Kind::HandshakeAck => VolumeMessage::HandshakeAck(take(kind, &body)?),
        Kind::Truncate => VolumeMessage::Truncate(take(kind, &body)?),
        Kind::TruncationRecorded => VolumeMessage::TruncationRecorded(take(kind, &body)?),
        Kind::NeedRecords => VolumeMessage::NeedRecords(take(kind, &body)?),
        Kind::StreamEnded => VolumeMessage::StreamEnded(take(kind, &body)?),
        Kind::Fetch => VolumeMessage::Fetch(take(kind, &body)?),
        Kind::FetchBlock => VolumeMessage::FetchBlock(take(kind, &body)?),
        Kind::Refused => VolumeMessage::Refused(take(kind, &body)?),
        Kind::Hello
        | Kind::LeaseRequest
        | Kind::LeaseGrant
        | Kind::ServerToMaster
        | Kind::MasterToServer
        | Kind::ClientRequest
        | Kind::ClientResponse => return Err(wrong_length()),
    };
    Ok(Message::Volume(volume_header, message))
}

fn take<T: DeserializeOwned>(kind: Kind, body: &[u8]) -> Result<T, DecodeError> {
    let (value, rest) =
        postcard::take_from_bytes(body).map_err(|source| DecodeError::BadBody { kind, source })?;
    if rest.is_empty() {
        Ok(value)
    } else {
        Err(DecodeError::HeaderLength {
            kind,
            bytes: body.len(),
        })
    }
}

fn take_json<T: DeserializeOwned>(kind: Kind, body: &[u8]) -> Result<T, DecodeError> {
    serde_json::from_slice(body).map_err(|source| DecodeError::BadJson { kind, source })
}

fn exact<T: FromBytes>(kind: Kind, body: &[u8]) -> Result<T, DecodeError> {
    T::read_from_bytes(body).map_err(|_| DecodeError::HeaderLength {
        kind,
        bytes: body.len(),
    })
}

fn prefix<T: FromBytes>(kind: Kind, body: &Bytes) -> Result<(T, Bytes), DecodeError> {
    let (raw, _) = T::read_from_prefix(body).map_err(|_| DecodeError::HeaderLength {
        kind,
        bytes: body.len(),
    })?;
    Ok((raw, body.slice(size_of::<T>()..)))
}

fn lsn(kind: Kind, field: &'static str, value: U64) -> Result<Lsn, DecodeError> {
    let lsn = Lsn::new(value.get());
    if lsn > LSN_MAX {
        return Err(DecodeError::BadField { kind, field });
    }
    Ok(lsn)
}

fn decode_records(body: &Bytes, payload: Payload) -> Result<Records, DecodeError> {
    const KIND: Kind = Kind::Records;
    let (raw, headers) = prefix::<RawRecords>(KIND, body)?;
    if raw.reserved.get() != 0 {
        return Err(DecodeError::BadField {
            kind: KIND,
            field: "reserved",
        });
    }
    Ok(Records {
        previous: lsn(KIND, "previous", raw.previous)?,
        count: raw.count.get(),
        committed: lsn(KIND, "committed", raw.committed)?,
        acknowledged: lsn(KIND, "acknowledged", raw.acknowledged)?,
        headers,
        payload: payload.into(),
    })
}

fn decode_ack(body: &[u8]) -> Result<Ack, DecodeError> {
    const KIND: Kind = Kind::Ack;
    let raw: RawAck = exact(KIND, body)?;
    Ok(Ack {
        received: lsn(KIND, "received", raw.received)?,
        flushed: lsn(KIND, "flushed", raw.flushed)?,
        applied: lsn(KIND, "applied", raw.applied)?,
        checkpoint: lsn(KIND, "checkpoint", raw.checkpoint)?,
        tail: lsn(KIND, "tail", raw.tail)?,
    })
}

fn decode_commit(body: &[u8]) -> Result<Commit, DecodeError> {
    const KIND: Kind = Kind::Commit;
    let raw: RawCommit = exact(KIND, body)?;
    Ok(Commit {
        committed: lsn(KIND, "committed", raw.committed)?,
        acknowledged: lsn(KIND, "acknowledged", raw.acknowledged)?,
    })
}

fn decode_fetched(body: &Bytes, payload: Payload) -> Result<Fetched, DecodeError> {
    const KIND: Kind = Kind::Fetched;
    let (raw, headers) = prefix::<RawFetched>(KIND, body)?;
    let bad = |field| DecodeError::BadField { kind: KIND, field };
    let after = lsn(KIND, "after", raw.after)?;
    let through = lsn(KIND, "through", raw.through)?;
    Ok(Fetched {
        range: LsnRange::new(after, through).ok_or(bad("range"))?,
        outcome: match raw.outcome.get() {
            1 => FetchOutcome::Records,
            2 => FetchOutcome::NotRetained,
            3 => FetchOutcome::Damaged,
            _ => return Err(bad("outcome")),
        },
        count: raw.count.get(),
        headers,
        payload: payload.into(),
    })
}

fn decode_fetched_block(body: &[u8], payload: Payload) -> Result<FetchedBlock, DecodeError> {
    let raw: RawFetchedBlock = exact(Kind::FetchedBlock, body)?;
    Ok(FetchedBlock {
        request: raw.request.get(),
        block: BlockIndex::new(raw.block.get()),
        content: (!payload.is_empty()).then_some(payload),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use moorline_types::BufferPool;

    use super::*;
    use crate::{Decoder, fuzz::round_trip, samples::every_message};

    #[test]
    fn every_kind_of_message_comes_back() {
        let mut kinds = BTreeSet::new();
        for message in every_message() {
            round_trip(&message);
            kinds.insert(put_header(&message, &mut BytesMut::new()));
        }
        assert_eq!(kinds, Kind::ALL.iter().copied().collect());
    }

    #[test]
    fn payloads_are_shared_when_sent_and_aligned_when_received() {
        for message in every_message() {
            let Message::Volume(_, VolumeMessage::Records(records)) = &message else {
                continue;
            };
            let mut parts = Vec::new();
            encode(&message, &mut parts).unwrap();
            let pieces: Vec<_> = records
                .payload
                .iter()
                .map(|p| p.as_slice().as_ptr())
                .collect();
            assert_eq!(
                parts[1..].iter().map(|p| p.as_ptr()).collect::<Vec<_>>(),
                pieces
            );
            let mut decoder = Decoder::new(BufferPool::new(), Limits::MEMBER);
            let bytes = parts.concat();
            let [_, ahead] = decoder.spare();
            let count = bytes.len().min(ahead.len());
            ahead[..count].copy_from_slice(&bytes[..count]);
            decoder.filled(count);
            assert!(decoder.next().unwrap().is_none());
            let [rest, _] = decoder.spare();
            rest.copy_from_slice(&bytes[count..]);
            decoder.filled(bytes.len() - count);
            let got = decoder.next().unwrap().unwrap();
            assert_eq!(got, message);
            let Message::Volume(_, VolumeMessage::Records(got)) = got else {
                panic!("the message is the one that was sent");
            };
            let payload = got.payload.into_contiguous(&BufferPool::new());
            assert!(Payload::from_aligned(payload.bytes()).is_some());
        }
    }

    #[test]
    fn what_no_frame_can_carry_is_not_begun() {
        let message = Message::Volume(
            VolumeHeader {
                volume: VolumeId::new(1),
                store: StoreId::new(1),
                epoch: Epoch::ZERO,
                config: ConfigVersion::ZERO,
                session: 0,
            },
            VolumeMessage::Records(Records {
                previous: Lsn::ZERO,
                count: 1,
                committed: Lsn::ZERO,
                acknowledged: Lsn::ZERO,
                headers: Bytes::from(vec![0; (1 << 20) + 1]),
                payload: PayloadParts::empty(),
            }),
        );
        let mut parts = Vec::new();
        assert!(matches!(
            encode(&message, &mut parts),
            Err(EncodeError::HeaderTooLong { .. })
        ));
        assert!(parts.is_empty());
    }

    #[test]
    fn an_lsn_near_the_end_of_numbers_is_refused() {
        let raw = RawCommit {
            committed: U64::new(u64::MAX),
            acknowledged: U64::new(0),
        };
        assert!(matches!(
            decode_commit(raw.as_bytes()),
            Err(DecodeError::BadField {
                field: "committed",
                ..
            })
        ));
    }
}
