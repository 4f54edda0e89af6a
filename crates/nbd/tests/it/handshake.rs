//! Options, one by one.

use moorline_nbd::{
    Access, Contexts, Export, Exports, Handshake, HandshakeError, HandshakeProgress, Limits,
    ListedExport, Lookup, MultiConn, Outgoing, ReplyStyle,
};

use crate::client::*;

pub(crate) fn export(name: &str) -> Export {
    Export {
        name: name.to_owned(),
        description: "three replicas".to_owned(),
        size_bytes: 1 << 30,
        access: Access::ReadWrite,
        multi_conn: MultiConn::Shared,
    }
}

struct Cluster;

impl Exports for Cluster {
    fn find(&self, name: &str) -> Lookup {
        match name {
            "" | "demo" => Lookup::Found(export("demo")),
            "quiet" => Lookup::Found(Export {
                description: String::new(),
                access: Access::ReadOnly,
                multi_conn: MultiConn::Separate,
                ..export("quiet")
            }),
            "moved" => Lookup::Elsewhere {
                message: "the primary of moved is s2 at 10.0.0.2:10809".to_owned(),
            },
            "busy" => Lookup::Refused {
                message: "too many connections".to_owned(),
            },
            "closing" => Lookup::ShuttingDown,
            _ => Lookup::Unknown,
        }
    }

    fn list(&self) -> Vec<ListedExport> {
        ["demo", "quiet"]
            .map(|name| ListedExport {
                name: name.to_owned(),
                description: format!("about {name}"),
            })
            .to_vec()
    }
}

struct Talk {
    handshake: Handshake,
    out: Outgoing,
}

impl Talk {
    /// A client with these flags, after the greeting.
    fn with_flags(flags: u32) -> Self {
        let mut out = Outgoing::new();
        let limits = Limits {
            option_bytes_max: 8000,
            option_skip_bytes_max: 20_000,
            options_max: 20,
            queries_max: 3,
            ..Limits::default()
        };
        let mut talk = Self {
            handshake: Handshake::start(limits, &mut out),
            out,
        };
        assert_eq!(drain(&mut talk.out), b"NBDMAGICIHAVEOPT\x00\x03");
        assert_eq!(
            talk.hear(&flags.to_be_bytes()),
            HandshakeProgress::NeedInput
        );
        talk
    }

    fn fixed() -> Self {
        Self::with_flags(3)
    }

    fn structured() -> Self {
        let mut talk = Self::fixed();
        assert_eq!(talk.codes(OPT_STRUCTURED_REPLY, &[]), [REP_ACK]);
        talk
    }

    fn hear(&mut self, bytes: &[u8]) -> HandshakeProgress {
        let mut input = bytes;
        let mut progress = HandshakeProgress::Answered;
        while progress == HandshakeProgress::Answered {
            progress = self.handshake.receive(&mut input, &Cluster, &mut self.out);
        }
        let over = matches!(progress, HandshakeProgress::Refused(_));
        assert!(input.is_empty() || over, "all is taken");
        progress
    }

    /// The replies to one option that does not end the handshake.
    fn replies(&mut self, number: u32, data: &[u8]) -> Vec<OptionReply> {
        let progress = self.hear(&option(number, data));
        assert_eq!(progress, HandshakeProgress::NeedInput, "option {number}");
        let replies = option_replies(&drain(&mut self.out));
        assert!(replies.iter().all(|reply| reply.option == number));
        replies
    }

    fn codes(&mut self, number: u32, data: &[u8]) -> Vec<u32> {
        let replies = self.replies(number, data);
        replies.iter().map(|reply| reply.code).collect()
    }

    fn go(&mut self, name: &str) -> (ReplyStyle, Contexts) {
        match self.hear(&option(OPT_GO, &info(name, &[]))) {
            HandshakeProgress::Agreed(negotiated) => (negotiated.replies, negotiated.contexts),
            other => panic!("no agreement: {other:?}"),
        }
    }
}

fn refused(progress: &HandshakeProgress) -> HandshakeError {
    match progress {
        HandshakeProgress::Refused(error) => *error,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn every_option_is_answered_by_the_book() {
    let long = "n".repeat(4097);
    type Case<'a> = (&'a str, u32, Vec<u8>, &'a [u32]);
    let cases: &[Case<'_>] = &[
        ("list", OPT_LIST, vec![], &[REP_SERVER, REP_SERVER, REP_ACK]),
        ("list with data", OPT_LIST, vec![1], &[REP_ERR_INVALID]),
        ("tls", OPT_STARTTLS, vec![], &[REP_ERR_UNSUP]),
        ("tls with data", OPT_STARTTLS, vec![0], &[REP_ERR_INVALID]),
        ("structured", OPT_STRUCTURED_REPLY, vec![], &[REP_ACK]),
        (
            "structured with data",
            OPT_STRUCTURED_REPLY,
            vec![0],
            &[REP_ERR_INVALID],
        ),
        (
            "extended headers",
            OPT_EXTENDED_HEADERS,
            vec![],
            &[REP_ERR_UNSUP],
        ),
        ("peek, withdrawn", 4, vec![], &[REP_ERR_UNSUP]),
        ("unknown", 0x7fff_0000, vec![9; 100], &[REP_ERR_UNSUP]),
        ("unknown, skipped", 99, vec![9; 9000], &[REP_ERR_UNSUP]),
        ("list, skipped", OPT_LIST, vec![9; 9000], &[REP_ERR_INVALID]),
        ("go, skipped", OPT_GO, vec![9; 9000], &[REP_ERR_TOO_BIG]),
        (
            "contexts, skipped",
            OPT_SET_META_CONTEXT,
            vec![9; 9000],
            &[REP_ERR_TOO_BIG],
        ),
        (
            "info unknown",
            OPT_INFO,
            info("nosuch", &[]),
            &[REP_ERR_UNKNOWN],
        ),
        (
            "info moved",
            OPT_INFO,
            info("moved", &[]),
            &[REP_ERR_UNKNOWN],
        ),
        ("go moved", OPT_GO, info("moved", &[3]), &[REP_ERR_UNKNOWN]),
        ("go busy", OPT_GO, info("busy", &[]), &[REP_ERR_POLICY]),
        (
            "go closing",
            OPT_GO,
            info("closing", &[]),
            &[REP_ERR_SHUTDOWN],
        ),
        ("go empty", OPT_GO, vec![], &[REP_ERR_INVALID]),
        ("go short", OPT_GO, counted("demo"), &[REP_ERR_INVALID]),
        (
            "go lying name",
            OPT_GO,
            vec![0xff, 0xff, 0xff, 0xff, b'd'],
            &[REP_ERR_INVALID],
        ),
        (
            "go trailing",
            OPT_GO,
            [info("demo", &[]), vec![0]].concat(),
            &[REP_ERR_INVALID],
        ),
        (
            "go lying requests",
            OPT_GO,
            [counted("demo"), vec![0, 9]].concat(),
            &[REP_ERR_INVALID],
        ),
        ("go long name", OPT_GO, info(&long, &[]), &[REP_ERR_INVALID]),
        ("go NUL", OPT_GO, info("de\0mo", &[]), &[REP_ERR_INVALID]),
        (
            "go not UTF-8",
            OPT_GO,
            vec![0, 0, 0, 1, 0xff, 0, 0],
            &[REP_ERR_INVALID],
        ),
        (
            "list contexts too early",
            OPT_LIST_META_CONTEXT,
            contexts("demo", &[]),
            &[REP_ERR_INVALID],
        ),
        (
            "set contexts too early",
            OPT_SET_META_CONTEXT,
            contexts("demo", &[]),
            &[REP_ERR_INVALID],
        ),
    ];
    for (what, number, data, want) in cases {
        let mut talk = Talk::fixed();
        assert_eq!(talk.codes(*number, data), *want, "{what}");
        // Whatever it was, the haggling goes on.
        assert_eq!(talk.go("demo").1, Contexts::Unselected, "{what}");
    }
}

#[test]
fn contexts_are_listed_and_selected_by_the_book() {
    const C: u32 = REP_META_CONTEXT;
    let (list, set) = (OPT_LIST_META_CONTEXT, OPT_SET_META_CONTEXT);
    type Case<'a> = (u32, &'a str, &'a [&'a str], &'a [u32], Contexts);
    let cases: &[Case<'_>] = &[
        (list, "demo", &[], &[C, REP_ACK], Contexts::Unselected),
        (
            list,
            "demo",
            &["base:"],
            &[C, REP_ACK],
            Contexts::Unselected,
        ),
        (
            list,
            "demo",
            &["x-a:b", "base:allocation"],
            &[C, REP_ACK],
            Contexts::Unselected,
        ),
        (
            list,
            "demo",
            &["base:other", "qemu:"],
            &[REP_ACK],
            Contexts::Unselected,
        ),
        (
            list,
            "nosuch",
            &[],
            &[REP_ERR_UNKNOWN],
            Contexts::Unselected,
        ),
        (
            list,
            "demo",
            &["base"],
            &[REP_ERR_INVALID],
            Contexts::Unselected,
        ),
        (
            list,
            "demo",
            &["a:", "b:", "c:", "d:"],
            &[REP_ERR_TOO_BIG],
            Contexts::Unselected,
        ),
        (
            set,
            "demo",
            &["base:allocation"],
            &[C, REP_ACK],
            Contexts::BaseAllocation,
        ),
        (
            set,
            "",
            &["base:allocation"],
            &[C, REP_ACK],
            Contexts::BaseAllocation,
        ),
        (
            set,
            "demo",
            &["q:x", "base:allocation", "base:allocation"],
            &[C, REP_ACK],
            Contexts::BaseAllocation,
        ),
        (set, "demo", &[], &[REP_ACK], Contexts::Unselected),
        (set, "demo", &["base:"], &[REP_ACK], Contexts::Unselected), // no wildcard here
        (
            set,
            "demo",
            &["base:nosuch"],
            &[REP_ACK],
            Contexts::Unselected,
        ),
        (
            set,
            "demo",
            &["allocation"],
            &[REP_ERR_INVALID],
            Contexts::Unselected,
        ),
        (
            set,
            "moved",
            &["base:allocation"],
            &[REP_ERR_UNKNOWN],
            Contexts::Unselected,
        ),
        // Selected for one export, gone to another.
        (
            set,
            "quiet",
            &["base:allocation"],
            &[C, REP_ACK],
            Contexts::Unselected,
        ),
    ];
    for (number, name, queries, want, after) in cases {
        let mut talk = Talk::structured();
        let replies = talk.replies(*number, &contexts(name, queries));
        let codes: Vec<u32> = replies.iter().map(|reply| reply.code).collect();
        assert_eq!(codes, *want, "{number} {name} {queries:?}");
        if codes[0] == C {
            assert_eq!(replies[0].data[4..], *b"base:allocation");
        }
        assert_eq!(
            talk.go("demo"),
            (ReplyStyle::Structured, *after),
            "{queries:?}"
        );
    }
}

#[test]
fn a_selection_is_replaced_by_the_next_even_if_that_fails() {
    for second in [
        option(OPT_SET_META_CONTEXT, &contexts("demo", &[])),
        option(OPT_SET_META_CONTEXT, &[1]),
        option(OPT_SET_META_CONTEXT, &[1; 9000]),
    ] {
        let mut talk = Talk::structured();
        talk.replies(
            OPT_SET_META_CONTEXT,
            &contexts("demo", &["base:allocation"]),
        );
        assert_eq!(talk.hear(&second), HandshakeProgress::NeedInput);
        assert_eq!(talk.go("demo").1, Contexts::Unselected);
    }
}

#[test]
fn info_and_go_tell_size_flags_and_block_sizes() {
    // HAS_FLAGS FLUSH FUA TRIM WRITE_ZEROES MULTI_CONN CACHE FAST_ZERO; then with DF; then read-only.
    for (name, structured, flags) in [
        ("demo", false, 0x0d6d_u16),
        ("", true, 0x0ded),
        ("quiet", false, 0x040f),
    ] {
        let mut talk = if structured {
            Talk::structured()
        } else {
            Talk::fixed()
        };
        let asked = talk.replies(OPT_INFO, &info(name, &[0, 1, 2, 3, 77]));
        let HandshakeProgress::Agreed(agreed) = talk.hear(&option(OPT_GO, &info(name, &[0, 1])))
        else {
            panic!("no agreement");
        };
        let went = option_replies(&drain(&mut talk.out));
        let all = |replies: &[OptionReply]| -> Vec<(u32, Vec<u8>)> {
            replies.iter().map(|r| (r.code, r.data.clone())).collect()
        };
        assert_eq!(all(&asked), all(&went), "INFO and GO say the same");

        let canonical = if name.is_empty() { "demo" } else { name };
        assert_eq!(agreed.export.name, canonical);
        let size = (1_u64 << 30).to_be_bytes();
        let mut want = vec![
            (
                REP_INFO,
                [&[0, 0][..], &size, &flags.to_be_bytes()].concat(),
            ),
            (REP_INFO, vec![0, 3, 0, 0, 0, 1, 0, 0, 0x10, 0, 2, 0, 0, 0]),
            (REP_INFO, [&[0, 1][..], canonical.as_bytes()].concat()),
        ];
        if canonical == "demo" {
            want.push((REP_INFO, [&[0, 2][..], b"three replicas"].concat()));
        }
        want.push((REP_ACK, vec![]));
        assert_eq!(all(&asked), want, "{name}");
    }
}

#[test]
fn list_names_and_describes_every_export() {
    let replies = Talk::fixed().replies(OPT_LIST, &[]);
    let want = [counted("demo"), b"about demo".to_vec()].concat();
    assert_eq!(replies[0].data, want);
    assert!(replies[2].data.is_empty());
}

#[test]
fn refusals_carry_a_message_for_people() {
    let mut talk = Talk::fixed();
    let replies = talk.replies(OPT_GO, &info("moved", &[]));
    assert_eq!(
        replies[0].text(),
        "the primary of moved is s2 at 10.0.0.2:10809"
    );
    let replies = talk.replies(OPT_GO, &info("nosuch", &[]));
    assert_eq!(replies[0].text(), "no export is called \"nosuch\"");
    // A name that is quoted in a message does not make it longer than a string may be.
    let long = "\u{1}".repeat(4096);
    let replies = talk.replies(OPT_GO, &info(&long, &[]));
    assert!(replies[0].text().len() <= 4096);
}

#[test]
fn export_name_ends_the_haggling_with_or_without_padding() {
    for (flags, length) in [(0_u32, 134), (1, 134), (3, 10), (2, 10)] {
        let mut talk = Talk::with_flags(flags);
        let progress = talk.hear(&option(OPT_EXPORT_NAME, b"demo"));
        assert!(
            matches!(progress, HandshakeProgress::Agreed(_)),
            "{progress:?}"
        );
        let reply = drain(&mut talk.out);
        assert_eq!(reply.len(), length, "client flags {flags}");
        assert_eq!(reply[..8], (1_u64 << 30).to_be_bytes());
        assert_eq!(reply[8..10], [0x0d, 0x6d]);
        assert!(reply[10..].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn what_has_no_error_reply_ends_the_connection() {
    let name = |data: &[u8]| option(OPT_EXPORT_NAME, data);
    let cases = [
        (3, name(b"nosuch"), HandshakeError::ExportUnavailable),
        (3, name(b"moved"), HandshakeError::ExportUnavailable),
        (3, name(b"closing"), HandshakeError::ShuttingDown),
        (3, name(&[0xff]), HandshakeError::BadExportName),
        (3, name(&[b'n'; 4097]), HandshakeError::BadExportName),
        (3, name(&[b'n'; 9000]), HandshakeError::BadExportName),
        (
            0,
            option(OPT_LIST, &[]),
            HandshakeError::FixedNewstyleRequired(3),
        ),
        (
            2,
            option(OPT_GO, &info("demo", &[])),
            HandshakeError::FixedNewstyleRequired(7),
        ),
        (
            3,
            b"NBDMAGIC\0\0\0\x01\0\0\0\0".to_vec(),
            HandshakeError::BadOptionMagic(0x4e42_444d_4147_4943),
        ),
        (
            3,
            option_claiming(50, 20_001, &[]),
            HandshakeError::OptionTooLong {
                option: 50,
                length: 20_001,
            },
        ),
        (
            3,
            option_claiming(OPT_GO, u32::MAX, &[]),
            HandshakeError::OptionTooLong {
                option: OPT_GO,
                length: u32::MAX,
            },
        ),
    ];
    for (flags, bytes, want) in cases {
        let mut talk = Talk::with_flags(flags);
        assert_eq!(refused(&talk.hear(&bytes)), want);
        assert!(talk.out.is_empty());
        let mut more = &[1_u8, 2][..];
        let again = talk.handshake.receive(&mut more, &Cluster, &mut talk.out);
        assert_eq!(refused(&again), HandshakeError::Over);
    }
}

#[test]
fn unknown_client_flags_end_the_connection() {
    for flags in [4_u32, 7, 1 << 31] {
        let mut out = Outgoing::new();
        let mut handshake = Handshake::start(Limits::default(), &mut out);
        let bytes = flags.to_be_bytes();
        let progress = handshake.receive(&mut &bytes[..], &Cluster, &mut out);
        assert_eq!(
            refused(&progress),
            HandshakeError::UnknownClientFlags(flags)
        );
    }
}

#[test]
fn endless_haggling_is_ended() {
    let mut talk = Talk::fixed();
    for _ in 0..20 {
        assert_eq!(talk.codes(98, &[]), [REP_ERR_UNSUP]);
    }
    let progress = talk.hear(&option(98, &[]));
    assert_eq!(refused(&progress), HandshakeError::TooManyOptions(20));
}

#[test]
fn abort_is_acknowledged_whatever_comes_with_it() {
    for data in [&[][..], &[1; 10], &[1; 9000]] {
        let mut talk = Talk::fixed();
        assert_eq!(
            talk.hear(&option(OPT_ABORT, data)),
            HandshakeProgress::Aborted
        );
        let replies = option_replies(&drain(&mut talk.out));
        assert_eq!((replies.len(), replies[0].code), (1, REP_ACK));
    }
}

#[test]
fn during_a_shutdown_only_abort_succeeds() {
    let mut talk = Talk::fixed();
    talk.handshake.shut_down();
    for (number, data) in [
        (OPT_LIST, vec![]),
        (OPT_GO, info("demo", &[])),
        (OPT_GO, vec![0; 9000]),
        (OPT_STARTTLS, vec![]),
        (77, vec![]),
    ] {
        assert_eq!(talk.codes(number, &data), [REP_ERR_SHUTDOWN], "{number}");
    }
    assert_eq!(
        talk.hear(&option(OPT_ABORT, &[])),
        HandshakeProgress::Aborted
    );

    let mut talk = Talk::fixed();
    talk.handshake.shut_down();
    let progress = talk.hear(&option(OPT_EXPORT_NAME, b"demo"));
    assert_eq!(refused(&progress), HandshakeError::ShuttingDown);
}

#[test]
fn requests_sent_along_with_go_are_left_for_the_session() {
    let mut talk = Talk::fixed();
    let early = Ask::new(READ, 0, 512).bytes();
    let bytes = [option(OPT_GO, &info("demo", &[])), early.clone()].concat();
    let mut input = &bytes[..];
    let progress = talk.handshake.receive(&mut input, &Cluster, &mut talk.out);
    assert!(matches!(progress, HandshakeProgress::Agreed(_)));
    assert_eq!(input, early);
}

#[test]
fn options_that_do_not_wait_for_answers_are_answered_one_at_a_time() {
    let mut talk = Talk::fixed();
    let bytes = option(OPT_LIST, &[]).repeat(3);
    let mut input = &bytes[..];
    for left in [2, 1, 0] {
        let progress = talk.handshake.receive(&mut input, &Cluster, &mut talk.out);
        assert_eq!(progress, HandshakeProgress::Answered);
        assert_eq!(input.len(), left * 16);
        assert_eq!(option_replies(&drain(&mut talk.out)).len(), 3);
    }
}
