//! `moorline status --watch`, and the thread that asks the master again and again.

use std::{
    thread,
    time::{Duration, Instant},
};

use moorline_wire::control::{ClientRequest, ClientResponse, ClusterStatus};
use tokio::{
    runtime,
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
};

use super::{
    CliError, Exit,
    master_client::{MasterClient, MasterTarget, READ_LIMIT, accepted, unexpected},
    output, paint,
    screen::{Changes, Screen, say},
};

/// Between two looks at a status.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a look at the cluster gave.
#[derive(Debug)]
pub enum Sight {
    /// The status.
    Seen(Box<ClusterStatus>),
    /// None, and why.
    Lost(String),
}

/// What was seen of a cluster up to now.
#[derive(Debug, Default)]
pub struct Seen {
    changes: Changes,
    /// The last status there was.
    pub cluster: Option<Box<ClusterStatus>>,
    /// Why there is none now.
    pub lost: Option<String>,
}

impl Seen {
    /// Takes a look in; gives the lines that are news, for those without a screen.
    #[must_use]
    pub fn take(&mut self, sight: Sight) -> Vec<String> {
        match sight {
            Sight::Seen(cluster) => {
                let mut news = Vec::new();
                // The state may be the same as before: that it is known again is news.
                if self.lost.take().is_some() {
                    news.push("the master answers again".to_owned());
                }
                news.extend(self.changes.news(&cluster));
                self.cluster = Some(cluster);
                news
            }
            Sight::Lost(why) => {
                let is_news = self.lost.as_ref() != Some(&why);
                self.lost = Some(why.clone());
                is_news.then_some(why).into_iter().collect()
            }
        }
    }
}

/// Asks the master for its status over one connection, as long as that holds.
#[derive(Debug)]
pub struct Looker {
    target: MasterTarget,
    client: Option<MasterClient>,
}

impl Looker {
    /// Nothing is asked before the first look.
    #[must_use]
    pub const fn new(target: MasterTarget) -> Self {
        Self {
            target,
            client: None,
        }
    }

    /// Asks once.
    ///
    /// # Errors
    ///
    /// If the master cannot be asked; the next look connects anew.
    pub fn look(&mut self) -> Result<Box<ClusterStatus>, CliError> {
        let ClientResponse::Cluster(cluster) = self.ask(ClientRequest::Status, READ_LIMIT)? else {
            return Err(unexpected(&self.target));
        };
        Ok(cluster)
    }

    /// Asks anything.
    ///
    /// # Errors
    ///
    /// If the master cannot be asked, or refuses.
    pub fn ask(
        &mut self,
        request: ClientRequest,
        limit: Duration,
    ) -> Result<ClientResponse, CliError> {
        let mut client = match self.client.take() {
            Some(client) => client,
            None => MasterClient::connect(&self.target)?,
        };
        let response = client.ask(request, limit)?;
        self.client = Some(client);
        accepted(response)
    }

    /// Looks every second, until `tell` says that nobody listens any more.
    pub fn look_for_ever(mut self, mut tell: impl FnMut(Sight) -> bool) {
        loop {
            let began = Instant::now();
            let sight = match self.look() {
                Ok(cluster) => Sight::Seen(cluster),
                Err(error) => Sight::Lost(error.to_string()),
            };
            if !tell(sight) {
                return;
            }
            thread::sleep(LOOK_EVERY.saturating_sub(began.elapsed()));
        }
    }
}

/// The ways in which a user or a system asks a process to end.
#[derive(Debug)]
pub struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl StopSignals {
    /// Takes the signals over from their defaults.
    ///
    /// # Errors
    ///
    /// If the system refuses.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for one. Cancel-safe.
    pub async fn recv(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}

/// A runtime for one process's signals, timers and children.
///
/// # Errors
///
/// If the system refuses.
pub fn small_runtime() -> std::io::Result<runtime::Runtime> {
    runtime::Builder::new_current_thread().enable_all().build()
}

pub(super) fn run(target: MasterTarget) -> Result<Exit, CliError> {
    let setup = |source| CliError::Setup {
        what: "watch the status",
        source,
    };
    let runtime = small_runtime().map_err(setup)?;
    runtime.block_on(async {
        let mut stop = StopSignals::new().map_err(setup)?;
        let mut resized = signal(SignalKind::window_change()).map_err(setup)?;
        let (sender, sights) = unbounded_channel();
        let address = target.address.to_string();
        // The first look says at once when there is nothing to watch.
        let mut looker = Looker::new(target);
        let first = looker.look()?;
        let mut watch = Watch::new(address);
        watch.take(Sight::Seen(first));
        thread::spawn(move || looker.look_for_ever(|sight| sender.send(sight).is_ok()));
        follow(&mut watch, sights, &mut stop, &mut resized).await;
        Ok(Exit::Done)
    })
}

async fn follow(
    watch: &mut Watch,
    mut sights: UnboundedReceiver<Sight>,
    stop: &mut StopSignals,
    resized: &mut Signal,
) {
    loop {
        tokio::select! {
            () = stop.recv() => return,
            _ = resized.recv() => watch.draw(),
            sight = sights.recv() => match sight {
                Some(sight) => watch.take(sight),
                None => return,
            },
        }
    }
}

/// The status of a master that somebody else runs.
struct Watch {
    address: String,
    screen: Option<Screen>,
    seen: Seen,
}

impl Watch {
    fn new(address: String) -> Self {
        Self {
            address,
            screen: Screen::open(),
            seen: Seen::default(),
        }
    }

    fn take(&mut self, sight: Sight) {
        let news = self.seen.take(sight);
        if self.screen.is_none() {
            news.iter().for_each(|line| say(line));
        }
        self.draw();
    }

    fn draw(&mut self) {
        let Some(screen) = &mut self.screen else {
            return;
        };
        let mut text = format!("master {}   Ctrl-C leaves\n", self.address);
        if let Some(why) = &self.seen.lost {
            text.push_str(&format!("{why}; what follows was seen before\n"));
        }
        text.push('\n');
        if let Some(cluster) = &self.seen.cluster {
            text.push_str(&output::cluster(cluster, paint()));
        }
        screen.show(&text);
    }
}

#[cfg(test)]
mod tests {
    use moorline_types::ClusterId;

    use super::*;

    #[test]
    fn a_master_that_goes_and_comes_back_is_told_of_both_times() {
        let mut seen = Seen::default();
        let sight = || {
            Sight::Seen(Box::new(ClusterStatus {
                cluster: ClusterId::new(1),
                master_start: 1,
                master_instance: String::new(),
                master_restored: None,
                unknown_volumes: Vec::new(),
                servers: Vec::new(),
                volumes: Vec::new(),
            }))
        };
        let lost = || Sight::Lost("cannot reach a master".to_owned());
        assert!(seen.take(sight()).is_empty());
        assert_eq!(seen.take(lost()), ["cannot reach a master"]);
        assert!(seen.take(lost()).is_empty());
        assert_eq!(seen.take(sight()), ["the master answers again"]);
        assert!(seen.take(sight()).is_empty());
    }
}
