//! Requests, one by one: what is given out, and what is answered at once.

use moorline_nbd::{
    Access, Command, Contexts, ExtentsWanted, Holes, Limits, NbdError, Negotiated, Outgoing,
    Persist, Progress, ReplyStyle, Request, Session, SessionError, Span, ZeroSpeed,
};
use moorline_types::{BufferPool, PageBuf};

use crate::{client::*, handshake::export};

const GIB: u64 = 1 << 30;
const MIB32: u32 = 32 << 20;

pub(crate) struct Link {
    pub(crate) session: Session,
    pub(crate) out: Outgoing,
}

impl Link {
    fn on(terms: Negotiated) -> Self {
        Self {
            session: Session::new(terms, Limits::default()),
            out: Outgoing::new(),
        }
    }

    pub(crate) fn structured() -> Self {
        Self::on(terms())
    }

    pub(crate) fn simple() -> Self {
        Self::on(Negotiated {
            replies: ReplyStyle::Simple,
            contexts: Contexts::Unselected,
            ..terms()
        })
    }

    fn read_only() -> Self {
        let mut terms = terms();
        terms.export.access = Access::ReadOnly;
        Self::on(terms)
    }

    fn hear(&mut self, mut input: &[u8]) -> Progress {
        let progress = self.session.receive(&mut input, &mut self.out);
        assert!(input.is_empty(), "all is taken");
        progress
    }

    /// The request that `ask` without payload becomes.
    pub(crate) fn request(&mut self, ask: Ask) -> Request {
        match self.hear(&ask.bytes()) {
            Progress::Request(request) => request,
            other => panic!("{ask:?} gives {other:?}"),
        }
    }

    /// The error with which the session answers `ask` by itself.
    fn refusal(&mut self, ask: Ask) -> u32 {
        let progress = self.hear(&ask.bytes());
        assert!(
            matches!(progress, Progress::NeedInput),
            "{ask:?}: {progress:?}"
        );
        only_error(&drain(&mut self.out)).0
    }
}

fn terms() -> Negotiated {
    Negotiated {
        export: export("demo"),
        replies: ReplyStyle::Structured,
        contexts: Contexts::BaseAllocation,
    }
}

fn place(span: Span) -> (u64, u32) {
    (span.offset(), span.length())
}

#[test]
fn every_command_arrives_as_it_was_sent() {
    let mut link = Link::structured();
    let mut commands = Vec::new();
    for (command, flags) in [
        (READ, 0),
        (READ, DF | FUA),
        (TRIM, 0),
        (TRIM, FUA),
        (WRITE_ZEROES, 0),
        (WRITE_ZEROES, FUA | NO_HOLE | FAST_ZERO),
        (CACHE, 0),
        (CACHE, FUA),
        (BLOCK_STATUS, 0),
        (BLOCK_STATUS, REQ_ONE | FUA),
    ] {
        let request = link.request(Ask::new(command, 4097, 8192).flags(flags));
        assert_eq!(request.responder.cookie().get(), 0x1122_3344_5566_7788);
        commands.push(request.command);
    }
    let [
        Command::Read(a),
        Command::Read(b),
        Command::Trim {
            span: c,
            persist: Persist::ByPolicy,
        },
        Command::Trim {
            span: d,
            persist: Persist::BeforeAnswer,
        },
        Command::WriteZeroes {
            span: e,
            persist: Persist::ByPolicy,
            holes: Holes::Allowed,
            speed: ZeroSpeed::Any,
        },
        Command::WriteZeroes {
            span: f,
            persist: Persist::BeforeAnswer,
            holes: Holes::Forbidden,
            speed: ZeroSpeed::FasterThanWrite,
        },
        Command::Cache(g),
        Command::Cache(h),
        Command::BlockStatus {
            span: i,
            wanted: ExtentsWanted::All,
        },
        Command::BlockStatus {
            span: j,
            wanted: ExtentsWanted::One,
        },
    ] = commands[..]
    else {
        panic!("{commands:?}");
    };
    for span in [a, b, c, d, e, f, g, h, i, j] {
        assert_eq!(place(span), (4097, 8192));
        assert_eq!(span.end(), 4097 + 8192);
        assert_eq!((span.blocks().first().get(), span.blocks().count()), (1, 3));
    }
    for flags in [0, FUA] {
        let request = link.request(Ask::new(FLUSH, 0, 0).flags(flags));
        assert!(matches!(request.command, Command::Flush));
    }
    assert!(link.out.is_empty());
}

#[test]
fn what_breaks_the_rules_is_answered_at_once() {
    let (perm, inval, nospace) = (1, 22, 28);
    let cases = [
        ("unknown command", Ask::new(8, 0, 0), inval),
        ("unknown command", Ask::new(0xffff, 0, 100), inval),
        ("unknown flag", Ask::new(READ, 0, 512).flags(1 << 9), inval),
        (
            "flag of another command",
            Ask::new(READ, 0, 512).flags(NO_HOLE),
            inval,
        ),
        (
            "flag of another command",
            Ask::new(READ, 0, 512).flags(REQ_ONE),
            inval,
        ),
        (
            "flag of another command",
            Ask::new(TRIM, 0, 512).flags(NO_HOLE),
            inval,
        ),
        (
            "flag of another command",
            Ask::new(CACHE, 0, 512).flags(DF),
            inval,
        ),
        (
            "flag of another command",
            Ask::new(FLUSH, 0, 0).flags(FAST_ZERO),
            inval,
        ),
        (
            "flag of another command",
            Ask::new(BLOCK_STATUS, 0, 512).flags(DF),
            inval,
        ),
        (
            "flag without extended headers",
            Ask::new(READ, 0, 512).flags(PAYLOAD_LEN),
            inval,
        ),
        ("read past the end", Ask::new(READ, GIB - 1, 2), inval),
        ("read past the end", Ask::new(READ, u64::MAX, 2), inval),
        ("trim past the end", Ask::new(TRIM, GIB, 1), inval),
        ("cache past the end", Ask::new(CACHE, GIB, 1), inval),
        (
            "status past the end",
            Ask::new(BLOCK_STATUS, GIB - 4096, 8192),
            inval,
        ),
        (
            "zeroes past the end",
            Ask::new(WRITE_ZEROES, GIB - 1, 2),
            nospace,
        ),
        (
            "zeroes past the end",
            Ask::new(WRITE_ZEROES, u64::MAX, u32::MAX),
            nospace,
        ),
        ("long read", Ask::new(READ, 0, MIB32 + 1), inval),
        ("long cache", Ask::new(CACHE, 0, MIB32 + 1), inval),
        ("flush somewhere", Ask::new(FLUSH, 1, 0), inval),
        ("flush something", Ask::new(FLUSH, 0, 1), inval),
        ("status of nothing", Ask::new(BLOCK_STATUS, 0, 0), inval),
    ];
    for (what, ask, want) in cases {
        assert_eq!(Link::structured().refusal(ask), want, "{what}");
    }
    for command in [TRIM, WRITE_ZEROES] {
        assert_eq!(Link::read_only().refusal(Ask::new(command, 0, 512)), perm);
    }
    // Without structured replies there is no DF and no BLOCK_STATUS.
    assert_eq!(
        Link::simple().refusal(Ask::new(READ, 0, 512).flags(DF)),
        inval
    );
    assert_eq!(
        Link::simple().refusal(Ask::new(BLOCK_STATUS, 0, 512)),
        inval
    );
}

#[test]
fn the_last_byte_and_the_longest_lengths_are_inside() {
    let mut link = Link::structured();
    for ask in [
        Ask::new(READ, GIB - 1, 1),
        Ask::new(READ, GIB - u64::from(MIB32), MIB32),
        Ask::new(CACHE, 0, MIB32),
        // No payload, and clients send them for all of a disk at once.
        Ask::new(TRIM, 0, 1 << 30),
        Ask::new(WRITE_ZEROES, 0, 1 << 30),
        Ask::new(BLOCK_STATUS, 0, 1 << 30),
    ] {
        drop(link.request(ask));
    }
}

#[test]
fn lengths_are_limited_as_configured() {
    let limits = Limits {
        request_bytes_max: 1 << 20,
        range_bytes_max: 1 << 21,
        ..Limits::default()
    };
    for (command, longest) in [
        (READ, 1_u32 << 20),
        (CACHE, 1 << 20),
        (TRIM, 1 << 21),
        (WRITE_ZEROES, 1 << 21),
    ] {
        let mut link = Link {
            session: Session::new(terms(), limits.clone()),
            out: Outgoing::new(),
        };
        drop(link.request(Ask::new(command, 1, longest)));
        assert_eq!(
            link.refusal(Ask::new(command, 1, longest + 1)),
            22,
            "{command}"
        );
    }
}

#[test]
fn a_request_for_nothing_is_done_at_once() {
    for command in [READ, WRITE, TRIM, WRITE_ZEROES, CACHE] {
        for mut link in [Link::structured(), Link::simple()] {
            let structured = link.session.negotiated().replies == ReplyStyle::Structured;
            let ask = Ask::new(command, 0, 0);
            assert!(matches!(link.hear(&ask.bytes()), Progress::NeedInput));
            let want = if structured && command == READ {
                Reply::Chunk {
                    done: true,
                    kind: CHUNK_NONE,
                    cookie: ask.cookie,
                    payload: vec![],
                }
            } else {
                Reply::Simple {
                    error: 0,
                    cookie: ask.cookie,
                }
            };
            assert_eq!(replies(&drain(&mut link.out)), [want]);
        }
    }
}

#[test]
fn a_write_is_placed_in_whole_blocks() {
    for (offset, length, pages, written) in [
        (0_u64, 4096_u32, 1, 0..4096),
        (8192, 8192, 2, 0..8192),
        (4097, 1, 1, 1..2),
        (4095, 2, 2, 4095..4097),
        (100, 4096, 2, 100..4196),
        (GIB - 10, 10, 1, 4086..4096),
    ] {
        let mut link = Link::structured();
        let data: Vec<u8> = (0..length)
            .map(|n| u8::try_from(n % 251).unwrap())
            .collect();
        match link.hear(&Ask::new(WRITE, offset, length).flags(FUA).bytes()) {
            Progress::NeedBuffer { pages: asked } => assert_eq!(asked, pages),
            other => panic!("{other:?}"),
        }
        let mut stale = PageBuf::zeroed(pages);
        stale.as_mut_slice().fill(0xdd);
        link.session.supply(stale);
        // Half of it comes with the header, the rest is read in place.
        let half = data.len() / 2;
        assert!(matches!(link.hear(&data[..half]), Progress::NeedInput));
        let space = link.session.payload_space().unwrap();
        assert_eq!(space.len(), data.len() - half);
        space.copy_from_slice(&data[half..]);
        let request = link.session.payload_filled(data.len() - half).unwrap();
        let Command::Write {
            span,
            persist,
            payload,
        } = request.command
        else {
            panic!("not a write");
        };
        assert_eq!(place(span), (offset, length));
        assert_eq!(persist, Persist::BeforeAnswer);
        assert_eq!(payload.bytes(), data);
        assert_eq!(payload.written(), written);
        assert_eq!(
            payload.is_whole_blocks(),
            length.is_multiple_of(4096) && offset.is_multiple_of(4096)
        );
        let buffer = payload.into_buffer();
        let around = [
            &buffer.as_slice()[..written.start],
            &buffer.as_slice()[written.end..],
        ]
        .concat();
        assert!(
            around.iter().all(|byte| *byte == 0),
            "nothing of an earlier write is left"
        );
        request.responder.done(&mut link.out).unwrap();
        let cookie = Ask::new(0, 0, 0).cookie;
        assert_eq!(
            replies(&drain(&mut link.out)),
            [Reply::Simple { error: 0, cookie }]
        );
    }
}

#[test]
fn nothing_is_taken_until_a_buffer_is_there() {
    let mut link = Link::structured();
    let pool = BufferPool::new();
    let bytes = [
        Ask::new(WRITE, 0, 4096).cookie(1).bytes(),
        vec![5; 4096],
        Ask::new(READ, 0, 1).cookie(2).bytes(),
    ]
    .concat();
    let mut input = &bytes[..];
    for _ in 0..3 {
        let progress = link.session.receive(&mut input, &mut link.out);
        assert!(matches!(progress, Progress::NeedBuffer { pages: 1 }));
        assert_eq!(input.len(), bytes.len() - 28);
    }
    link.session.supply(pool.dirty(1));
    let mut cookies = Vec::new();
    while let Progress::Request(request) = link.session.receive(&mut input, &mut link.out) {
        cookies.push(request.responder.cookie().get());
    }
    assert_eq!(cookies, [1, 2]);
    assert!(input.is_empty());
}

#[test]
fn memory_is_counted_in_whole_blocks() {
    let mut link = Link::structured();
    for (ask, want) in [
        (Ask::new(READ, 4095, 2), 8192),
        (Ask::new(TRIM, 0, 1 << 20), 0),
        (Ask::new(FLUSH, 0, 0), 0),
    ] {
        assert_eq!(link.request(ask).command.memory_bytes(), want);
    }
}

#[test]
fn the_payload_of_a_refused_write_is_skipped_and_the_stream_goes_on() {
    let (perm, inval, nospace, shutdown) = (1, 22, 28, 108);
    let mut closing = Link::structured();
    closing.session.shut_down();
    for (mut link, ask, want) in [
        (Link::structured(), Ask::new(WRITE, 0, MIB32 + 1), inval),
        (Link::structured(), Ask::new(WRITE, GIB - 10, 20), nospace),
        (Link::structured(), Ask::new(WRITE, u64::MAX, 20), nospace),
        (
            Link::structured(),
            Ask::new(WRITE, 0, 512).flags(NO_HOLE),
            inval,
        ),
        (
            Link::structured(),
            Ask::new(WRITE, 0, 512).flags(PAYLOAD_LEN),
            inval,
        ),
        (Link::simple(), Ask::new(WRITE, 0, MIB32 * 4), inval),
        (Link::read_only(), Ask::new(WRITE, 0, 4096), perm),
        (closing, Ask::new(WRITE, 0, 4096), shutdown),
    ] {
        assert!(matches!(link.hear(&ask.bytes()), Progress::NeedInput));
        assert!(link.session.payload_space().is_none());
        let mut left = usize::try_from(ask.length).unwrap();
        while left > 0 {
            assert!(link.out.is_empty(), "answered after the payload");
            let piece = left.min(1 << 20);
            assert!(matches!(link.hear(&vec![9; piece]), Progress::NeedInput));
            left -= piece;
        }
        assert_eq!(only_error(&drain(&mut link.out)).0, want, "{ask:?}");
        let next = link.hear(&Ask::new(DISC, 0, 0).bytes());
        assert!(matches!(next, Progress::Disconnected));
    }
}

#[test]
fn a_stream_that_cannot_go_on_ends() {
    let cases = [
        (
            Ask::new(WRITE, 0, u32::MAX).bytes(),
            SessionError::PayloadTooLong { length: u32::MAX },
        ),
        (vec![0x12; 28], SessionError::BadMagic(0x1212_1212)),
    ];
    for (bytes, want) in cases {
        let mut link = Link::structured();
        for bytes in [&bytes[..], &[]] {
            match link.hear(bytes) {
                Progress::Broken(error) => assert_eq!(error, want),
                other => panic!("{other:?}"),
            }
        }
        assert!(link.out.is_empty());
    }
}

#[test]
fn goodbye_has_no_reply() {
    let mut link = Link::simple();
    // Whatever its other fields say.
    let ask = Ask::new(DISC, 7, 7).flags(0xff);
    assert!(matches!(link.hear(&ask.bytes()), Progress::Disconnected));
    assert!(matches!(link.hear(&[]), Progress::Disconnected));
    assert!(link.out.is_empty());
}

#[test]
fn a_shutdown_answers_what_comes_and_keeps_what_came() {
    let mut link = Link::structured();
    let early = link.request(Ask::new(READ, 0, 512));
    let coming = link.hear(&Ask::new(WRITE, 0, 4096).bytes());
    assert!(matches!(coming, Progress::NeedBuffer { pages: 1 }));
    link.session.shut_down();
    link.session.supply(PageBuf::zeroed(1));
    let Progress::Request(write) = link.hear(&[1; 4096]) else {
        panic!("the write was accepted before");
    };
    for command in [READ, TRIM, WRITE_ZEROES, CACHE, BLOCK_STATUS, 99] {
        assert_eq!(link.refusal(Ask::new(command, 0, 512)), 108, "{command}");
    }
    assert_eq!(link.refusal(Ask::new(FLUSH, 0, 0)), 108);
    write.responder.done(&mut link.out).unwrap();
    early
        .responder
        .fail(NbdError::Shutdown, "the primary moved to s2", &mut link.out);
    assert!(!link.out.is_empty());
}

#[test]
fn headers_may_come_byte_by_byte() {
    let mut link = Link::structured();
    let bytes = Ask::new(READ, 512, 512).bytes();
    for (n, byte) in bytes.iter().enumerate() {
        assert_eq!(link.session.header_bytes_missing(), 28 - n);
        match link.hear(&[*byte]) {
            Progress::NeedInput => assert!(n < 27),
            Progress::Request(_) => assert_eq!(n, 27),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
#[should_panic(expected = "the buffer holds the blocks of the write")]
fn a_buffer_of_another_size_is_a_mistake() {
    let mut link = Link::structured();
    let progress = link.hear(&Ask::new(WRITE, 4095, 2).bytes());
    assert!(matches!(progress, Progress::NeedBuffer { pages: 2 }));
    link.session.supply(PageBuf::zeroed(1));
}
