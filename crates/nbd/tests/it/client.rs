//! The client's half of the protocol, with its own copy of the numbers: it checks the server's.

use bytes::Buf;
use moorline_nbd::Outgoing;

pub(crate) const OPT_EXPORT_NAME: u32 = 1;
pub(crate) const OPT_ABORT: u32 = 2;
pub(crate) const OPT_LIST: u32 = 3;
pub(crate) const OPT_STARTTLS: u32 = 5;
pub(crate) const OPT_INFO: u32 = 6;
pub(crate) const OPT_GO: u32 = 7;
pub(crate) const OPT_STRUCTURED_REPLY: u32 = 8;
pub(crate) const OPT_LIST_META_CONTEXT: u32 = 9;
pub(crate) const OPT_SET_META_CONTEXT: u32 = 10;
pub(crate) const OPT_EXTENDED_HEADERS: u32 = 11;

pub(crate) const REP_ACK: u32 = 1;
pub(crate) const REP_SERVER: u32 = 2;
pub(crate) const REP_INFO: u32 = 3;
pub(crate) const REP_META_CONTEXT: u32 = 4;
pub(crate) const REP_ERR_UNSUP: u32 = 0x8000_0001;
pub(crate) const REP_ERR_POLICY: u32 = 0x8000_0002;
pub(crate) const REP_ERR_INVALID: u32 = 0x8000_0003;
pub(crate) const REP_ERR_UNKNOWN: u32 = 0x8000_0006;
pub(crate) const REP_ERR_SHUTDOWN: u32 = 0x8000_0007;
pub(crate) const REP_ERR_TOO_BIG: u32 = 0x8000_0009;

pub(crate) const READ: u16 = 0;
pub(crate) const WRITE: u16 = 1;
pub(crate) const DISC: u16 = 2;
pub(crate) const FLUSH: u16 = 3;
pub(crate) const TRIM: u16 = 4;
pub(crate) const CACHE: u16 = 5;
pub(crate) const WRITE_ZEROES: u16 = 6;
pub(crate) const BLOCK_STATUS: u16 = 7;

pub(crate) const FUA: u16 = 1;
pub(crate) const NO_HOLE: u16 = 2;
pub(crate) const DF: u16 = 4;
pub(crate) const REQ_ONE: u16 = 8;
pub(crate) const FAST_ZERO: u16 = 16;
pub(crate) const PAYLOAD_LEN: u16 = 32;

pub(crate) const CHUNK_NONE: u16 = 0;
pub(crate) const CHUNK_DATA: u16 = 1;
pub(crate) const CHUNK_HOLE: u16 = 2;
pub(crate) const CHUNK_BLOCK_STATUS: u16 = 5;
pub(crate) const CHUNK_ERROR: u16 = 0x8001;
pub(crate) const CHUNK_ERROR_OFFSET: u16 = 0x8002;

/// Everything that is on its way to the client.
pub(crate) fn drain(out: &mut Outgoing) -> Vec<u8> {
    let count = out.remaining();
    out.copy_to_bytes(count).to_vec()
}

pub(crate) fn option(option: u32, data: &[u8]) -> Vec<u8> {
    option_claiming(option, u32::try_from(data.len()).unwrap(), data)
}

pub(crate) fn option_claiming(option: u32, length: u32, data: &[u8]) -> Vec<u8> {
    [
        &b"IHAVEOPT"[..],
        &option.to_be_bytes(),
        &length.to_be_bytes(),
        data,
    ]
    .concat()
}

pub(crate) fn counted(text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len()).unwrap().to_be_bytes();
    [&length[..], text.as_bytes()].concat()
}

/// The data of INFO and GO.
pub(crate) fn info(name: &str, requests: &[u16]) -> Vec<u8> {
    let count = u16::try_from(requests.len()).unwrap().to_be_bytes();
    let requests: Vec<u8> = requests.iter().flat_map(|r| r.to_be_bytes()).collect();
    [counted(name), count.to_vec(), requests].concat()
}

/// The data of LIST_META_CONTEXT and SET_META_CONTEXT.
pub(crate) fn contexts(name: &str, queries: &[&str]) -> Vec<u8> {
    let count = u32::try_from(queries.len()).unwrap().to_be_bytes();
    let queries: Vec<u8> = queries.iter().flat_map(|q| counted(q)).collect();
    [counted(name), count.to_vec(), queries].concat()
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct OptionReply {
    pub(crate) option: u32,
    pub(crate) code: u32,
    pub(crate) data: Vec<u8>,
}

impl OptionReply {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.data).unwrap()
    }
}

/// Decodes replies to options; all of `bytes` has to be replies.
pub(crate) fn option_replies(mut bytes: &[u8]) -> Vec<OptionReply> {
    let mut replies = Vec::new();
    while !bytes.is_empty() {
        assert_eq!(bytes.get_u64(), 0x0003_e889_0455_65a9);
        let (option, code) = (bytes.get_u32(), bytes.get_u32());
        let length = usize::try_from(bytes.get_u32()).unwrap();
        let (data, rest) = bytes.split_at(length);
        bytes = rest;
        replies.push(OptionReply {
            option,
            code,
            data: data.to_vec(),
        });
    }
    replies
}

/// One request's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ask {
    pub(crate) flags: u16,
    pub(crate) command: u16,
    pub(crate) cookie: u64,
    pub(crate) offset: u64,
    pub(crate) length: u32,
}

impl Ask {
    pub(crate) fn new(command: u16, offset: u64, length: u32) -> Self {
        Self {
            flags: 0,
            command,
            cookie: 0x1122_3344_5566_7788,
            offset,
            length,
        }
    }

    pub(crate) fn flags(self, flags: u16) -> Self {
        Self { flags, ..self }
    }

    pub(crate) fn cookie(self, cookie: u64) -> Self {
        Self { cookie, ..self }
    }

    pub(crate) fn bytes(self) -> Vec<u8> {
        [
            &0x2560_9513_u32.to_be_bytes()[..],
            &self.flags.to_be_bytes(),
            &self.command.to_be_bytes(),
            &self.cookie.to_be_bytes(),
            &self.offset.to_be_bytes(),
            &self.length.to_be_bytes(),
        ]
        .concat()
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Reply {
    Simple {
        error: u32,
        cookie: u64,
    },
    Chunk {
        done: bool,
        kind: u16,
        cookie: u64,
        payload: Vec<u8>,
    },
}

/// Decodes replies without data after simple ones; all of `bytes` has to be replies.
pub(crate) fn replies(mut bytes: &[u8]) -> Vec<Reply> {
    let mut replies = Vec::new();
    while !bytes.is_empty() {
        let reply = match bytes.get_u32() {
            0x6744_6698 => Reply::Simple {
                error: bytes.get_u32(),
                cookie: bytes.get_u64(),
            },
            0x668e_33ef => {
                let flags = bytes.get_u16();
                assert!(flags <= 1, "flags {flags}");
                let (kind, cookie) = (bytes.get_u16(), bytes.get_u64());
                let length = usize::try_from(bytes.get_u32()).unwrap();
                let (payload, rest) = bytes.split_at(length);
                bytes = rest;
                Reply::Chunk {
                    done: flags == 1,
                    kind,
                    cookie,
                    payload: payload.to_vec(),
                }
            }
            other => panic!("no reply begins with {other:#x}"),
        };
        replies.push(reply);
    }
    replies
}

/// The error of a reply that is one error and nothing else: its number and its message.
pub(crate) fn only_error(bytes: &[u8]) -> (u32, String) {
    match replies(bytes).as_slice() {
        [Reply::Simple { error, .. }] => (*error, String::new()),
        [
            Reply::Chunk {
                done: true,
                kind: CHUNK_ERROR,
                payload,
                ..
            },
        ] => {
            let mut payload = &payload[..];
            let error = payload.get_u32();
            assert_eq!(usize::from(payload.get_u16()), payload.len());
            (error, String::from_utf8(payload.to_vec()).unwrap())
        }
        other => panic!("not one error: {other:?}"),
    }
}
