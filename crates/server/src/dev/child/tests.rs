use std::path::Path;

use tokio::{
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    task::JoinHandle,
};

use super::*;
use crate::cli::watch::small_runtime;

/// Longer than any of it takes.
const LIMIT: Duration = Duration::from_secs(20);

struct Supervised {
    orders: watch::Sender<Order>,
    events: UnboundedReceiver<ChildEvent>,
    task: JoinHandle<()>,
}

impl Supervised {
    fn start(dir: &Path, script: &str, stop_limit: Duration) -> Self {
        let orders = watch::Sender::new(Order::Run);
        let (sender, events) = unbounded_channel();
        let spec = ChildSpec {
            name: "stub".into(),
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            stdin: None,
            log: dir.join("stub.log"),
            stop_limit,
        };
        let task = tokio::spawn(supervise(spec, orders.subscribe(), sender));
        Self {
            orders,
            events,
            task,
        }
    }

    async fn next(&mut self) -> What {
        let event = tokio::time::timeout(LIMIT, self.events.recv()).await;
        event.unwrap().unwrap().what
    }

    async fn pid(&mut self) -> (u32, Start) {
        let next = self.next().await;
        let What::Started { pid, start } = next else {
            panic!("{next:?}");
        };
        (pid, start)
    }

    async fn ended(&mut self) {
        tokio::time::timeout(LIMIT, &mut self.task)
            .await
            .unwrap()
            .unwrap();
    }
}

/// Waits until the log has a line: the script has come that far.
async fn logged(dir: &Path, line: &str) {
    tokio::time::timeout(LIMIT, async {
        while last_words(&dir.join("stub.log")).as_deref() != Some(line) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
}

fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

fn on_runtime(test: impl AsyncFnOnce(&Path)) {
    let dir = tempfile::tempdir().unwrap();
    small_runtime().unwrap().block_on(test(dir.path()));
}

#[test]
fn a_killed_process_is_started_again() {
    on_runtime(async |dir| {
        let mut stub = Supervised::start(dir, "exec sleep 1000", LIMIT);
        let (first, start) = stub.pid().await;
        assert_eq!(start, Start::First);
        signal(first, Signal::KILL);
        let want = What::Ended {
            how: "was killed by signal 9".to_owned(),
            times: 1,
            restart_in: RESTART_AFTER,
        };
        assert_eq!(stub.next().await, want);
        let (second, start) = stub.pid().await;
        assert_eq!(start, Start::Again);
        assert_ne!(first, second);
        stub.orders.send_replace(Order::Stop);
        assert_eq!(stub.next().await, What::Stopped);
        stub.ended().await;
    });
}

#[test]
fn a_process_that_keeps_ending_waits_longer_each_time() {
    on_runtime(async |dir| {
        let mut stub = Supervised::start(dir, "echo no luck; exit 7", LIMIT);
        for times in 1..=2 {
            stub.pid().await;
            let want = What::Ended {
                how: "ended with exit code 7".to_owned(),
                times,
                restart_in: RESTART_AFTER * times,
            };
            assert_eq!(stub.next().await, want);
        }
        assert_eq!(
            last_words(&dir.join("stub.log")).as_deref(),
            Some("no luck")
        );
        // In the middle of the wait.
        stub.orders.send_replace(Order::Stop);
        assert_eq!(stub.next().await, What::Stopped);
        stub.ended().await;
    });
}

#[test]
fn a_process_that_does_not_stop_is_killed_after_its_limit() {
    on_runtime(async |dir| {
        let deaf = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
        let mut stub = Supervised::start(dir, deaf, Duration::from_millis(200));
        stub.pid().await;
        logged(dir, "ready").await;
        stub.orders.send_replace(Order::Stop);
        let What::Killed { after } = stub.next().await else {
            panic!("it was deaf");
        };
        assert!(after >= Duration::from_millis(200), "{after:?}");
        stub.ended().await;
    });
}

#[test]
fn a_second_order_kills_at_once() {
    on_runtime(async |dir| {
        let deaf = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
        let mut stub = Supervised::start(dir, deaf, LIMIT * 10);
        stub.pid().await;
        logged(dir, "ready").await;
        stub.orders.send_replace(Order::Stop);
        stub.orders.send_replace(Order::Kill);
        assert!(matches!(stub.next().await, What::Killed { .. }));
        stub.ended().await;
    });
}

#[test]
fn a_program_that_is_not_there_is_said_so_and_tried_again() {
    on_runtime(async |dir| {
        let orders = watch::Sender::new(Order::Run);
        let (sender, mut events) = unbounded_channel();
        let spec = ChildSpec {
            name: "stub".into(),
            program: dir.join("absent"),
            args: Vec::new(),
            stdin: None,
            log: dir.join("stub.log"),
            stop_limit: LIMIT,
        };
        let task = tokio::spawn(supervise(spec, orders.subscribe(), sender));
        let What::Ended { how, .. } = events.recv().await.unwrap().what else {
            panic!("it cannot start");
        };
        assert!(how.starts_with("cannot be started"), "{how}");
        orders.send_replace(Order::Stop);
        task.await.unwrap();
    });
}

#[test]
fn a_process_gets_the_socket_as_its_standard_input() {
    on_runtime(async |dir| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let orders = watch::Sender::new(Order::Run);
        let (sender, _events) = unbounded_channel();
        let spec = ChildSpec {
            name: "stub".into(),
            program: "/bin/sh".into(),
            args: vec![
                "-c".into(),
                "readlink /proc/self/fd/0; exec sleep 1000".into(),
            ],
            stdin: Some(listener),
            log: dir.join("stub.log"),
            stop_limit: LIMIT,
        };
        let task = tokio::spawn(supervise(spec, orders.subscribe(), sender));
        let log = dir.join("stub.log");
        tokio::time::timeout(LIMIT, async {
            while !last_words(&log).is_some_and(|line| line.starts_with("socket:")) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .unwrap();
        orders.send_replace(Order::Stop);
        task.await.unwrap();
    });
}
