//! Answers to options: what the server says about its exports, and how replies are laid out.

use bytes::Bytes;

use super::ReplyStyle;
use crate::{
    export::{Export, Exports, Lookup},
    limits::Limits,
    option::{self, OptionFault},
    outgoing::Outgoing,
    protocol::{
        BASE_ALLOCATION, MINIMUM_BLOCK_BYTES, PREFERRED_BLOCK_BYTES, STRING_BYTES_MAX, info_type,
        magic, option_code, option_reply,
    },
};

/// What the options are answered from.
pub(super) struct Server<'a> {
    pub(super) limits: &'a Limits,
    pub(super) welcome: Welcome,
    pub(super) exports: &'a dyn Exports,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Welcome {
    Open,
    ShuttingDown,
}

pub(super) fn no_data(data: &[u8]) -> Result<(), OptionFault> {
    if data.is_empty() {
        Ok(())
    } else {
        Err(OptionFault::DataNotTaken)
    }
}

pub(super) fn list(
    server: &Server<'_>,
    data: &[u8],
    out: &mut Outgoing,
) -> Result<(), OptionFault> {
    const OPTION: u32 = option_code::LIST;
    no_data(data)?;
    for export in server.exports.list() {
        let name = clipped(&export.name);
        let name_bytes = u32::try_from(name.len()).expect("clipped to 4096 bytes");
        reply(
            out,
            OPTION,
            option_reply::SERVER,
            &[
                &name_bytes.to_be_bytes(),
                name.as_bytes(),
                clipped(&export.description).as_bytes(),
            ],
        );
    }
    reply(out, OPTION, option_reply::ACK, &[]);
    Ok(())
}

pub(super) fn start_tls(data: &[u8], out: &mut Outgoing) -> Result<(), OptionFault> {
    no_data(data)?;
    reply_error(
        out,
        option_code::STARTTLS,
        option_reply::ERR_UNSUP,
        "TLS is not supported",
    );
    Ok(())
}

/// Answers INFO or GO; the export, when the answer is a success.
pub(super) fn info(
    server: &Server<'_>,
    replies: ReplyStyle,
    option: u32,
    data: &[u8],
    out: &mut Outgoing,
) -> Result<Option<Export>, OptionFault> {
    let name = option::parse_info(data)?;
    let Some(export) = found(server, option, name, out) else {
        return Ok(None);
    };
    let mut send = |kind: u16, payload: &[&[u8]]| {
        let kind = kind.to_be_bytes();
        let parts: Vec<&[u8]> = std::iter::once(&kind[..])
            .chain(payload.iter().copied())
            .collect();
        reply(out, option, option_reply::INFO, &parts);
    };
    send(
        info_type::EXPORT,
        &[
            &export.size_bytes.to_be_bytes(),
            &export.transmission_flags(replies).to_be_bytes(),
        ],
    );
    send(
        info_type::BLOCK_SIZE,
        &[
            &MINIMUM_BLOCK_BYTES.to_be_bytes(),
            &PREFERRED_BLOCK_BYTES.to_be_bytes(),
            &server.limits.request_bytes_max.to_be_bytes(),
        ],
    );
    send(info_type::NAME, &[clipped(&export.name).as_bytes()]);
    if !export.description.is_empty() {
        let description = clipped(&export.description).as_bytes();
        send(info_type::DESCRIPTION, &[description]);
    }
    reply(out, option, option_reply::ACK, &[]);
    Ok(Some(export))
}

/// The export called `name`; otherwise `option` is answered with why there is none.
pub(super) fn found(
    server: &Server<'_>,
    option: u32,
    name: &str,
    out: &mut Outgoing,
) -> Option<Export> {
    let (code, message) = match server.exports.find(name) {
        Lookup::Found(export) => return Some(export),
        // "Unknown" rather than "shutdown": a client that has the address of another server goes on
        // to it, and one that waits for a failover comes back.
        Lookup::Elsewhere { message } => (option_reply::ERR_UNKNOWN, message),
        Lookup::Unknown => (
            option_reply::ERR_UNKNOWN,
            format!("no export is called {name:?}"),
        ),
        Lookup::Refused { message } => (option_reply::ERR_POLICY, message),
        Lookup::ShuttingDown => (
            option_reply::ERR_SHUTDOWN,
            "server is shutting down".to_owned(),
        ),
    };
    reply_error(out, option, code, &message);
    None
}

pub(super) fn reply_context(out: &mut Outgoing, option: u32, id: u32) {
    reply(
        out,
        option,
        option_reply::META_CONTEXT,
        &[&id.to_be_bytes(), BASE_ALLOCATION.as_bytes()],
    );
}

pub(super) fn reply_error(out: &mut Outgoing, option: u32, code: u32, message: &str) {
    reply(out, option, code, &[clipped(message).as_bytes()]);
}

/// Encodes one reply to an option.
pub(super) fn reply(out: &mut Outgoing, option: u32, code: u32, payload: &[&[u8]]) {
    let length: usize = payload.iter().map(|part| part.len()).sum();
    let length = u32::try_from(length).expect("at most two strings of 4096 bytes");
    out.copy(&magic::OPTION_REPLY.to_be_bytes());
    out.copy(&option.to_be_bytes());
    out.copy(&code.to_be_bytes());
    out.copy(&length.to_be_bytes());
    for part in payload {
        if part.len() <= 64 {
            out.copy(part);
        } else {
            out.share(Bytes::copy_from_slice(part));
        }
    }
}

/// As much of `text` as fits a string of the protocol, cut between characters.
pub(crate) fn clipped(text: &str) -> &str {
    &text[..text.floor_char_boundary(STRING_BYTES_MAX)]
}
