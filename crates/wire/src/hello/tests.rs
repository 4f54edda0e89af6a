use super::*;

const KEY: ClusterKey = ClusterKey::new([7; 32]);

fn server(name: &str) -> Identity {
    Identity::Server {
        server: name.parse().unwrap(),
        boot: BootId::new(1),
        data_addr: "127.0.0.1:1".into(),
        control_addr: "127.0.0.1:2".into(),
    }
}

fn config(who: Identity, nonce: u8, credentials: Credentials) -> HelloConfig {
    HelloConfig {
        who,
        cluster: Some(ClusterId::new(9)),
        nonce: [nonce; 32],
        credentials,
        peer: PeerLocality::Remote,
    }
}

fn dialler() -> HelloConfig {
    config(server("s1"), 1, Credentials::Key(KEY))
}

fn acceptor() -> HelloConfig {
    config(server("s2"), 2, Credentials::Key(KEY))
}

fn expect_s2() -> Expected {
    Expected::Server("s2".parse().unwrap())
}

type Ending = Result<Peer, HelloError>;

/// Runs both sides until both are over.
fn talk(
    dialler: HelloConfig,
    expected: Expected,
    acceptor: HelloConfig,
    serves: Serves,
) -> (Ending, Ending) {
    let mut wire = Vec::new();
    let mut d = match Hello::dial(dialler, Channel::Data, expected, &mut wire) {
        Ok(hello) => hello,
        Err(error) => return (Err(error), Err(HelloError::Over)),
    };
    let mut a = Hello::accept(acceptor, serves);
    let (mut d_end, mut a_end) = (None, None);
    let mut to_acceptor = true;
    while !wire.is_empty() {
        let mut answer = Vec::new();
        for message in wire.drain(..) {
            let (side, end) = if to_acceptor {
                (&mut a, &mut a_end)
            } else {
                (&mut d, &mut d_end)
            };
            match side.on_message(message, &mut answer) {
                Ok(HelloStep::Continue) => {}
                Ok(HelloStep::Done(peer)) => *end = Some(Ok(peer)),
                Err(error) => *end = Some(Err(error)),
            }
        }
        wire = answer;
        to_acceptor = !to_acceptor;
    }
    (d_end.unwrap(), a_end.unwrap())
}

fn as_data() -> Serves {
    Serves::AsServer(Channel::Data)
}

#[test]
fn two_servers_with_one_key_know_each_other() {
    let (d, a) = talk(dialler(), expect_s2(), acceptor(), as_data());
    assert_eq!(d.unwrap().who, server("s2"));
    assert_eq!(a.unwrap().who, server("s1"));
}

#[test]
fn both_sides_can_say_why_it_came_to_nothing() {
    let other_key = Credentials::Key(ClusterKey::new([8; 32]));
    let with = |credentials| config(server("s2"), 2, credentials);
    for (acceptor, want) in [
        (with(other_key), HelloRefusal::WrongKey),
        (with(Credentials::NoneInsecure), HelloRefusal::KeyRequired),
        (
            config(server("s3"), 2, Credentials::Key(KEY)),
            HelloRefusal::WrongPeer,
        ),
    ] {
        let (d, a) = talk(dialler(), expect_s2(), acceptor, as_data());
        assert_eq!(d, Err(HelloError::ByUs(want.clone())));
        assert_eq!(a, Err(HelloError::ByPeer(want)));
    }
}

#[test]
fn the_acceptor_refuses_strangers_and_says_so() {
    let mut other_cluster = dialler();
    other_cluster.cluster = Some(ClusterId::new(10));
    let ours = ClusterId::new(9);
    for (dialler, serves, want) in [
        (other_cluster, as_data(), HelloRefusal::Cluster { ours }),
        (dialler(), Serves::AsMaster, HelloRefusal::NotServed),
        (
            dialler(),
            Serves::AsServer(Channel::Control),
            HelloRefusal::NotServed,
        ),
        (
            config(Identity::Client, 1, Credentials::Key(KEY)),
            as_data(),
            HelloRefusal::NotServed,
        ),
    ] {
        let (d, a) = talk(dialler, expect_s2(), acceptor(), serves);
        assert_eq!(d, Err(HelloError::ByPeer(want.clone())));
        assert_eq!(a, Err(HelloError::ByUs(want)));
    }
}

#[test]
fn without_a_key_only_loopback_peers_are_spoken_to() {
    let keyless = |name, nonce, peer| HelloConfig {
        peer,
        ..config(server(name), nonce, Credentials::NoneLoopbackOnly)
    };
    let (d, _) = talk(
        keyless("s1", 1, PeerLocality::Remote),
        expect_s2(),
        acceptor(),
        as_data(),
    );
    assert_eq!(d, Err(HelloError::ByUs(HelloRefusal::NotLoopback)));
    let (d, a) = talk(
        keyless("s1", 1, PeerLocality::Loopback),
        expect_s2(),
        keyless("s2", 2, PeerLocality::Loopback),
        as_data(),
    );
    assert!(d.is_ok() && a.is_ok());
    let (d, a) = talk(
        keyless("s1", 1, PeerLocality::Loopback),
        expect_s2(),
        acceptor(),
        as_data(),
    );
    assert_eq!(d, Err(HelloError::ByUs(HelloRefusal::NoKeyHere)));
    assert_eq!(a, Err(HelloError::ByPeer(HelloRefusal::NoKeyHere)));
}

#[test]
fn another_version_is_refused() {
    let mut wire = Vec::new();
    drop(Hello::dial(
        dialler(),
        Channel::Data,
        expect_s2(),
        &mut wire,
    ));
    let HelloMessage::Open(mut facts) = wire.remove(0) else {
        panic!("a dialler opens");
    };
    facts.version += 1;
    let mut hello = Hello::accept(acceptor(), as_data());
    let refusal = HelloRefusal::Version {
        ours: PROTOCOL_VERSION,
    };
    assert_eq!(
        hello.on_message(HelloMessage::Open(facts), &mut wire),
        Err(HelloError::ByUs(refusal.clone()))
    );
    assert_eq!(wire, [HelloMessage::Refused(refusal)]);
    assert_eq!(
        hello.on_message(HelloMessage::Accepted, &mut wire),
        Err(HelloError::Over)
    );
}

/// A proof heard on one connection, or in one direction, proves nothing on another.
#[test]
fn proofs_cannot_be_replayed_or_reflected() {
    let mut wire = Vec::new();
    let mut d = Hello::dial(dialler(), Channel::Data, expect_s2(), &mut wire).unwrap();
    let mut a = Hello::accept(acceptor(), as_data());
    let open = wire.remove(0);
    assert_eq!(
        a.on_message(open.clone(), &mut wire),
        Ok(HelloStep::Continue)
    );
    let challenge = wire.remove(0);
    let HelloMessage::Challenge(_, challenge_proof) = challenge.clone() else {
        panic!("an acceptor challenges");
    };
    assert_eq!(d.on_message(challenge, &mut wire), Ok(HelloStep::Continue));
    let proof = wire.remove(0);
    // Replayed to an acceptor with a fresh nonce.
    let mut later = Hello::accept(config(server("s2"), 3, Credentials::Key(KEY)), as_data());
    assert_eq!(later.on_message(open, &mut wire), Ok(HelloStep::Continue));
    assert_eq!(
        later.on_message(proof, &mut wire),
        Err(HelloError::ByUs(HelloRefusal::WrongKey))
    );
    // The acceptor's own proof, sent back to it.
    assert_eq!(
        a.on_message(HelloMessage::Proof(challenge_proof), &mut wire),
        Err(HelloError::ByUs(HelloRefusal::WrongKey))
    );
}

#[test]
fn keys_come_back_from_their_file() {
    assert_eq!(format!("{}\n", KEY.to_hex()).parse(), Ok(KEY));
    assert_eq!("07".parse::<ClusterKey>(), Err(ParseKeyError));
    assert_eq!(format!("{KEY:?}"), "ClusterKey(secret)");
}
