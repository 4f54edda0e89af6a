//! Clients over real sockets, with a test in the node's place.

use std::future::poll_fn;

use moorline_types::ServerId;
use moorline_volume::client::{ClientError, ClientOp, ReadPiece};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use super::*;

const VOLUME: VolumeId = VolumeId::new(7);
const SIZE: u64 = 1 << 20;

const WRITE: u16 = 1;
const READ: u16 = 0;
const DISC: u16 = 2;
const CACHE: u16 = 5;

/// A front and what it told the node.
struct Stage {
    front: NbdFront,
    list: Arc<ReadyList>,
    events: Vec<Event>,
    now: Instant,
}

impl Stage {
    fn new(limits: NbdLimits) -> Self {
        let list = Arc::new(ReadyList::default());
        let mut front = NbdFront::new(limits, BufferPool::new(), Arc::clone(&list), None);
        front.set_export(
            VOLUME,
            "demo".to_owned(),
            ExportState::Serving { bytes: SIZE },
            &mut |_| (),
        );
        Self {
            front,
            list,
            events: Vec::new(),
            now: Instant::from_nanos(1),
        }
    }

    fn visit(&mut self) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        self.front.visit(self.now, Visitor(Socket::Unix(ours)));
        theirs
    }

    /// Lets the front turn for as long as `until` waits for it.
    async fn while_waiting<T>(&mut self, until: impl Future<Output = T>) -> T {
        let mut until = Box::pin(until);
        poll_fn(|cx| {
            self.list.set_driver(cx.waker());
            let mut ready = Vec::new();
            self.list.take(&mut ready);
            for source in ready {
                if let Source::Client(id) = source {
                    self.front.turn(id, &mut |event| self.events.push(event));
                }
            }
            self.front
                .flush(self.now, &mut |event| self.events.push(event));
            until.as_mut().poll(cx)
        })
        .await
    }

    /// Turns often enough that whatever can happen has happened.
    async fn settle(&mut self) {
        for _ in 0..20 {
            self.while_waiting(tokio::task::yield_now()).await;
        }
    }

    /// Lets the front look at its clients for as long as it wants to, up to half a minute.
    async fn let_time_pass(&mut self) {
        let end = self.now.after(Duration::from_secs(30));
        while let Some(deadline) = self.front.next_deadline()
            && deadline < end
        {
            self.now = self.now.max(deadline);
            self.front
                .on_deadline(self.now, &mut |event| self.events.push(event));
            self.settle().await;
        }
    }

    /// Turns until the node was told of `count` things.
    async fn hear(&mut self, count: usize) -> Vec<Event> {
        for _ in 0..1_000 {
            if self.events.len() >= count {
                break;
            }
            self.while_waiting(tokio::task::yield_now()).await;
        }
        assert_eq!(self.events.len(), count, "{:?}", self.events);
        std::mem::take(&mut self.events)
    }

    fn reply(&mut self, event: &Event, reply: ClientReply) {
        let (client, request, _) = requested(event);
        self.front.reply(client, request, reply);
    }
}

fn requested(event: &Event) -> (ClientId, RequestId, &ClientOp) {
    let Event::Requested(request) = event else {
        panic!("{event:?} is no request");
    };
    (request.client, request.request, &request.op)
}

/// Asks for an export; the code of the reply that ends it and its text.
async fn go(client: &mut UnixStream, name: &str) -> (u32, String) {
    let mut greeting = [0; 18];
    client.read_exact(&mut greeting).await.unwrap();
    let mut bytes = 3_u32.to_be_bytes().to_vec();
    let data_bytes = u32::try_from(name.len() + 6).unwrap();
    bytes.extend(b"IHAVEOPT");
    bytes.extend(7_u32.to_be_bytes());
    bytes.extend(data_bytes.to_be_bytes());
    bytes.extend(u32::try_from(name.len()).unwrap().to_be_bytes());
    bytes.extend(name.as_bytes());
    bytes.extend([0, 0]);
    client.write_all(&bytes).await.unwrap();
    loop {
        let mut head = [0; 20];
        client.read_exact(&mut head).await.unwrap();
        let word = |at: usize| u32::from_be_bytes(*head[at..].first_chunk().unwrap());
        let mut data = vec![0; word(16) as usize];
        client.read_exact(&mut data).await.unwrap();
        if word(12) != 3 {
            return (word(12), String::from_utf8_lossy(&data).into_owned());
        }
    }
}

fn request(command: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    [
        &0x2560_9513_u32.to_be_bytes()[..],
        &[0, 0],
        &command.to_be_bytes(),
        &cookie.to_be_bytes(),
        &offset.to_be_bytes(),
        &length.to_be_bytes(),
    ]
    .concat()
}

fn write(cookie: u64, offset: u64, fill: u8, length: usize) -> Vec<u8> {
    let mut bytes = request(WRITE, cookie, offset, u32::try_from(length).unwrap());
    bytes.resize(bytes.len() + length, fill);
    bytes
}

/// The cookie and error of a simple reply.
async fn simple_reply(client: &mut UnixStream) -> (u64, u32) {
    let mut head = [0; 16];
    client.read_exact(&mut head).await.unwrap();
    let error = u32::from_be_bytes(*head[4..].first_chunk().unwrap());
    (u64::from_be_bytes(*head[8..].first_chunk().unwrap()), error)
}

async fn attached(limits: NbdLimits) -> (Stage, UnixStream) {
    let mut stage = Stage::new(limits);
    let client = attach(&mut stage).await;
    (stage, client)
}

async fn attach(stage: &mut Stage) -> UnixStream {
    let mut client = stage.visit();
    let (code, _) = stage.while_waiting(go(&mut client, "demo")).await;
    assert_eq!(code, 1, "acknowledged");
    assert!(matches!(
        stage.hear(1).await[..],
        [Event::ClientAttached { .. }]
    ));
    client
}

/// Limits under which four connections have 4 KiB each of their own, and 48 KiB between them.
fn tight() -> NbdLimits {
    NbdLimits {
        connections_max: 4,
        total_bytes_max: 64 << 10,
        ..NbdLimits::default()
    }
}

#[tokio::test]
async fn requests_come_through_whole_and_answers_go_back_in_any_order() {
    let (mut stage, mut client) = attached(NbdLimits::default()).await;
    // An aligned write, an unaligned one longer than a read, and a read: all with one send.
    let bytes = [
        write(1, 4096, 7, 4096),
        write(2, 100, 8, 300 << 10),
        request(READ, 3, 0, 8),
    ];
    let sent = bytes.concat();
    stage.while_waiting(client.write_all(&sent)).await.unwrap();
    let events = stage.hear(3).await;
    let ClientOp::Write { range, buffer, .. } = requested(&events[1]).2 else {
        panic!("a write");
    };
    assert_eq!((range.offset, range.length), (100, 300 << 10));
    let bytes = buffer.as_slice();
    assert_eq!(bytes.len() % 4096, 0);
    assert!(bytes[..100].iter().all(|b| *b == 0));
    assert!(bytes[100..100 + (300 << 10)].iter().all(|b| *b == 8));
    let pieces = vec![
        ReadPiece::Data(bytes::Bytes::from_static(b"abc")),
        ReadPiece::Zeroes(5),
    ];
    stage.reply(&events[2], ClientReply::Read(pieces));
    stage.reply(&events[1], ClientReply::Done);
    stage.reply(&events[0], ClientReply::Failed(ClientError::NotPrimary));
    let replies = async {
        let first = simple_reply(&mut client).await;
        let mut data = [0; 8];
        client.read_exact(&mut data).await.unwrap();
        assert_eq!(&data, b"abc\0\0\0\0\0");
        (
            first,
            simple_reply(&mut client).await,
            simple_reply(&mut client).await,
        )
    };
    let got = stage.while_waiting(replies).await;
    assert_eq!(got, ((3, 0), (2, 0), (1, 108)));
}

#[tokio::test]
async fn a_client_has_no_more_in_flight_than_it_may() {
    let (mut stage, mut client) = attached(NbdLimits {
        connection_bytes_max: 8192,
        ..NbdLimits::default()
    })
    .await;
    let sent: Vec<u8> = (0..4).flat_map(|n| write(n, n * 4096, 1, 4096)).collect();
    stage.while_waiting(client.write_all(&sent)).await.unwrap();
    let first = stage.hear(2).await;
    for _ in 0..20 {
        stage.while_waiting(tokio::task::yield_now()).await;
    }
    assert!(stage.events.is_empty(), "the third waits");
    stage.reply(&first[0], ClientReply::Done);
    let reply = stage.while_waiting(simple_reply(&mut client)).await;
    assert_eq!(reply, (0, 0));
    let third = stage.hear(1).await;
    assert!(
        matches!(requested(&third[0]).2, ClientOp::Write { range, .. } if range.offset == 8192)
    );
}

#[tokio::test]
async fn many_small_requests_are_held_back_too() {
    let (mut stage, mut client) = attached(NbdLimits {
        connection_bytes_max: 8192,
        ..NbdLimits::default()
    })
    .await;
    let sent: Vec<u8> = (0..9).flat_map(|n| request(READ, n, 0, 1)).collect();
    stage.while_waiting(client.write_all(&sent)).await.unwrap();
    for expected in [2, 2, 2, 2, 1] {
        let events = stage.hear(expected).await;
        for event in &events {
            stage.reply(event, ClientReply::Read(vec![ReadPiece::Zeroes(1)]));
        }
    }
}

#[tokio::test]
async fn a_server_that_is_not_the_primary_names_it() {
    let mut stage = Stage::new(NbdLimits::default());
    let primary: ServerId = "s2".parse().unwrap();
    let state = ExportState::Elsewhere {
        primary: Some((primary, "127.0.0.1:7".to_owned())),
    };
    stage
        .front
        .set_export(VOLUME, "demo".to_owned(), state, &mut |_| ());
    let mut client = stage.visit();
    let (code, message) = stage.while_waiting(go(&mut client, "demo")).await;
    assert_eq!(code, (1 << 31) + 6);
    assert!(
        message.contains("s2") && message.contains("127.0.0.1:7"),
        "{message}"
    );
}

#[tokio::test]
async fn clients_are_disconnected_when_the_primary_is_elsewhere() {
    let (mut stage, mut client) = attached(NbdLimits::default()).await;
    let mut events = Vec::new();
    let state = ExportState::Elsewhere { primary: None };
    stage
        .front
        .set_export(VOLUME, "demo".to_owned(), state, &mut |event| {
            events.push(event);
        });
    assert!(matches!(events[..], [Event::ClientLeft { .. }]));
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
}

#[tokio::test]
async fn a_goodbye_waits_for_what_is_in_flight() {
    let (mut stage, mut client) = attached(NbdLimits::default()).await;
    let sent = [
        request(CACHE, 1, 0, 4096),
        request(READ, 2, 0, 1),
        request(DISC, 3, 0, 0),
    ];
    let sent = sent.concat();
    stage.while_waiting(client.write_all(&sent)).await.unwrap();
    let events = stage.hear(1).await;
    stage.reply(&events[0], ClientReply::Failed(ClientError::Damaged));
    let mut rest = Vec::new();
    stage
        .while_waiting(client.read_to_end(&mut rest))
        .await
        .unwrap();
    assert_eq!(rest.len(), 32, "two answers, then the end");
    assert!(matches!(
        stage.hear(1).await[..],
        [Event::ClientLeft { .. }]
    ));
}

#[tokio::test]
async fn strangers_have_limits() {
    let mut stage = Stage::new(NbdLimits {
        handshakes_max: 1,
        handshake_ms_max: 5,
        ..NbdLimits::default()
    });
    let mut first = stage.visit();
    let mut second = stage.visit();
    assert_eq!(second.read(&mut [0; 18]).await.unwrap(), 0, "turned away");
    let mut greeting = [0; 18];
    let greeted = async {
        let count = first.read_exact(&mut greeting).await.unwrap();
        assert_eq!(count, 18);
    };
    stage.while_waiting(greeted).await;
    let deadline = stage.front.next_deadline().unwrap();
    stage.front.on_deadline(deadline, &mut |_| ());
    assert_eq!(
        first.read(&mut greeting).await.unwrap(),
        0,
        "it took too long"
    );
    assert_eq!(stage.front.next_deadline(), None);
}

#[tokio::test]
async fn a_client_that_is_held_back_goes_on_when_its_answers_are_taken() {
    let (mut stage, mut client) = attached(NbdLimits {
        connection_bytes_max: 256 << 10,
        ..NbdLimits::default()
    })
    .await;
    // Answers that the socket does not take at once, until no more requests are read.
    const LENGTH: u32 = 64 << 10;
    let sent: Vec<u8> = (0..32).flat_map(|n| request(READ, n, 0, LENGTH)).collect();
    stage.while_waiting(client.write_all(&sent)).await.unwrap();
    let mut answered = 0;
    let mut taken = 0;
    while taken < 32 {
        for event in std::mem::take(&mut stage.events) {
            stage.reply(&event, ClientReply::Read(vec![ReadPiece::Zeroes(LENGTH)]));
            answered += 1;
        }
        if answered > taken {
            let one = async {
                let reply = simple_reply(&mut client).await;
                let mut data = vec![1; LENGTH as usize];
                client.read_exact(&mut data).await.unwrap();
                reply
            };
            let reply = stage.while_waiting(one).await;
            assert_eq!(reply, (taken, 0));
            taken += 1;
        } else {
            stage.while_waiting(tokio::task::yield_now()).await;
        }
    }
}

#[tokio::test]
async fn a_client_that_takes_no_refusals_sends_no_more_requests() {
    const UNKNOWN: u16 = 42;
    let (mut stage, mut client) = attached(NbdLimits {
        connection_bytes_max: 64 << 10,
        ..NbdLimits::default()
    })
    .await;
    let bytes: Vec<u8> = (0..4096).flat_map(|n| request(UNKNOWN, n, 0, 0)).collect();
    let mut sent = 0;
    for _ in 0..2_000 {
        if let Ok(count) = client.try_write(&bytes[sent % bytes.len()..]) {
            sent += count;
        }
        stage.while_waiting(tokio::task::yield_now()).await;
    }
    // What the sockets hold in both directions, what was read at once, and what may be in flight.
    assert!(sent < 4 << 20, "{sent} bytes were read");
    let mut taken = 0;
    while taken < sent / 28 {
        let reply = stage.while_waiting(simple_reply(&mut client)).await;
        assert_eq!(reply, ((taken % 4096) as u64, 22));
        taken += 1;
    }
}

#[tokio::test]
async fn reads_count_for_all_connections_together() {
    const LENGTH: u32 = 48 << 10;
    let (mut stage, mut first) = attached(tight()).await;
    let mut second = attach(&mut stage).await;
    let mut third = attach(&mut stage).await;
    let long = request(READ, 1, 0, LENGTH);
    stage.while_waiting(first.write_all(&long)).await.unwrap();
    let of_first = stage.hear(1).await;
    stage.while_waiting(second.write_all(&long)).await.unwrap();
    stage.settle().await;
    assert!(stage.events.is_empty(), "the second waits for the first");
    let short = request(READ, 2, 0, 4096);
    stage.while_waiting(third.write_all(&short)).await.unwrap();
    let of_third = stage.hear(1).await;
    assert!(matches!(requested(&of_third[0]).2, ClientOp::Read(range) if range.length == 4096));
    stage.reply(
        &of_first[0],
        ClientReply::Read(vec![ReadPiece::Zeroes(LENGTH)]),
    );
    let taken = async {
        let mut answer = vec![1; 16 + LENGTH as usize];
        first.read_exact(&mut answer).await.unwrap();
    };
    stage.while_waiting(taken).await;
    let of_second = stage.hear(1).await;
    assert!(matches!(requested(&of_second[0]).2, ClientOp::Read(range) if range.length == LENGTH));
}

#[tokio::test]
async fn who_announces_a_write_and_falls_silent_is_in_nobodys_way() {
    let (mut stage, mut silent) = attached(tight()).await;
    let mut other = attach(&mut stage).await;
    let announced = request(WRITE, 1, 0, 48 << 10);
    let sent = stage.while_waiting(silent.write_all(&announced)).await;
    sent.unwrap();
    stage.settle().await;
    // What is small goes on at once.
    let small = write(1, 0, 7, 4096);
    stage.while_waiting(other.write_all(&small)).await.unwrap();
    let of_other = stage.hear(1).await;
    stage.reply(&of_other[0], ClientReply::Done);
    let reply = stage.while_waiting(simple_reply(&mut other)).await;
    assert_eq!(reply, (1, 0));
    // Nobody waits for its room, so it may be as slow as it likes.
    stage.let_time_pass().await;
    assert!(stage.events.is_empty());
    // What is long goes on when the silent one had its time.
    let long = write(2, 0, 7, 32 << 10);
    stage.while_waiting(other.write_all(&long)).await.unwrap();
    stage.settle().await;
    assert!(stage.events.is_empty(), "it waits");
    stage.let_time_pass().await;
    let events = stage.hear(2).await;
    assert!(matches!(events[0], Event::ClientLeft { .. }));
    assert!(
        matches!(requested(&events[1]).2, ClientOp::Write { range, .. } if range.length == 32 << 10)
    );
    assert_eq!(silent.read(&mut [0; 16]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_client_that_goes_away_while_it_is_held_back_is_noticed() {
    let (mut stage, mut client) = attached(NbdLimits {
        connection_bytes_max: 8192,
        ..NbdLimits::default()
    })
    .await;
    let sent: Vec<u8> = (0..4).flat_map(|n| write(n, n * 4096, 1, 4096)).collect();
    stage.while_waiting(client.write_all(&sent)).await.unwrap();
    // Two are at the node, which has no quorum and answers none of them.
    let _unanswered = stage.hear(2).await;
    drop(client);
    stage.let_time_pass().await;
    assert!(matches!(
        stage.hear(1).await[..],
        [Event::ClientLeft { .. }]
    ));
    assert_eq!(
        stage.front.next_deadline(),
        None,
        "nobody is left to look at"
    );
}
