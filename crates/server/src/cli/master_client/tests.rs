use std::{net::TcpListener, thread::JoinHandle};

use expect_test::expect;
use moorline_types::{BootId, BufferPool};
use moorline_wire::{control::ClientError, hello::Serves};

use super::*;

/// A master for one connection, made of the same machines with the other side's names.
struct FakeMaster {
    target: MasterTarget,
    thread: JoinHandle<()>,
}

fn key(byte: u8) -> Credentials {
    Credentials::Key(ClusterKey::new([byte; 32]))
}

fn listen() -> (TcpListener, HostPort) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address.parse().unwrap())
}

fn read(stream: &mut TcpStream, decoder: &mut Decoder) -> Option<Message> {
    loop {
        if let Some(message) = decoder.next().unwrap() {
            return Some(message);
        }
        let mut spare = decoder.spare().map(IoSliceMut::new);
        match stream.read_vectored(&mut spare).unwrap() {
            0 => return None,
            count => decoder.filled(count),
        }
    }
}

fn write(stream: &mut TcpStream, message: &Message) {
    let mut parts = Vec::new();
    encode(message, &mut parts).unwrap();
    stream.write_all(&parts.concat()).unwrap();
}

impl FakeMaster {
    fn start(
        credentials: Credentials,
        answer: impl Fn(u64, ClientRequest) -> Message + Send + 'static,
    ) -> Self {
        let (listener, address) = listen();
        let target = MasterTarget {
            address,
            credentials: credentials.clone(),
        };
        let thread = thread_of(listener, credentials, answer);
        Self { target, thread }
    }

    fn end(self) {
        self.thread.join().unwrap();
    }
}

fn thread_of(
    listener: TcpListener,
    credentials: Credentials,
    answer: impl Fn(u64, ClientRequest) -> Message + Send + 'static,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let config = HelloConfig {
            who: Identity::Master {
                boot: BootId::new(7),
            },
            cluster: None,
            nonce: [9; 32],
            credentials,
            peer: PeerLocality::Loopback,
        };
        let mut hello = Hello::accept(config, Serves::AsMaster);
        let mut decoder = Decoder::new(BufferPool::new(), Limits::MEMBER);
        let mut greeted = false;
        while let Some(message) = read(&mut stream, &mut decoder) {
            if let Message::ClientRequest { id, request } = message {
                write(&mut stream, &answer(id, *request));
                continue;
            }
            let Message::Hello(message) = message else {
                panic!("{message:?}");
            };
            assert!(!greeted, "one hello is enough");
            let mut out = Vec::new();
            let step = hello.on_message(*message, &mut out);
            for message in out {
                write(&mut stream, &Message::Hello(Box::new(message)));
            }
            match step {
                Ok(HelloStep::Done(peer)) => {
                    assert_eq!(peer.who, Identity::Client);
                    greeted = true;
                }
                Ok(HelloStep::Continue) => {}
                Err(_) => return,
            }
        }
    })
}

fn response(id: u64, response: ClientResponse) -> Message {
    Message::ClientResponse {
        id,
        response: Box::new(response),
    }
}

#[test]
fn questions_are_answered_over_one_connection() {
    let master = FakeMaster::start(key(1), |id, request| {
        assert_eq!(request, ClientRequest::ListVolumes);
        response(id, ClientResponse::Volumes(Vec::new()))
    });
    let mut client = MasterClient::connect(&master.target).unwrap();
    for _ in 0..3 {
        let answer = client.ask(ClientRequest::ListVolumes, READ_LIMIT).unwrap();
        assert_eq!(answer, ClientResponse::Volumes(Vec::new()));
    }
    drop(client);
    master.end();
}

#[test]
fn a_refusal_is_an_error_with_its_code() {
    let name = || "nope".to_owned();
    let master = FakeMaster::start(Credentials::NoneLoopbackOnly, move |id, _| {
        response(
            id,
            ClientResponse::Failed(ClientError::NotFound { name: name() }),
        )
    });
    let request = ClientRequest::VolumeStatus { name: name() };
    let error = ask_once(&master.target, request, READ_LIMIT).unwrap_err();
    assert_eq!(error.exit(), crate::cli::Exit::NotFound);
    master.end();
}

#[test]
fn a_wrong_key_is_said_with_what_to_do() {
    for (ours, theirs) in [
        (key(1), key(2)),
        (Credentials::NoneLoopbackOnly, key(2)),
        (key(1), Credentials::NoneLoopbackOnly),
    ] {
        let mut master = FakeMaster::start(theirs, |_, _| panic!("nothing is asked"));
        master.target.credentials = ours;
        let error = CliError::from(MasterClient::connect(&master.target).unwrap_err());
        let report = error.report();
        assert!(report.contains("--cluster-key"), "{report}");
        assert!(report.contains(master.target.address.as_str()), "{report}");
        assert_eq!(error.exit(), crate::cli::Exit::Failed);
        master.end();
    }
}

#[test]
fn nobody_there_is_said_with_what_to_do() {
    let (listener, address) = listen();
    drop(listener);
    let target = MasterTarget {
        address: address.clone(),
        credentials: Credentials::NoneLoopbackOnly,
    };
    let error = CliError::from(MasterClient::connect(&target).unwrap_err());
    let report = error.report().replace(address.as_str(), "ADDRESS");
    expect![[r#"
        error: cannot reach a master at ADDRESS: Connection refused (os error 111)
          what to do: start one (`moorline dev` or `moorline master`), or name another one with --master or MOORLINE_MASTER
    "#]].assert_eq(&report);
}

#[test]
fn somebody_else_there_is_no_master() {
    for greeting in [&b"NBDMAGICIHAVEOPT\0\x03 and then some more bytes"[..], b""] {
        let (listener, address) = listen();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(greeting).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            // Until the client has enough.
            let _read = io::copy(&mut stream, &mut io::sink());
        });
        let target = MasterTarget {
            address,
            credentials: Credentials::NoneLoopbackOnly,
        };
        let error = MasterClient::connect(&target).unwrap_err();
        assert!(
            matches!(error, MasterClientError::NotAMaster { .. }),
            "{error:?}"
        );
        thread.join().unwrap();
    }
}

#[test]
fn a_master_that_says_nothing_is_not_waited_for_for_ever() {
    let (listener, address) = listen();
    let master = thread_of(listener, Credentials::NoneLoopbackOnly, |id, _| {
        // The answer to a question that nobody asked.
        response(id + 1, ClientResponse::Volumes(Vec::new()))
    });
    let target = MasterTarget {
        address,
        credentials: Credentials::NoneLoopbackOnly,
    };
    let mut client = MasterClient::connect(&target).unwrap();
    let error = client
        .ask(ClientRequest::ListVolumes, READ_LIMIT)
        .unwrap_err();
    assert!(matches!(error, MasterClientError::Unexpected { .. }));
    let limit = Duration::from_millis(50);
    // Nothing more is on its way.
    let deadline = Deadline::within(limit);
    let error = client.receive(deadline).unwrap_err();
    assert!(matches!(error, MasterClientError::Silent { .. }), "{error}");
    drop(client);
    master.join().unwrap();
}
