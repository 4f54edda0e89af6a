//! Bodies of the fuzz targets: bytes from a client, whatever they are, in whatever pieces.
//!
//! Each body feeds the same input whole and cut into pieces, and asserts that neither panics and both
//! say the same.

use bytes::Buf;
use moorline_types::PageBuf;

use crate::{
    Access, Command, Contexts, Export, Exports, Extent, ExtentState, ExtentsWanted, Handshake,
    HandshakeProgress, Limits, ListedExport, Lookup, MultiConn, NbdError, Negotiated, Outgoing,
    Progress, ReadSegment, ReplyStyle, Request, Session,
};

const EXPORT_BYTES: u64 = (1 << 20) + 13;

struct OneExport;

fn export(access: Access) -> Export {
    Export {
        name: "demo".to_owned(),
        description: "for fuzzing".to_owned(),
        size_bytes: EXPORT_BYTES,
        access,
        multi_conn: MultiConn::Shared,
    }
}

impl Exports for OneExport {
    fn find(&self, name: &str) -> Lookup {
        match name {
            "" | "demo" => Lookup::Found(export(Access::ReadWrite)),
            "elsewhere" => Lookup::Elsewhere {
                message: "go there".to_owned(),
            },
            "refused" => Lookup::Refused {
                message: "not you".to_owned(),
            },
            "closing" => Lookup::ShuttingDown,
            _ => Lookup::Unknown,
        }
    }

    fn list(&self) -> Vec<ListedExport> {
        vec![ListedExport {
            name: "demo".to_owned(),
            description: String::new(),
        }]
    }
}

fn limits() -> Limits {
    Limits {
        option_bytes_max: 300,
        option_skip_bytes_max: 2000,
        options_max: 16,
        queries_max: 4,
        request_bytes_max: 64 << 10,
        write_skip_bytes_max: 128 << 10,
        ..Limits::default()
    }
}

fn drain(out: &mut Outgoing) -> Vec<u8> {
    let count = out.remaining();
    out.copy_to_bytes(count).to_vec()
}

/// Any bytes as a client's side of a handshake, and of what follows it.
pub fn fuzz_handshake(data: &[u8]) {
    let whole = run_handshake(data, usize::MAX);
    for piece in [1, 7] {
        assert_eq!(whole, run_handshake(data, piece), "pieces of {piece}");
    }
}

fn run_handshake(data: &[u8], piece: usize) -> (HandshakeProgress, Vec<u8>, Vec<u8>) {
    let mut out = Outgoing::new();
    let mut handshake = Handshake::start(limits(), &mut out);
    let mut taken = 0;
    for part in data.chunks(piece.min(data.len().max(1))) {
        let mut input = part;
        loop {
            let progress = handshake.receive(&mut input, &OneExport, &mut out);
            match progress {
                HandshakeProgress::Answered => {}
                HandshakeProgress::NeedInput => break assert!(input.is_empty(), "all is taken"),
                HandshakeProgress::Agreed(_)
                | HandshakeProgress::Aborted
                | HandshakeProgress::Refused(_) => {
                    let rest = data[taken + part.len() - input.len()..].to_vec();
                    return (progress, drain(&mut out), rest);
                }
            }
        }
        taken += part.len();
    }
    (HandshakeProgress::NeedInput, drain(&mut out), Vec::new())
}

/// Any bytes as a client's side of the transmission phase. The first byte chooses the terms.
pub fn fuzz_transmission(data: &[u8]) {
    let Some((choice, data)) = data.split_first() else {
        return;
    };
    let whole = run_transmission(*choice, data, usize::MAX);
    for piece in [1, 29] {
        assert_eq!(
            whole,
            run_transmission(*choice, data, piece),
            "pieces of {piece}"
        );
    }
}

fn run_transmission(choice: u8, data: &[u8], piece: usize) -> (String, Vec<u8>) {
    let (replies, contexts) = match choice & 3 {
        0 => (ReplyStyle::Simple, Contexts::Unselected),
        1 => (ReplyStyle::Structured, Contexts::Unselected),
        _ => (ReplyStyle::Structured, Contexts::BaseAllocation),
    };
    let access = if choice & 4 == 0 {
        Access::ReadWrite
    } else {
        Access::ReadOnly
    };
    let negotiated = Negotiated {
        export: export(access),
        replies,
        contexts,
    };
    let mut session = Session::new(negotiated, limits());
    let mut out = Outgoing::new();
    for part in data.chunks(piece.min(data.len().max(1))) {
        let mut input = part;
        loop {
            match session.receive(&mut input, &mut out) {
                Progress::NeedInput => break assert!(input.is_empty(), "all is taken"),
                Progress::NeedBuffer { pages } => {
                    assert!(pages <= 17, "the limit and one more block");
                    session.supply(dirty(pages));
                }
                Progress::Request(request) => answer(request, &mut out),
                end @ (Progress::Disconnected | Progress::Broken(_)) => {
                    return (format!("{end:?}"), drain(&mut out));
                }
            }
        }
    }
    ("open".to_owned(), drain(&mut out))
}

fn dirty(pages: usize) -> PageBuf {
    let mut buffer = PageBuf::zeroed(pages);
    buffer.as_mut_slice().fill(0xdd);
    buffer
}

/// Answers as a server would, with failures chosen by the cookie; checks what every request keeps.
fn answer(request: Request, out: &mut Outgoing) {
    let Request { command, responder } = request;
    let cookie = responder.cookie().get();
    let span = match &command {
        Command::Read(span) | Command::Cache(span) => Some(*span),
        Command::Write { span, .. }
        | Command::Trim { span, .. }
        | Command::WriteZeroes { span, .. }
        | Command::BlockStatus { span, .. } => Some(*span),
        Command::Flush => None,
    };
    if let Some(span) = span {
        assert!(span.length() > 0 && span.end() <= EXPORT_BYTES);
        if cookie % 5 == 4 {
            return responder.fail_at(NbdError::Io, cookie, "broken", out);
        }
    }
    if cookie % 5 == 3 {
        return responder.fail(NbdError::NotSup, "slow", out);
    }
    let outcome = match command {
        Command::Read(span) => {
            let head = span.length() / 2;
            let tail = vec![7; usize::try_from(span.length() - head).expect("small")];
            responder.read(
                &[ReadSegment::Zeroes(head), ReadSegment::Data(tail.into())],
                out,
            )
        }
        Command::BlockStatus { wanted, .. } => responder.extents(
            (1..9).map(|n| Extent {
                length_bytes: n * (cookie % 1000),
                state: match wanted {
                    ExtentsWanted::All if n % 2 == 0 => ExtentState::Zero,
                    ExtentsWanted::All | ExtentsWanted::One => ExtentState::Hole,
                },
            }),
            out,
        ),
        Command::Write { span, payload, .. } => {
            let written = payload.written();
            assert_eq!(payload.bytes().len() as u64, u64::from(span.length()));
            let buffer = payload.into_buffer();
            let all = buffer.as_slice();
            let gaps = [&all[..written.start], &all[written.end..]].concat();
            assert!(gaps.iter().all(|byte| *byte == 0), "nothing stale");
            responder.done(out)
        }
        Command::Flush | Command::Trim { .. } | Command::WriteZeroes { .. } | Command::Cache(_) => {
            responder.done(out)
        }
    };
    outcome.expect("each command gets its kind of answer");
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn option() -> impl Strategy<Value = Vec<u8>> {
        let name = prop::sample::select(vec![
            "demo",
            "",
            "elsewhere",
            "refused",
            "closing",
            "nosuch",
        ]);
        let well_formed = name.prop_map(|name| {
            let length = u32::try_from(name.len()).unwrap().to_be_bytes();
            [&length[..], name.as_bytes(), &[0, 0, 0, 0]].concat()
        });
        let data = prop_oneof![
            Just(Vec::new()),
            well_formed.clone(),
            well_formed.prop_map(|data| data[..data.len() - 2].to_vec()),
            vec(any::<u8>(), 0..400),
        ];
        (0_u32..13, data).prop_map(|(option, data)| {
            let length = u32::try_from(data.len()).unwrap().to_be_bytes();
            [&b"IHAVEOPT"[..], &option.to_be_bytes(), &length, &data].concat()
        })
    }

    fn request() -> impl Strategy<Value = Vec<u8>> {
        let flags = prop_oneof![4 => Just(0_u16), 4 => prop::sample::select(vec![1, 2, 4, 8, 16, 18]), 1 => any::<u16>()];
        let edge = EXPORT_BYTES - 3..EXPORT_BYTES + 3;
        let offset = prop_oneof![4 => 0..9000_u64, 1 => edge, 1 => any::<u64>()];
        let length = prop_oneof![
            4 => 0..9000_u32,
            1 => Just(64 << 10),
            1 => Just(64 << 10 | 1),
            1 => any::<u32>()
        ];
        (0_u16..10, flags, any::<u64>(), offset, length).prop_map(
            |(command, flags, cookie, offset, length)| {
                let payload = if command == 1 {
                    length.min(140 << 10)
                } else {
                    0
                };
                [
                    &0x2560_9513_u32.to_be_bytes()[..],
                    &flags.to_be_bytes(),
                    &command.to_be_bytes(),
                    &cookie.to_be_bytes(),
                    &offset.to_be_bytes(),
                    &length.to_be_bytes(),
                    &vec![0xaa; usize::try_from(payload).unwrap()],
                ]
                .concat()
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn any_bytes_are_taken_alike_whole_and_in_pieces(data in vec(any::<u8>(), 0..600)) {
            fuzz_handshake(&data);
            fuzz_transmission(&data);
        }

        #[test]
        fn any_options_are_taken_alike_whole_and_in_pieces(
            flags in 0_u32..5,
            options in vec(option(), 0..20),
        ) {
            fuzz_handshake(&[&flags.to_be_bytes()[..], &options.concat()].concat());
        }

        #[test]
        fn any_requests_are_taken_alike_whole_and_in_pieces(
            choice in any::<u8>(),
            requests in vec(request(), 0..8),
        ) {
            fuzz_transmission(&[&[choice][..], &requests.concat()].concat());
        }
    }
}
