//! The bodies of the fuzz targets: each takes any bytes and must come back.
//!
//! `cargo xtask fuzz` drives them by coverage; the same bodies run as plain tests.

use bytes::Bytes;
use moorline_types::{BLOCK_SIZE, BufferPool, Payload};

use crate::{Decoder, Kind, Limits, Message, Preamble, codec::decode_message, encode};

/// A stream of any bytes, fed in pieces whose lengths come from the input too.
pub fn fuzz_stream(input: &[u8]) {
    let limits = Limits {
        header_max: 1 << 16,
        payload_max: 1 << 20,
    };
    let mut decoder = Decoder::new(BufferPool::new(), limits);
    let mut rest = input;
    loop {
        match decoder.next() {
            Ok(Some(_)) => {}
            Ok(None) if rest.is_empty() => break,
            Ok(None) => {
                let piece = 1 + usize::from(rest[0]) * 37;
                rest = feed(&mut decoder, rest, piece);
            }
            Err(_) => {
                assert!(decoder.next().is_err(), "an error is for good");
                break;
            }
        }
    }
}

/// Any bytes as the header of each kind of message: past the checksums, where a peer with the key
/// and a fault would be. What decodes must encode to the same message again.
pub fn fuzz_headers(input: &[u8]) {
    let Some((&selector, body)) = input.split_first() else {
        return;
    };
    let kind = Kind::ALL[usize::from(selector) % Kind::ALL.len()];
    let header = Bytes::copy_from_slice(body);
    let payload = match kind.payload_max(Limits::MEMBER) {
        0 => Payload::empty(),
        _ => Payload::copy_padded(&BufferPool::new(), &[selector; BLOCK_SIZE]),
    };
    if let Ok(message) = decode_message(kind, &header, payload) {
        round_trip(&message);
    }
}

/// Any bytes as a preamble.
pub fn fuzz_preamble(input: &[u8]) {
    if let Some(bytes) = input.first_chunk()
        && let Ok(preamble) = Preamble::from_bytes(bytes, Limits::MEMBER)
    {
        assert_eq!(preamble.to_bytes(), *bytes);
    }
}

/// Encodes a message and decodes it again, in two pieces, and asserts that it is the same.
///
/// # Panics
///
/// If it is not.
pub fn round_trip(message: &Message) {
    let mut parts = Vec::new();
    if encode(message, &mut parts).is_err() {
        return;
    }
    let bytes = parts.concat();
    let mut decoder = Decoder::new(BufferPool::new(), Limits::MEMBER);
    let mut rest = bytes.as_slice();
    let half = rest.len() / 2 + 1;
    let again = loop {
        match decoder.next() {
            Ok(Some(again)) => break again,
            Ok(None) => rest = feed(&mut decoder, rest, half),
            Err(error) => panic!("our own bytes were refused: {error}"),
        }
    };
    assert_eq!(again, *message);
    assert!(rest.is_empty() && decoder.is_between_frames());
}

/// Feeds at most `piece` bytes and gives back the rest.
fn feed<'a>(decoder: &mut Decoder, bytes: &'a [u8], piece: usize) -> &'a [u8] {
    let mut rest = &bytes[..piece.min(bytes.len())];
    let mut taken = 0;
    for target in decoder.spare() {
        let count = rest.len().min(target.len());
        target[..count].copy_from_slice(&rest[..count]);
        rest = &rest[count..];
        taken += count;
    }
    assert!(
        taken > 0,
        "the decoder wants bytes and has no room for them"
    );
    decoder.filled(taken);
    &bytes[taken..]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::samples;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn any_stream_is_answered(input in proptest::collection::vec(any::<u8>(), 0..2_000)) {
            fuzz_stream(&input);
        }

        #[test]
        fn any_header_is_answered(input in proptest::collection::vec(any::<u8>(), 0..400)) {
            fuzz_headers(&input);
            fuzz_preamble(&input);
        }

        #[test]
        fn a_damaged_good_message_is_answered(
            which in any::<prop::sample::Index>(),
            place in any::<prop::sample::Index>(),
            change in 1_u8..,
        ) {
            let messages = samples::every_message();
            let mut parts = Vec::new();
            encode(which.get(&messages), &mut parts).unwrap();
            let mut bytes = parts.concat();
            let place = place.index(bytes.len());
            bytes[place] ^= change;
            fuzz_stream(&bytes);
            // The same damage, past the checksums.
            let preamble = Preamble::from_bytes(parts[0].first_chunk().unwrap(), Limits::MEMBER).unwrap();
            let mut header = vec![0];
            header.extend_from_slice(&parts[0][crate::PREAMBLE_BYTES..]);
            header[0] = u8::try_from(Kind::ALL.iter().position(|k| *k == preamble.kind).unwrap()).unwrap();
            let place = 1 + place % (header.len() - 1).max(1);
            if let Some(byte) = header.get_mut(place) {
                *byte ^= change;
            }
            fuzz_headers(&header);
        }
    }
}
