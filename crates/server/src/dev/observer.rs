//! The thread that asks the master: makes the volume once, waits until it is served, and then looks
//! at the status every second.

use std::{thread, time::Duration};

use moorline_types::{AckPoint, ByteCount};
use moorline_wire::control::{
    ClientError, ClientRequest, ClientResponse, ClusterStatus, CreateVolume, ServerState,
    VolumeStatus,
};
use tokio::sync::mpsc::UnboundedSender;

use super::{DevConfig, DevError, DevVolume, SOON, VOLUME};
use crate::cli::{
    CliError,
    master_client::{CHANGE_LIMIT, MasterTarget, READ_LIMIT},
    output::count,
    watch::{Looker, Sight},
};

/// The volume's size unless said otherwise, in bytes.
const SIZE_DEFAULT: u64 = 1 << 30;

/// The size of each log ring unless said otherwise, in bytes.
const LOG_SIZE_DEFAULT: u64 = 256 << 20;

/// Looks before the volume is served come faster than after it.
const LOOK_EARLY_EVERY: Duration = Duration::from_millis(100);

/// What the observer has to tell.
#[derive(Debug)]
pub(super) enum News {
    /// A line about how far the start is.
    Progress(String),
    /// The volume is served for the first time.
    Served(Box<ClusterStatus>),
    /// A look at the cluster after that.
    Sight(Sight),
    /// There will be no volume.
    Failed(DevError),
}

/// Whether somebody still listens.
#[must_use]
enum Listening {
    Yes,
    No,
}

/// The thread's state.
#[derive(Debug)]
pub(super) struct Observer {
    target: MasterTarget,
    looker: Looker,
    volume: DevVolume,
    servers: usize,
    replicas: Option<u32>,
    news: UnboundedSender<News>,
}

impl Observer {
    /// An observer of a cluster of `servers`.
    pub(super) fn new(
        target: MasterTarget,
        config: &DevConfig,
        servers: usize,
        news: UnboundedSender<News>,
    ) -> Self {
        Self {
            looker: Looker::new(target.clone()),
            target,
            volume: config.volume,
            servers,
            replicas: config.servers,
            news,
        }
    }

    /// Runs until nobody listens any more.
    pub(super) fn run(mut self) {
        if let (Listening::Yes, Some(cluster)) = (self.wait_for_servers(), self.make_and_wait())
            && matches!(self.tell(News::Served(cluster)), Listening::Yes)
        {
            self.look_on();
        }
    }

    fn tell(&self, news: News) -> Listening {
        match self.news.send(news) {
            Ok(()) => Listening::Yes,
            Err(_) => Listening::No,
        }
    }

    /// Until every server told the master of itself. Processes that cannot are told of by those
    /// who run them.
    fn wait_for_servers(&mut self) -> Listening {
        let mut told = usize::MAX;
        loop {
            let up = match self.looker.look() {
                Ok(cluster) => cluster
                    .servers
                    .iter()
                    .filter(|server| server.state == ServerState::Up)
                    .count(),
                Err(_) => 0,
            };
            if up >= self.servers {
                return Listening::Yes;
            }
            if self.news.is_closed() {
                return Listening::No;
            }
            if told != up && up > 0 {
                told = up;
                let line = format!("{up} of {} servers have registered", self.servers);
                if let Listening::No = self.tell(News::Progress(line)) {
                    return Listening::No;
                }
            }
            thread::sleep(SOON);
        }
    }

    /// Makes the volume unless it is there, and waits until it is served.
    fn make_and_wait(&mut self) -> Option<Box<ClusterStatus>> {
        loop {
            if self.news.is_closed() {
                return None;
            }
            match self.ensure() {
                Ok(()) => break,
                // The master or a server is away for a moment, or the master still cleans up.
                Err(
                    CliError::Master(_)
                    | CliError::Refused {
                        error:
                            ClientError::TooFewServers { .. }
                            | ClientError::Busy { .. }
                            | ClientError::ServerLost { .. },
                    },
                ) => thread::sleep(LOOK_EARLY_EVERY),
                Err(error) => {
                    let source = Box::new(error);
                    let _told = self.tell(News::Failed(DevError::Volume { source }));
                    return None;
                }
            }
        }
        self.wait_served()
    }

    fn ensure(&mut self) -> Result<(), CliError> {
        let name = VOLUME.to_owned();
        match self
            .looker
            .ask(ClientRequest::VolumeStatus { name }, READ_LIMIT)
        {
            Ok(ClientResponse::Volume(volume)) => {
                for line in self.differences(&volume) {
                    let _told = self.tell(News::Progress(line));
                }
                return Ok(());
            }
            Err(CliError::Refused {
                error: ClientError::NotFound { .. },
            }) => {}
            Ok(_other) => return Err(crate::cli::master_client::unexpected(&self.target)),
            Err(error) => return Err(error),
        }
        let replicas = self
            .replicas
            .unwrap_or(u32::try_from(self.servers).unwrap_or(u32::MAX));
        let volume = CreateVolume {
            name: VOLUME.to_owned(),
            size_bytes: self.volume.size_bytes.unwrap_or(SIZE_DEFAULT),
            replicas,
            policy: self.volume.policy,
            ack: self.volume.ack.unwrap_or(AckPoint::Flushed),
            log_bytes: self.volume.log_bytes.unwrap_or(LOG_SIZE_DEFAULT),
            min_copies: None,
            no_quorum: None,
        };
        let _told = self.tell(News::Progress(format!(
            "making volume {VOLUME}: {} on {}, each with a log of {}",
            ByteCount::new(volume.size_bytes),
            count(u64::from(volume.replicas), "server"),
            ByteCount::new(volume.log_bytes)
        )));
        self.looker
            .ask(ClientRequest::CreateVolume(volume), CHANGE_LIMIT)?;
        Ok(())
    }

    /// What was asked for and is not so, because the volume was made before.
    fn differences(&self, made: &VolumeStatus) -> Vec<String> {
        let DevVolume {
            size_bytes,
            policy,
            ack,
            log_bytes: _,
        } = self.volume;
        let mut lines = Vec::new();
        let mut differs = |flag: &str, has: String| {
            lines.push(format!(
                "volume {VOLUME} was made before and has {has}; {flag} is for a new one (give another --dir)"
            ));
        };
        if size_bytes.is_some_and(|bytes| bytes != made.size) {
            differs("--size", ByteCount::new(made.size).to_string());
        }
        if policy.is_some_and(|policy| policy != made.policy) {
            differs("--policy", format!("policy {}", made.policy));
        }
        if ack.is_some_and(|ack| ack != made.ack) {
            differs("--ack", format!("ack point {}", made.ack));
        }
        let replicas = u64::try_from(made.replicas.len()).unwrap_or(u64::MAX);
        if self
            .replicas
            .is_some_and(|asked| u64::from(asked) != replicas)
        {
            differs("--replicas", count(replicas, "replica"));
        }
        lines
    }

    fn wait_served(&mut self) -> Option<Box<ClusterStatus>> {
        let mut told = None;
        while !self.news.is_closed() {
            if let Ok(cluster) = self.looker.look() {
                let volume = cluster.volumes.iter().find(|v| v.name == VOLUME);
                match volume {
                    Some(volume) if volume.serving => return Some(cluster),
                    Some(volume) if volume.reason != told => {
                        told.clone_from(&volume.reason);
                        if let Some(reason) = &told {
                            let line = format!("volume {VOLUME} is not served yet: {reason}");
                            let _told = self.tell(News::Progress(line));
                        }
                    }
                    Some(_) | None => {}
                }
            }
            thread::sleep(LOOK_EARLY_EVERY);
        }
        None
    }

    fn look_on(self) {
        let news = self.news;
        self.looker
            .look_for_ever(|sight| news.send(News::Sight(sight)).is_ok());
    }
}
