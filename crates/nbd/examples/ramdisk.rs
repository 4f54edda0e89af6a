//! Serves a disk in memory over NBD: how the machines are driven, and something for stock clients.
//!
//! ```text
//! cargo run -p moorline-nbd --example ramdisk -- 127.0.0.1:10809 1073741824
//! nbdinfo nbd://127.0.0.1/ram
//! ```
//!
//! A thread per connection. A third argument is how many bytes are read from the socket at once (65536);
//! with 28, the length of a header, every payload is read in place.

use std::{
    collections::BTreeMap,
    io::{self, IoSlice, Read, Write},
    net::{TcpListener, TcpStream},
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use bytes::Buf;
use moorline_nbd::{
    Access, Command, Export, Exports, Extent, ExtentState, Handshake, HandshakeProgress, Limits,
    ListedExport, Lookup, MultiConn, Negotiated, Outgoing, Progress, ReadSegment, Request, Session,
    Span, WritePayload,
};
use moorline_types::{BLOCK_SIZE, BufferPool, Payload};

const NAME: &str = "ram";

/// The blocks that were ever written, each shared with whoever reads it.
struct Disk {
    size_bytes: u64,
    blocks: Mutex<BTreeMap<u64, Payload>>,
    pool: BufferPool,
}

impl Exports for Disk {
    fn find(&self, name: &str) -> Lookup {
        if name != NAME && !name.is_empty() {
            return Lookup::Unknown;
        }
        Lookup::Found(Export {
            name: NAME.to_owned(),
            description: "a disk in memory".to_owned(),
            size_bytes: self.size_bytes,
            access: Access::ReadWrite,
            multi_conn: MultiConn::Shared,
        })
    }

    fn list(&self) -> Vec<ListedExport> {
        vec![ListedExport {
            name: NAME.to_owned(),
            description: "a disk in memory".to_owned(),
        }]
    }
}

/// The part `[start, end)` of `span` in each of its blocks, as offsets in the block.
fn parts(span: Span) -> impl Iterator<Item = (u64, usize, usize)> {
    span.blocks().iter().map(move |block| {
        let base = block.byte_offset();
        let start = span.offset().saturating_sub(base);
        let end = (span.end() - base).min(BLOCK_SIZE as u64);
        let narrow = |n| usize::try_from(n).expect("inside a block");
        (block.get(), narrow(start), narrow(end))
    })
}

impl Disk {
    fn blocks(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Payload>> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, span: Span) -> Vec<ReadSegment> {
        let blocks = self.blocks();
        parts(span)
            .map(|(block, start, end)| match blocks.get(&block) {
                Some(payload) => ReadSegment::Data(payload.bytes().slice(start..end)),
                None => ReadSegment::Zeroes(u32::try_from(end - start).expect("inside a block")),
            })
            .collect()
    }

    fn write(&self, span: Span, payload: WritePayload) {
        let mut blocks = self.blocks();
        let written = payload.written();
        let mut buffer = payload.into_buffer();
        let mut complete = |block: u64, at: usize, keep: std::ops::Range<usize>| {
            if let Some(old) = blocks.get(&block) {
                buffer.as_mut_slice()[at..][keep.clone()].copy_from_slice(&old.as_slice()[keep]);
            }
        };
        let range = span.blocks();
        complete(range.first().get(), 0, 0..written.start);
        let last = usize::try_from(range.count() - 1).expect("fits memory") * BLOCK_SIZE;
        complete(range.end().get() - 1, last, written.end - last..BLOCK_SIZE);
        let payload = buffer.freeze();
        for (n, block) in range.iter().enumerate() {
            blocks.insert(block.get(), payload.slice_blocks(n, 1));
        }
    }

    fn zero(&self, span: Span) {
        let mut blocks = self.blocks();
        for (block, start, end) in parts(span) {
            if (start, end) == (0, BLOCK_SIZE) {
                blocks.remove(&block);
            } else if let Some(old) = blocks.get(&block) {
                let mut buffer = self.pool.dirty(1);
                buffer.as_mut_slice().copy_from_slice(old.as_slice());
                buffer.as_mut_slice()[start..end].fill(0);
                blocks.insert(block, buffer.freeze());
            }
        }
    }

    fn extents(&self, span: Span) -> Vec<Extent> {
        let blocks = self.blocks();
        parts(span)
            .map(|(block, start, end)| Extent {
                length_bytes: (end - start) as u64,
                state: if blocks.contains_key(&block) {
                    ExtentState::Data
                } else {
                    ExtentState::Hole
                },
            })
            .collect()
    }

    fn serve(&self, request: Request, out: &mut Outgoing) {
        let Request { command, responder } = request;
        let outcome = match command {
            Command::Read(span) => responder.read(&self.read(span), out),
            Command::BlockStatus { span, .. } => responder.extents(self.extents(span), out),
            Command::Write { span, payload, .. } => {
                self.write(span, payload);
                responder.done(out)
            }
            Command::WriteZeroes { span, .. } | Command::Trim { span, .. } => {
                self.zero(span);
                responder.done(out)
            }
            Command::Flush | Command::Cache(_) => responder.done(out),
        };
        outcome.expect("each command gets its kind of answer");
    }
}

fn send(socket: &mut TcpStream, out: &mut Outgoing) -> io::Result<()> {
    while out.has_remaining() {
        let mut slices = [IoSlice::new(&[]); 64];
        let filled = out.chunks_vectored(&mut slices);
        let sent = socket.write_vectored(&slices[..filled])?;
        out.advance(sent);
    }
    Ok(())
}

/// Serves one connection to its end.
fn connection(mut socket: TcpStream, disk: &Disk, read_bytes: usize) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut out = Outgoing::new();
    let mut handshake = Handshake::start(Limits::default(), &mut out);
    let mut memory = vec![0; read_bytes];
    let mut input = &memory[..0];
    loop {
        let progress = handshake.receive(&mut input, disk, &mut out);
        send(&mut socket, &mut out)?;
        match progress {
            HandshakeProgress::Answered => {}
            HandshakeProgress::NeedInput => {
                let count = socket.read(&mut memory)?;
                if count == 0 {
                    return Ok(());
                }
                input = &memory[..count];
            }
            HandshakeProgress::Agreed(negotiated) => {
                let rest = input.to_vec();
                return transmission(&mut socket, disk, *negotiated, &rest, &mut memory);
            }
            HandshakeProgress::Aborted => return Ok(()),
            HandshakeProgress::Refused(error) => {
                eprintln!("handshake: {error}");
                return Ok(());
            }
        }
    }
}

fn transmission(
    socket: &mut TcpStream,
    disk: &Disk,
    negotiated: Negotiated,
    rest: &[u8],
    memory: &mut [u8],
) -> io::Result<()> {
    let mut session = Session::new(negotiated, Limits::default());
    let mut out = Outgoing::new();
    let mut left = rest.to_vec();
    let mut input = &left[..];
    loop {
        match session.receive(&mut input, &mut out) {
            Progress::Request(request) => disk.serve(request, &mut out),
            Progress::NeedBuffer { pages } => session.supply(disk.pool.dirty(pages)),
            Progress::NeedInput => {
                send(socket, &mut out)?;
                while let Some(space) = session.payload_space() {
                    let count = socket.read(space)?;
                    if count == 0 {
                        return Ok(());
                    }
                    if let Some(request) = session.payload_filled(count) {
                        disk.serve(request, &mut out);
                    }
                }
                send(socket, &mut out)?;
                let count = socket.read(memory)?;
                if count == 0 {
                    return Ok(());
                }
                left.clear();
                left.extend_from_slice(&memory[..count]);
                input = &left;
            }
            Progress::Disconnected => return send(socket, &mut out),
            Progress::Broken(error) => {
                eprintln!("session: {error}");
                return send(socket, &mut out);
            }
        }
    }
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:10809".to_owned());
    let size_bytes = args.next().map_or(Ok(1 << 30), |size| size.parse());
    let read_bytes = args.next().map_or(Ok(64 << 10), |size| size.parse());
    let (Ok(size_bytes), Ok(read_bytes)) = (size_bytes, read_bytes) else {
        eprintln!("usage: ramdisk [ADDRESS [SIZE_BYTES [READ_BYTES]]]");
        return ExitCode::from(2);
    };
    let listener = match TcpListener::bind(&address) {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("cannot listen on {address}: {error}");
            return ExitCode::FAILURE;
        }
    };
    let disk = Arc::new(Disk {
        size_bytes,
        blocks: Mutex::default(),
        pool: BufferPool::new(),
    });
    println!("serving {size_bytes} bytes at nbd://{address}/{NAME}");
    for socket in listener.incoming().flatten() {
        let disk = Arc::clone(&disk);
        thread::spawn(move || {
            if let Err(error) = connection(socket, &disk, read_bytes) {
                eprintln!("connection: {error}");
            }
        });
    }
    ExitCode::SUCCESS
}
