//! The handshake: greeting, client flags, options, until both sides agree on an export.
//!
//! ```text
//!  Greeting ──client flags──> Haggling ──EXPORT_NAME, GO──> Over (Agreed)
//!     │                       │  header -> data -> answer, again
//!     │                       │  header -> skip too long data -> error, again
//!     └──────> Over <─────────┴── ABORT, or what has no error reply
//! ```
//!
//! Options that fail are answered and the haggling goes on. The connection ends only where the
//! protocol has no reply: EXPORT_NAME for what is not here, unknown client flags, a lost frame.

mod answer;

pub(crate) use self::answer::clipped;
use self::answer::{Server, Welcome};
use crate::{
    error::HandshakeError,
    export::{Export, Exports, Lookup},
    gather::{Gather, skip},
    limits::Limits,
    option::{self, OptionFault},
    outgoing::Outgoing,
    protocol::{
        BASE_ALLOCATION, BASE_ALLOCATION_ID, EXPORT_NAME_PADDING, handshake_flag, magic,
        option_code, option_reply,
    },
};

/// How replies look in the transmission phase.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReplyStyle {
    /// A number, and data after it.
    Simple,
    /// Chunks: errors carry messages, and reads may have holes.
    Structured,
}

/// Which metadata contexts BLOCK_STATUS reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Contexts {
    /// None: BLOCK_STATUS is answered with EINVAL.
    Unselected,
    /// `base:allocation`.
    BaseAllocation,
}

/// What both sides agreed on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Negotiated {
    /// The export.
    pub export: Export,
    /// How replies look.
    pub replies: ReplyStyle,
    /// What BLOCK_STATUS reports.
    pub contexts: Contexts,
}

/// Where a handshake stands after some input.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use]
pub enum HandshakeProgress {
    /// All input was taken; more is needed.
    NeedInput,
    /// An option was answered: send that, then come back with what is left of the input.
    ///
    /// One at a time, because a client that does not wait for answers could else fill our memory
    /// with them.
    Answered,
    /// The transmission phase has begun; what is left of the input belongs to it.
    Agreed(Box<Negotiated>),
    /// The client is done with us: send what is there, then close.
    Aborted,
    /// There is no way on: send what is there, then close.
    Refused(HandshakeError),
}

/// One connection's handshake, server side.
#[derive(Debug)]
pub struct Handshake {
    limits: Limits,
    state: State,
    welcome: Welcome,
}

#[derive(Debug)]
enum State {
    /// Waiting for the client's flags.
    Greeting(Gather<4>),
    Haggling(Haggle),
    Over,
}

#[derive(Debug)]
struct Haggle {
    client: ClientFlags,
    at: Position,
    options_seen: u32,
    replies: ReplyStyle,
    /// The canonical name of the export for which `base:allocation` was selected last.
    context_of: Option<String>,
}

#[derive(Clone, Copy, Debug)]
struct ClientFlags(u32);

impl ClientFlags {
    fn fixed_newstyle(self) -> bool {
        self.0 & handshake_flag::CLIENT_FIXED_NEWSTYLE != 0
    }

    fn no_zeroes(self) -> bool {
        self.0 & handshake_flag::CLIENT_NO_ZEROES != 0
    }
}

/// Where in the stream of options the input is.
#[derive(Debug)]
enum Position {
    Header(Gather<16>),
    Data {
        option: u32,
        left: usize,
        data: Vec<u8>,
    },
    /// Inside data that is too long to be looked at.
    Skipping {
        option: u32,
        left: u32,
    },
}

/// What one step through the input did.
enum Step {
    Starved,
    Again,
    Answered,
    Finished(HandshakeProgress),
}

impl Step {
    fn refused(error: HandshakeError) -> Self {
        Self::Finished(HandshakeProgress::Refused(error))
    }
}

impl Handshake {
    /// Begins a handshake: the greeting is put into `out`.
    ///
    /// # Panics
    ///
    /// If `limits` contradict themselves; see [`Limits::assert_sound`].
    #[must_use]
    pub fn start(limits: Limits, out: &mut Outgoing) -> Self {
        limits.assert_sound();
        out.copy(&magic::SERVER.to_be_bytes());
        out.copy(&magic::OPTION.to_be_bytes());
        let flags = handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES;
        out.copy(&flags.to_be_bytes());
        Self {
            limits,
            state: State::Greeting(Gather::new()),
            welcome: Welcome::Open,
        }
    }

    /// From here on every option but ABORT is refused as "shutting down".
    pub fn shut_down(&mut self) {
        self.welcome = Welcome::ShuttingDown;
    }

    /// Takes bytes from the front of `input` and answers into `out`.
    ///
    /// Takes all of `input` unless it says otherwise. Call it again when there is more.
    pub fn receive(
        &mut self,
        input: &mut &[u8],
        exports: &dyn Exports,
        out: &mut Outgoing,
    ) -> HandshakeProgress {
        let server = Server {
            limits: &self.limits,
            welcome: self.welcome,
            exports,
        };
        loop {
            let step = match &mut self.state {
                State::Greeting(flags) => match flags.take(input) {
                    None => Step::Starved,
                    Some(flags) => match Haggle::begin(u32::from_be_bytes(flags)) {
                        Ok(haggle) => {
                            self.state = State::Haggling(haggle);
                            Step::Again
                        }
                        Err(error) => Step::refused(error),
                    },
                },
                State::Haggling(haggle) => haggle.step(&server, input, out),
                State::Over => Step::refused(HandshakeError::Over),
            };
            match step {
                Step::Again => {}
                Step::Starved => return HandshakeProgress::NeedInput,
                Step::Answered => return HandshakeProgress::Answered,
                Step::Finished(progress) => {
                    self.state = State::Over;
                    return progress;
                }
            }
        }
    }
}

impl Haggle {
    fn begin(flags: u32) -> Result<Self, HandshakeError> {
        let known = handshake_flag::CLIENT_FIXED_NEWSTYLE | handshake_flag::CLIENT_NO_ZEROES;
        if flags & !known != 0 {
            return Err(HandshakeError::UnknownClientFlags(flags));
        }
        Ok(Self {
            client: ClientFlags(flags),
            at: Position::Header(Gather::new()),
            options_seen: 0,
            replies: ReplyStyle::Simple,
            context_of: None,
        })
    }

    fn step(&mut self, server: &Server<'_>, input: &mut &[u8], out: &mut Outgoing) -> Step {
        match &mut self.at {
            Position::Header(header) => match header.take(input) {
                None => Step::Starved,
                Some(header) => self.begin_option(server.limits, &header),
            },
            Position::Data { option, left, data } => {
                let (taken, rest) = input.split_at((*left).min(input.len()));
                data.extend_from_slice(taken);
                *input = rest;
                *left -= taken.len();
                if *left > 0 {
                    return Step::Starved;
                }
                let (option, data) = (*option, std::mem::take(data));
                self.at = Position::Header(Gather::new());
                self.answer(server, option, &data, out)
            }
            Position::Skipping { option, left } => {
                *left = skip(input, *left);
                if *left > 0 {
                    return Step::Starved;
                }
                let option = *option;
                self.at = Position::Header(Gather::new());
                self.answer_skipped(server, option, out)
            }
        }
    }

    fn begin_option(&mut self, limits: &Limits, header: &[u8; 16]) -> Step {
        let [
            m0,
            m1,
            m2,
            m3,
            m4,
            m5,
            m6,
            m7,
            o0,
            o1,
            o2,
            o3,
            l0,
            l1,
            l2,
            l3,
        ] = *header;
        let found = u64::from_be_bytes([m0, m1, m2, m3, m4, m5, m6, m7]);
        let option = u32::from_be_bytes([o0, o1, o2, o3]);
        let length = u32::from_be_bytes([l0, l1, l2, l3]);
        if found != magic::OPTION {
            return Step::refused(HandshakeError::BadOptionMagic(found));
        }
        if !self.client.fixed_newstyle() && option != option_code::EXPORT_NAME {
            return Step::refused(HandshakeError::FixedNewstyleRequired(option));
        }
        self.options_seen += 1;
        if self.options_seen > limits.options_max {
            return Step::refused(HandshakeError::TooManyOptions(limits.options_max));
        }
        if length > limits.option_skip_bytes_max {
            return Step::refused(HandshakeError::OptionTooLong { option, length });
        }
        self.at = if length > limits.option_bytes_max {
            Position::Skipping {
                option,
                left: length,
            }
        } else {
            Position::Data {
                option,
                left: usize::try_from(length).expect("checked against the limit"),
                data: Vec::new(),
            }
        };
        Step::Again
    }

    fn answer(
        &mut self,
        server: &Server<'_>,
        option: u32,
        data: &[u8],
        out: &mut Outgoing,
    ) -> Step {
        match option {
            option_code::EXPORT_NAME => return self.export_name(server, data, out),
            option_code::ABORT => {
                answer::reply(out, option, option_reply::ACK, &[]);
                return Step::Finished(HandshakeProgress::Aborted);
            }
            _ => {}
        }
        if server.welcome == Welcome::ShuttingDown {
            answer::reply_error(
                out,
                option,
                option_reply::ERR_SHUTDOWN,
                "server is shutting down",
            );
            return Step::Answered;
        }
        let outcome = match option {
            option_code::LIST => answer::list(server, data, out),
            option_code::STARTTLS => answer::start_tls(data, out),
            option_code::INFO => answer::info(server, self.replies, option, data, out).map(|_| ()),
            option_code::GO => match answer::info(server, self.replies, option, data, out) {
                Ok(Some(export)) => return self.agree(export),
                Ok(None) => Ok(()),
                Err(fault) => Err(fault),
            },
            option_code::STRUCTURED_REPLY => self.structured_reply(data, out),
            option_code::LIST_META_CONTEXT => self.list_contexts(server, data, out),
            option_code::SET_META_CONTEXT => self.set_context(server, data, out),
            _ => {
                answer::reply_error(out, option, option_reply::ERR_UNSUP, "option is not known");
                Ok(())
            }
        };
        if let Err(fault) = outcome {
            answer::reply_error(out, option, fault.reply(), &fault.to_string());
        }
        Step::Answered
    }

    /// Answers an option whose data was too long to be kept.
    fn answer_skipped(&mut self, server: &Server<'_>, option: u32, out: &mut Outgoing) -> Step {
        let fault = match option {
            option_code::EXPORT_NAME => return Step::refused(HandshakeError::BadExportName),
            option_code::LIST | option_code::STARTTLS | option_code::STRUCTURED_REPLY => {
                OptionFault::DataNotTaken
            }
            option_code::SET_META_CONTEXT => {
                self.context_of = None;
                OptionFault::TooLong
            }
            option_code::INFO | option_code::GO | option_code::LIST_META_CONTEXT => {
                OptionFault::TooLong
            }
            // Their data does not matter: ABORT's is ignored, an unknown option's not understood.
            _ => return self.answer(server, option, &[], out),
        };
        if server.welcome == Welcome::ShuttingDown {
            return self.answer(server, option, &[], out);
        }
        answer::reply_error(out, option, fault.reply(), &fault.to_string());
        Step::Answered
    }

    fn export_name(&mut self, server: &Server<'_>, data: &[u8], out: &mut Outgoing) -> Step {
        if server.welcome == Welcome::ShuttingDown {
            return Step::refused(HandshakeError::ShuttingDown);
        }
        let Ok(name) = option::parse_string(data) else {
            return Step::refused(HandshakeError::BadExportName);
        };
        let export = match server.exports.find(name) {
            Lookup::Found(export) => export,
            Lookup::Elsewhere { .. } | Lookup::Unknown | Lookup::Refused { .. } => {
                return Step::refused(HandshakeError::ExportUnavailable);
            }
            Lookup::ShuttingDown => return Step::refused(HandshakeError::ShuttingDown),
        };
        out.copy(&export.size_bytes.to_be_bytes());
        out.copy(&export.transmission_flags(self.replies).to_be_bytes());
        if !self.client.no_zeroes() {
            out.copy(&EXPORT_NAME_PADDING);
        }
        self.agree(export)
    }

    /// Ends the haggling with an agreement on `export`.
    fn agree(&mut self, export: Export) -> Step {
        // A selection for another export does not count.
        let contexts = match &self.context_of {
            Some(name) if *name == export.name => Contexts::BaseAllocation,
            Some(_) | None => Contexts::Unselected,
        };
        Step::Finished(HandshakeProgress::Agreed(Box::new(Negotiated {
            export,
            replies: self.replies,
            contexts,
        })))
    }

    fn structured_reply(&mut self, data: &[u8], out: &mut Outgoing) -> Result<(), OptionFault> {
        answer::no_data(data)?;
        self.replies = ReplyStyle::Structured;
        answer::reply(out, option_code::STRUCTURED_REPLY, option_reply::ACK, &[]);
        Ok(())
    }

    fn list_contexts(
        &self,
        server: &Server<'_>,
        data: &[u8],
        out: &mut Outgoing,
    ) -> Result<(), OptionFault> {
        const OPTION: u32 = option_code::LIST_META_CONTEXT;
        let query = self.context_query(server, data)?;
        if answer::found(server, OPTION, query.export, out).is_none() {
            return Ok(());
        }
        let all = query.queries.is_empty();
        let named = |q: &&str| *q == BASE_ALLOCATION || *q == "base:";
        if all || query.queries.iter().any(named) {
            answer::reply_context(out, OPTION, 0);
        }
        answer::reply(out, OPTION, option_reply::ACK, &[]);
        Ok(())
    }

    fn set_context(
        &mut self,
        server: &Server<'_>,
        data: &[u8],
        out: &mut Outgoing,
    ) -> Result<(), OptionFault> {
        const OPTION: u32 = option_code::SET_META_CONTEXT;
        // What was selected before is replaced, also when this fails.
        self.context_of = None;
        let query = self.context_query(server, data)?;
        let Some(export) = answer::found(server, OPTION, query.export, out) else {
            return Ok(());
        };
        if query.queries.contains(&BASE_ALLOCATION) {
            self.context_of = Some(export.name);
            answer::reply_context(out, OPTION, BASE_ALLOCATION_ID);
        }
        answer::reply(out, OPTION, option_reply::ACK, &[]);
        Ok(())
    }

    fn context_query<'a>(
        &self,
        server: &Server<'_>,
        data: &'a [u8],
    ) -> Result<option::ContextQuery<'a>, OptionFault> {
        match self.replies {
            ReplyStyle::Structured => option::parse_contexts(data, server.limits.queries_max),
            ReplyStyle::Simple => Err(OptionFault::StructuredRepliesFirst),
        }
    }
}
