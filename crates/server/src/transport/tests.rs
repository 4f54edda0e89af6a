//! Two servers' ends of one connection, over loopback.

use moorline_types::{BootId, BufferPool, ClusterId, Lsn, Payload};
use moorline_wire::{
    LeaseRequest, Records, VolumeHeader, VolumeMessage,
    hello::{HelloError, HelloRefusal},
    message::PayloadParts,
};

use super::*;
use crate::{
    config::{ClusterKey, Exposure},
    inbox::{Inbox, inbox},
};

const KEY: ClusterKey = ClusterKey::new([7; 32]);

fn introduction(server: &str, key: Option<&ClusterKey>) -> Arc<Introduction> {
    let who = Identity::Server {
        server: server.parse().unwrap(),
        boot: BootId::new(1),
        data_addr: String::new(),
        control_addr: String::new(),
    };
    let cluster = Some(ClusterId::new(9));
    let pool = BufferPool::new();
    Arc::new(Introduction::new(
        who,
        key,
        Exposure::Guarded,
        cluster,
        pool,
    ))
}

/// One server: its listener's address, its links, what it is told.
struct End {
    address: SocketAddr,
    introduction: Arc<Introduction>,
    links: Links,
    list: Arc<ReadyList>,
    teller: Teller,
    inbox: Inbox,
    events: Vec<Event>,
}

impl End {
    async fn new(server: &str, key: Option<&ClusterKey>) -> Self {
        let listener = bind("data", (std::net::Ipv4Addr::LOCALHOST, 0).into())
            .await
            .unwrap();
        let address = listener.local_addr().unwrap();
        let introduction = introduction(server, key);
        let (teller, inbox) = inbox();
        drop(tokio::spawn(listen(
            listener,
            Channel::Data,
            Arc::clone(&introduction),
            teller.clone(),
        )));
        let list = Arc::new(ReadyList::default());
        Self {
            address,
            introduction,
            links: Links::new(Arc::clone(&list)),
            list,
            teller,
            inbox,
            events: Vec::new(),
        }
    }

    fn dial(&self, server: &str, address: SocketAddr) {
        dial_server(
            server.parse().unwrap(),
            address.to_string(),
            Arc::clone(&self.introduction),
            self.teller.clone(),
        );
    }

    async fn linked(&mut self) -> LinkId {
        let Some(News::Linked {
            connected,
            direction,
        }) = self.inbox.recv().await
        else {
            panic!("a connection");
        };
        match self.links.add(*connected, direction) {
            Some(Event::LinkUp { link, .. }) => link,
            other => panic!("{other:?}"),
        }
    }

    fn turn(&mut self) {
        let mut ready = Vec::new();
        self.list.take(&mut ready);
        for source in ready {
            if let Source::Link(id) = source {
                self.links.turn(id, &mut |event| self.events.push(event));
            }
        }
        self.links.flush(&mut |event| self.events.push(event));
    }
}

/// Lets both ends turn until `b` was told of `count` things.
async fn hear(a: &mut End, b: &mut End, count: usize) -> Vec<Event> {
    while b.events.len() < count {
        a.turn();
        b.turn();
        tokio::task::yield_now().await;
    }
    std::mem::take(&mut b.events)
}

async fn pair() -> (End, LinkId, End, LinkId) {
    let mut a = End::new("s1", Some(&KEY)).await;
    let mut b = End::new("s2", Some(&KEY)).await;
    a.dial("s2", b.address);
    let (at_a, at_b) = (a.linked().await, b.linked().await);
    (a, at_a, b, at_b)
}

fn records(pages: usize, fill: u8) -> Message {
    let mut buffer = BufferPool::new().zeroed(pages);
    buffer.as_mut_slice().fill(fill);
    let payload: Payload = buffer.freeze();
    let header = VolumeHeader {
        volume: moorline_types::VolumeId::new(1),
        store: moorline_types::StoreId::new(2),
        epoch: moorline_types::Epoch::ZERO,
        config: moorline_types::ConfigVersion::ZERO,
        session: 0,
    };
    let records = Records {
        previous: Lsn::ZERO,
        count: 1,
        committed: Lsn::ZERO,
        acknowledged: Lsn::ZERO,
        headers: Bytes::from_static(b"header"),
        payload: PayloadParts::from(payload),
    };
    Message::Volume(header, VolumeMessage::Records(records))
}

#[tokio::test]
async fn messages_arrive_whole_and_in_order_however_long() {
    let (mut a, link, mut b, _) = pair().await;
    let sent = [
        records(1, 1),
        Message::LeaseRequest(LeaseRequest {
            sent_ns: 5,
            volumes: Vec::new(),
        }),
        records(4_000, 2),
        records(3, 3),
    ];
    for message in &sent {
        assert!(a.links.send(link, message).is_none());
    }
    let events = hear(&mut a, &mut b, sent.len()).await;
    for (event, want) in events.iter().zip(&sent) {
        assert!(matches!(event, Event::MessageArrived { message, .. } if message == want));
    }
}

#[tokio::test]
async fn both_ends_hear_of_the_end() {
    let (mut a, at_a, mut b, at_b) = pair().await;
    assert!(matches!(a.links.hang_up(at_a), Some(Event::LinkDown { link }) if link == at_a));
    assert!(a.links.hang_up(at_a).is_none());
    let events = hear(&mut a, &mut b, 1).await;
    assert!(matches!(events[..], [Event::LinkDown { link }] if link == at_b));
}

#[tokio::test]
async fn a_peer_that_takes_nothing_is_hung_up_on() {
    let (mut a, link, _b, _) = pair().await;
    let message = records(8_000, 9);
    let lost = (0..16).find_map(|_| a.links.send(link, &message));
    assert!(matches!(lost, Some(Event::LinkDown { .. })));
}

#[tokio::test]
async fn a_wrong_key_is_refused_and_told() {
    let mut a = End::new("s1", Some(&ClusterKey::new([8; 32]))).await;
    let b = End::new("s2", Some(&KEY)).await;
    let expected = Expected::Server("s2".parse().unwrap());
    let address = b.address.to_string();
    let error = dial(&a.introduction, &address, Channel::Data, expected);
    assert!(matches!(
        error.await,
        Err(ConnectError::Refused(HelloError::ByUs(
            HelloRefusal::WrongKey
        )))
    ));
    a.dial("s2", b.address);
    assert!(matches!(
        a.inbox.recv().await,
        Some(News::DialFailed { server }) if server.as_str() == "s2"
    ));
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let taken = End::new("s1", None).await.address;
    assert!(matches!(
        bind("control", taken).await,
        Err(BindError::InUse { setting: "control", address }) if address == taken
    ));
}
