//! The connection to the master: made again whenever it ends, words in both directions.
//!
//! What the words mean is the node's business, and so is what to do without a master.

use std::{sync::Arc, time::Duration};

use moorline_types::ClusterId;
use moorline_wire::{
    Message,
    control::ServerToMaster,
    hello::{Channel, Expected},
};
use tokio::{sync::mpsc, task::JoinHandle, time::Instant};

use crate::{
    causes::Causes,
    inbox::{News, Teller},
    transport::{ConnectError, Connected, Introduction, dial, receive, send_message},
};

/// First and longest pause between two attempts.
const BACK_OFF_FIRST: Duration = Duration::from_millis(50);
const BACK_OFF_MAX: Duration = Duration::from_secs(1);

/// A connection that ends sooner was turned away, as that of a second server with one id: it is
/// followed by the next one after a growing pause, and told of once.
const STANDS_AFTER: Duration = Duration::from_secs(1);

/// A master that says nothing for so long, while it is told something twice a second, is dialed
/// anew: its machine may be gone without a word.
const SILENCE_MAX: Duration = Duration::from_secs(8);

/// How long a server that ends waits for its last words to be sent.
const LAST_WORDS_MAX: Duration = Duration::from_millis(300);

/// What is to be told to the master. Dropped while there is none.
#[derive(Debug)]
pub(crate) struct MasterLink {
    words: mpsc::UnboundedSender<(u64, ServerToMaster)>,
    task: JoinHandle<()>,
    /// Counts connections: words for an earlier one are not said on a later one.
    connection: u64,
}

impl MasterLink {
    /// Starts the task that keeps the connection.
    pub(crate) fn start(address: String, introduction: Arc<Introduction>, teller: Teller) -> Self {
        let (words, to_say) = mpsc::unbounded_channel();
        let task = tokio::spawn(keep(address, introduction, teller, to_say));
        Self {
            words,
            task,
            connection: 0,
        }
    }

    /// Notes that a new connection stands.
    pub(crate) fn up(&mut self) {
        self.connection += 1;
    }

    /// Tells the master.
    pub(crate) fn tell(&self, word: ServerToMaster) {
        // The task ends with the runtime only.
        drop(self.words.send((self.connection, word)));
    }

    /// Says what there is still to say, in bounded time, and ends.
    pub(crate) async fn finish(self) {
        let Self {
            words, mut task, ..
        } = self;
        drop(words);
        if tokio::time::timeout(LAST_WORDS_MAX, &mut task)
            .await
            .is_err()
        {
            task.abort();
        }
    }
}

async fn keep(
    address: String,
    introduction: Arc<Introduction>,
    teller: Teller,
    mut to_say: mpsc::UnboundedReceiver<(u64, ServerToMaster)>,
) {
    let mut pause = BACK_OFF_FIRST;
    let mut connection = 0;
    let mut told = None;
    let mut turned_away = false;
    while !teller.is_closed() {
        let dialed = dial(&introduction, &address, Channel::Master, Expected::Master).await;
        let error = match dialed.map(|connected| (connected.peer.cluster, connected)) {
            Ok((Some(cluster), connected)) => {
                if turned_away {
                    tracing::debug!(%address, %cluster, "the master is here");
                } else {
                    tracing::info!(%address, %cluster, "the master is here");
                }
                connection += 1;
                let began = Instant::now();
                let error = talk(connected, cluster, connection, &teller, &mut to_say).await;
                drop(teller.send(News::MasterDown));
                turned_away = began.elapsed() < STANDS_AFTER;
                if !turned_away {
                    (pause, told) = (BACK_OFF_FIRST, None);
                }
                if to_say.is_closed() {
                    return;
                }
                error
            }
            Ok((None, _)) => ConnectError::NotServer,
            Err(error) => {
                turned_away = false;
                error
            }
        };
        // Each reason once: behind "connection refused" there may be "another cluster".
        let reason = Causes(&error).to_string();
        if told.as_ref() == Some(&reason) {
            tracing::debug!(%address, error = reason, "the master cannot be reached");
        } else {
            tracing::warn!(%address, error = reason, "the master cannot be reached; trying on");
            if let (ConnectError::Refused(refusal), Some(cluster)) =
                (&error, introduction.cluster())
                && refusal.is_of_other_cluster()
            {
                tracing::warn!(
                    "this server's stores belong to cluster {cluster}: put that cluster's master directory or a backup of it back; if both are lost, start a master on an empty directory with --adopt-cluster {cluster}"
                );
            }
            told = Some(reason);
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = closed(&mut to_say) => return,
        }
        pause = (pause * 2).min(BACK_OFF_MAX);
    }
}

/// Waits until nothing will be said any more; what is said meanwhile has no hearer.
async fn closed(to_say: &mut mpsc::UnboundedReceiver<(u64, ServerToMaster)>) {
    while to_say.recv().await.is_some() {}
}

/// Carries words in both directions until the connection ends.
async fn talk(
    connected: Connected,
    cluster: ClusterId,
    connection: u64,
    teller: &Teller,
    to_say: &mut mpsc::UnboundedReceiver<(u64, ServerToMaster)>,
) -> ConnectError {
    let Connected {
        stream,
        mut decoder,
        ..
    } = connected;
    let (mut reader, mut writer) = stream.into_split();
    drop(teller.send(News::MasterUp { cluster }));
    let hear = async {
        loop {
            let heard = tokio::time::timeout(SILENCE_MAX, receive(&mut reader, &mut decoder));
            match heard.await {
                Err(_) => return ConnectError::TimedOut,
                Ok(Err(error)) => return error,
                Ok(Ok(Message::MasterToServer(word))) => {
                    drop(teller.send(News::MasterSaid(word)));
                }
                Ok(Ok(_)) => return ConnectError::NotHello,
            }
        }
    };
    let say = async {
        while let Some((meant_for, word)) = to_say.recv().await {
            if meant_for != connection {
                continue;
            }
            let message = Message::ServerToMaster(Box::new(word));
            if let Err(error) = send_message(&mut writer, &message).await {
                return error;
            }
        }
        std::io::Error::from(std::io::ErrorKind::BrokenPipe).into()
    };
    tokio::select! {
        error = hear => error,
        error = say => error,
    }
}

#[cfg(test)]
mod tests {
    use moorline_types::{BootId, BufferPool};
    use moorline_wire::hello::{Identity, Serves};
    use tokio::net::TcpListener;

    use super::*;
    use crate::{config::Exposure, inbox::inbox, transport::accept};

    fn introduction(who: Identity) -> Arc<Introduction> {
        let cluster = Some(ClusterId::new(9));
        let pool = BufferPool::new();
        Arc::new(Introduction::new(
            who,
            None,
            Exposure::Guarded,
            cluster,
            pool,
        ))
    }

    #[tokio::test]
    async fn a_server_that_is_turned_away_comes_back_at_a_slackening_pace() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let master = introduction(Identity::Master {
            boot: BootId::new(1),
        });
        let server = introduction(Identity::Server {
            server: "s1".parse().unwrap(),
            boot: BootId::new(2),
            data_addr: String::new(),
            control_addr: String::new(),
        });
        let (teller, _inbox) = inbox();
        let address = listener.local_addr().unwrap().to_string();
        let began = Instant::now();
        let link = MasterLink::start(address, server, teller);
        for _ in 0..5 {
            let (stream, from) = listener.accept().await.unwrap();
            // Known, greeted, and sent away, as the second server of one id is.
            drop(
                accept(&master, stream, from, Serves::AsMaster)
                    .await
                    .unwrap(),
            );
        }
        // Pauses of 50, 100, 200 and 400 ms.
        assert!(began.elapsed() >= BACK_OFF_FIRST * 15);
        link.finish().await;
    }
}
