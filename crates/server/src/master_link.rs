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
use tokio::{sync::mpsc, task::JoinHandle};

use crate::{
    causes::Causes,
    inbox::{News, Teller},
    transport::{ConnectError, Connected, Introduction, dial, receive, send_message},
};

/// First and longest pause between two attempts.
const BACK_OFF_FIRST: Duration = Duration::from_millis(50);
const BACK_OFF_MAX: Duration = Duration::from_secs(1);

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
    let mut complained = false;
    while !teller.is_closed() {
        let dialed = dial(&introduction, &address, Channel::Master, Expected::Master).await;
        let error = match dialed.map(|connected| (connected.peer.cluster, connected)) {
            Ok((Some(cluster), connected)) => {
                tracing::info!(%address, %cluster, "the master is here");
                (pause, complained) = (BACK_OFF_FIRST, false);
                connection += 1;
                let error = talk(connected, cluster, connection, &teller, &mut to_say).await;
                drop(teller.send(News::MasterDown));
                if to_say.is_closed() {
                    return;
                }
                error
            }
            Ok((None, _)) => ConnectError::NotServer,
            Err(error) => error,
        };
        if complained {
            tracing::debug!(%address, error = %Causes(&error), "the master cannot be reached");
        } else {
            tracing::warn!(%address, error = %Causes(&error), "the master cannot be reached; trying on");
            complained = true;
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
