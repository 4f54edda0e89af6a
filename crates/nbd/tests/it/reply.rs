//! Answers, as the client decodes them.

use bytes::{Buf, Bytes};
use moorline_nbd::{
    AnswerMismatch, Extent, ExtentState, NbdError, Outgoing, ReadSegment, Request, Responder,
};

use crate::{client::*, session::Link};

const ALL_ERRORS: [(NbdError, u32); 8] = [
    (NbdError::Perm, 1),
    (NbdError::Io, 5),
    (NbdError::NoMem, 12),
    (NbdError::Inval, 22),
    (NbdError::NoSpace, 28),
    (NbdError::Overflow, 75),
    (NbdError::NotSup, 95),
    (NbdError::Shutdown, 108),
];

fn responder(mut link: Link, ask: Ask) -> Responder {
    let Request { responder, .. } = link.request(ask);
    responder
}

fn data(byte: u8, length: usize) -> ReadSegment {
    ReadSegment::Data(Bytes::from(vec![byte; length]))
}

/// The content chunks of a structured read: offset, and bytes or the length of a hole.
#[derive(PartialEq, Eq, Debug)]
enum Content {
    Data(u64, Vec<u8>),
    Hole(u64, u32),
}

fn contents(bytes: &[u8]) -> Vec<Content> {
    let chunks = replies(bytes);
    let last = chunks.len() - 1;
    chunks
        .into_iter()
        .enumerate()
        .map(|(n, chunk)| {
            let Reply::Chunk {
                done,
                kind,
                payload,
                ..
            } = chunk
            else {
                panic!("a simple reply to a structured read");
            };
            assert_eq!(done, n == last, "only the last chunk is the last");
            let mut payload = &payload[..];
            match kind {
                CHUNK_DATA => Content::Data(payload.get_u64(), payload.to_vec()),
                CHUNK_HOLE => {
                    let hole = Content::Hole(payload.get_u64(), payload.get_u32());
                    assert!(payload.is_empty());
                    hole
                }
                other => panic!("chunk {other}"),
            }
        })
        .collect()
}

#[test]
fn a_structured_read_is_as_few_chunks_as_it_can_be() {
    use Content::{Data, Hole};
    let zeroes = ReadSegment::Zeroes;
    let cases: Vec<(Vec<ReadSegment>, Vec<Content>, Vec<Content>)> = vec![
        (
            vec![data(1, 100)],
            vec![Data(5, vec![1; 100])],
            vec![Data(5, vec![1; 100])],
        ),
        (
            vec![data(1, 60), data(2, 40)],
            vec![Data(5, [vec![1; 60], vec![2; 40]].concat())],
            vec![Data(5, [vec![1; 60], vec![2; 40]].concat())],
        ),
        (
            vec![zeroes(30), zeroes(70)],
            vec![Hole(5, 100)],
            vec![Hole(5, 100)],
        ),
        (
            vec![zeroes(30), data(1, 50), data(1, 0), zeroes(20)],
            vec![Hole(5, 30), Data(35, vec![1; 50]), Hole(85, 20)],
            vec![Data(5, [vec![0; 30], vec![1; 50], vec![0; 20]].concat())],
        ),
        (
            vec![data(9, 0), zeroes(0), data(1, 99), data(2, 1), zeroes(0)],
            vec![Data(5, [vec![1; 99], vec![2; 1]].concat())],
            vec![Data(5, [vec![1; 99], vec![2; 1]].concat())],
        ),
    ];
    for (segments, many, one) in cases {
        for (flags, want) in [(0, many), (DF, one)] {
            let mut out = Outgoing::new();
            let ask = Ask::new(READ, 5, 100).flags(flags);
            responder(Link::structured(), ask)
                .read(&segments, &mut out)
                .unwrap();
            assert_eq!(contents(&drain(&mut out)), want, "flags {flags}");
        }
    }
}

#[test]
fn a_simple_read_is_a_header_and_all_bytes() {
    let mut out = Outgoing::new();
    let segments = [data(1, 10), ReadSegment::Zeroes(200_000), data(2, 5)];
    let ask = Ask::new(READ, 0, 200_015);
    responder(Link::simple(), ask)
        .read(&segments, &mut out)
        .unwrap();
    let bytes = drain(&mut out);
    let (header, rest) = bytes.split_at(16);
    let cookie = ask.cookie;
    assert_eq!(replies(header), [Reply::Simple { error: 0, cookie }]);
    assert_eq!(rest, [vec![1; 10], vec![0; 200_000], vec![2; 5]].concat());
}

#[test]
fn read_data_is_sent_from_where_it_lies() {
    for link in [Link::simple(), Link::structured()] {
        let bytes = Bytes::from(vec![7; 4096]);
        let mut out = Outgoing::new();
        let responder = responder(link, Ask::new(READ, 0, 4096));
        responder
            .read(&[ReadSegment::Data(bytes.clone())], &mut out)
            .unwrap();
        let header = out.chunk().len();
        out.advance(header);
        assert_eq!(out.chunk().as_ptr(), bytes.as_ptr());
    }
}

#[test]
fn answers_that_do_not_fit_are_reported_and_the_client_gets_eio() {
    type Answer = fn(Responder, &mut Outgoing) -> Result<(), AnswerMismatch>;
    let done: Answer = |r, out| r.done(out);
    let short: Answer = |r, out| r.read(&[data(1, 511)], out);
    let long: Answer = |r, out| r.read(&[data(1, 511), ReadSegment::Zeroes(u32::MAX)], out);
    let fits: Answer = |r, out| r.read(&[data(1, 512)], out);
    let extents: Answer = |r, out| r.extents([], out);
    for (command, answer) in [
        (READ, done),
        (READ, short),
        (READ, long),
        (READ, extents),
        (BLOCK_STATUS, done),
        (BLOCK_STATUS, fits),
        (TRIM, fits),
        (TRIM, extents),
    ] {
        let mut out = Outgoing::new();
        let result = answer(
            responder(Link::structured(), Ask::new(command, 0, 512)),
            &mut out,
        );
        assert!(result.is_err(), "{command}");
        assert_eq!(only_error(&drain(&mut out)).0, 5, "{command}");
    }
}

#[test]
fn errors_have_their_numbers_and_messages() {
    for (error, code) in ALL_ERRORS {
        assert_eq!(error.code(), code);
        for (command, flags) in [
            (READ, 0),
            (READ, DF),
            (TRIM, 0),
            (WRITE_ZEROES, FAST_ZERO),
            (WRITE_ZEROES, 0),
        ] {
            // Two of them are for one kind of request each; elsewhere they are plainly invalid.
            let want = match error {
                NbdError::NotSup if flags != FAST_ZERO => 22,
                NbdError::Overflow if flags != DF => 22,
                _ => code,
            };
            let mut out = Outgoing::new();
            let ask = Ask::new(command, 0, 512).flags(flags);
            responder(Link::structured(), ask).fail(error, "because", &mut out);
            assert_eq!(only_error(&drain(&mut out)), (want, "because".to_owned()));
            if flags == DF {
                continue;
            }
            responder(Link::simple(), ask).fail(error, "because", &mut out);
            assert_eq!(only_error(&drain(&mut out)), (want, String::new()));
        }
    }
}

#[test]
fn a_message_is_cut_between_characters() {
    let mut out = Outgoing::new();
    let long = format!("x{}", "é".repeat(4000));
    responder(Link::structured(), Ask::new(TRIM, 0, 1)).fail(NbdError::Io, &long, &mut out);
    let (_, message) = only_error(&drain(&mut out));
    assert_eq!(message.len(), 4095);
    assert!(long.starts_with(&message));
}

#[test]
fn an_error_may_say_where() {
    for (offset, inside) in [(99, false), (100, true), (149, true), (150, false)] {
        let mut out = Outgoing::new();
        let ask = Ask::new(READ, 100, 50);
        responder(Link::structured(), ask).fail_at(NbdError::Io, offset, "rot", &mut out);
        let bytes = drain(&mut out);
        if !inside {
            assert_eq!(only_error(&bytes), (5, "rot".to_owned()));
            continue;
        }
        let payload = [&[0, 0, 0, 5, 0, 3][..], b"rot", &offset.to_be_bytes()].concat();
        let cookie = ask.cookie;
        let want = Reply::Chunk {
            done: true,
            kind: CHUNK_ERROR_OFFSET,
            cookie,
            payload,
        };
        assert_eq!(replies(&bytes), [want]);
    }
}

/// The extents of an answer, as lengths and flags.
fn told(ask: Ask, extents: &[(u64, ExtentState)]) -> Vec<(u32, u32)> {
    let mut out = Outgoing::new();
    let extents = extents.iter().map(|&(length_bytes, state)| Extent {
        length_bytes,
        state,
    });
    responder(Link::structured(), ask)
        .extents(extents, &mut out)
        .unwrap();
    let [
        Reply::Chunk {
            done: true,
            kind: CHUNK_BLOCK_STATUS,
            payload,
            ..
        },
    ] = &replies(&drain(&mut out))[..]
    else {
        panic!("not one chunk of block status");
    };
    let mut payload = &payload[..];
    assert_eq!(payload.get_u32(), 1, "the context's id");
    let mut extents = Vec::new();
    while !payload.is_empty() {
        extents.push((payload.get_u32(), payload.get_u32()));
    }
    extents
}

#[test]
fn extents_are_merged_and_end_where_they_may() {
    use ExtentState::{Data, Hole, Zero};
    const GIB: u64 = 1 << 30;
    let ask = Ask::new(BLOCK_STATUS, 4096, 8192);
    let one = ask.flags(REQ_ONE);
    for (ask, extents, want) in [
        // Nothing known: data, all of it.
        (ask, &[][..], &[(8192, 0)][..]),
        (ask, &[(0, Hole)], &[(8192, 0)]),
        (ask, &[(4096, Data), (4096, Hole)], &[(4096, 0), (4096, 3)]),
        (
            ask,
            &[(4096, Zero), (0, Hole), (1, Zero), (4095, Hole)],
            &[(4097, 2), (4095, 3)],
        ),
        // May end early, and then be asked again.
        (ask, &[(512, Data)], &[(512, 0)]),
        // The last one may reach beyond the request, to the end of the export at most.
        (
            ask,
            &[(4096, Data), (65536, Hole), (4096, Data)],
            &[(4096, 0), (65536, 3)],
        ),
        (ask, &[(u64::MAX, Hole)], &[((1 << 30) - 4096, 3)]),
        (
            Ask::new(BLOCK_STATUS, GIB - 10, 10),
            &[(4096, Hole)],
            &[(10, 3)],
        ),
        // One means one, and not beyond the request.
        (one, &[(4096, Data), (4096, Hole)], &[(4096, 0)]),
        (one, &[(512, Zero), (512, Zero), (512, Data)], &[(1024, 2)]),
        (one, &[(GIB, Hole)], &[(8192, 3)]),
        (one, &[], &[(8192, 0)]),
    ] {
        assert_eq!(told(ask, extents), want, "{extents:?}");
    }
}

#[test]
fn extents_are_bounded_in_number() {
    let alternating: Vec<_> = (0..10_000)
        .map(|n| {
            (
                512,
                if n % 2 == 0 {
                    ExtentState::Data
                } else {
                    ExtentState::Hole
                },
            )
        })
        .collect();
    let told = told(Ask::new(BLOCK_STATUS, 0, 512 * 10_000), &alternating);
    assert_eq!(told.len(), 4096);
    assert!(told.iter().all(|(length, _)| *length == 512));
}
