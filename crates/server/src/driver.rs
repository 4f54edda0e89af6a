//! The one loop: drain what is ready, `handle` each, `submit` once, carry out the actions.
//!
//! One task on one thread owns node, ring and sockets: a write costs no wake-up but the ones that
//! the kernel gives. What is ready when a turn begins is the batch; a batch shares one log write, one
//! vectored send per connection and one submission to the ring. Nothing is decided here.

use std::{
    future::{Future, poll_fn},
    io,
    os::fd::OwnedFd,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use moorline_blockvol::device::{Armed, Completion, DeviceSet, DeviceTag, Submission};
use moorline_types::Instant;
use moorline_volume::{
    Action, DeviceKey, Event, Node,
    journal::{Happening, NodeEvent},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    task::coop::unconstrained,
    time::Sleep,
};

use crate::{
    clock,
    inbox::{Inbox, News, Teller},
    master_link::MasterLink,
    nbd_front::NbdFront,
    note,
    ready::{Ready, ReadyList, Source},
    stores::Stores,
    transport::{Introduction, Links, dial_server},
};

/// How long a clean stop may take before the process ends without one.
const STOP_MAX: Duration = Duration::from_secs(15);

/// Most times that a turn lets actions lead to events and these to actions. The rest waits for the
/// next turn, so that sockets and disk are not kept waiting by a quarrel between node and driver.
const ROUNDS_MAX: usize = 8;

/// How a driver ended.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use]
pub(crate) enum Ended {
    /// Every store came to rest.
    Cleanly,
    /// It took too long, or the operator asked twice.
    Hastily,
    /// The store on the one device that this server was given is none that it may open.
    StoreRefused(Box<str>),
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Stopping {
    No,
    /// By then it is over.
    Until(Instant),
    Over(Ended),
}

/// What a driver is made of.
pub(crate) struct Parts {
    pub(crate) node: Node,
    pub(crate) devices: Box<dyn DeviceSet>,
    pub(crate) stores: Stores,
    pub(crate) nbd: NbdFront,
    pub(crate) master: MasterLink,
    pub(crate) introduction: Arc<Introduction>,
    pub(crate) teller: Teller,
    pub(crate) inbox: Inbox,
    pub(crate) list: Arc<ReadyList>,
}

/// The loop's state.
pub(crate) struct Driver {
    parts: Parts,
    links: Links,
    /// The devices' event descriptor, and who it wakes.
    bell: AsyncFd<OwnedFd>,
    bell_waker: Waker,
    alarm: Pin<Box<Sleep>>,
    /// When the alarm rings; `None` when it has.
    alarm_at: Option<Instant>,
    /// Facts that carrying out an action brought about, for the next round.
    events: Vec<Event>,
    actions: Vec<Action>,
    // Emptied in every turn, and kept for their memory.
    spare_actions: Vec<Action>,
    sources: Vec<Source>,
    submissions: Vec<Submission>,
    completions: Vec<Completion>,
    stopping: Stopping,
}

impl Driver {
    /// Puts the parts together; nothing runs yet.
    pub(crate) fn new(parts: Parts) -> io::Result<Self> {
        let event_fd = parts.devices.event_fd().try_clone_to_owned()?;
        #[allow(
            deprecated,
            reason = "its successor is unsafe for types that may change their descriptor; `OwnedFd` cannot"
        )]
        let bell = AsyncFd::with_interest(event_fd, Interest::READABLE)?;
        let bell_ready: Arc<Ready> = parts.list.entry(Source::Devices);
        bell_ready.list();
        let links = Links::new(Arc::clone(&parts.list));
        Ok(Self {
            parts,
            links,
            bell,
            bell_waker: Waker::from(bell_ready),
            alarm: Box::pin(tokio::time::sleep(Duration::ZERO)),
            alarm_at: None,
            events: Vec::new(),
            actions: Vec::new(),
            spare_actions: Vec::new(),
            sources: Vec::new(),
            submissions: Vec::new(),
            completions: Vec::new(),
            stopping: Stopping::No,
        })
    }

    /// Tells the node of something before the loop begins.
    pub(crate) fn tell(&mut self, event: Event) {
        self.events.push(event);
    }

    /// Runs until the node has stopped.
    pub(crate) async fn run(mut self) -> Ended {
        // Fairness among sockets is kept here, by bounds per turn; the runtime's own would cut
        // batches short.
        let ended = unconstrained(poll_fn(|cx| self.turn(cx))).await;
        self.parts.master.finish().await;
        ended
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        self.parts.list.set_driver(cx.waker());
        let now = clock::now();
        self.take_completions(now);
        self.take_news(now, cx);
        self.take_sockets(now);
        self.take_deadlines(now);
        // Clients are answered by a clock that is read after the last request was taken in. Were
        // this process stopped between an older reading and a request's arrival, its lease would
        // look live to a request that came after the lease had ended.
        let now = clock::now();
        self.settle(now);
        match &self.stopping {
            Stopping::Over(ended) => Poll::Ready(ended.clone()),
            Stopping::No | Stopping::Until(_) => {
                self.rest(now, cx);
                Poll::Pending
            }
        }
    }

    fn take_completions(&mut self, now: Instant) {
        if self.parts.devices.in_flight() == 0 {
            return;
        }
        self.parts.devices.reap(&mut self.completions);
        for Completion { device, done } in self.completions.drain(..) {
            let device = DeviceKey::new(device.get());
            let event = Event::DeviceDone { device, done };
            self.parts.node.handle(now, event, &mut self.actions);
        }
        self.parts.stores.remove_idle(&mut *self.parts.devices);
    }

    fn take_sockets(&mut self, now: Instant) {
        let mut sources = std::mem::take(&mut self.sources);
        self.parts.list.take(&mut sources);
        let Parts { node, nbd, .. } = &mut self.parts;
        let actions = &mut self.actions;
        let mut sink = |event| node.handle(now, event, actions);
        for source in sources.drain(..) {
            match source {
                Source::Link(link) => self.links.turn(link, &mut sink),
                Source::Client(client) => nbd.turn(client, &mut sink),
                Source::Devices => {
                    let mut cx = Context::from_waker(&self.bell_waker);
                    // It is never read: each ring is an edge of its own.
                    while let Poll::Ready(Ok(mut guard)) = self.bell.poll_read_ready(&mut cx) {
                        guard.clear_ready();
                    }
                }
            }
        }
        self.sources = sources;
    }

    fn take_news(&mut self, now: Instant, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(news)) = self.parts.inbox.poll_recv(cx) {
            let event = match news {
                News::Visited(visitor) => {
                    self.parts.nbd.visit(now, visitor);
                    continue;
                }
                News::Linked {
                    connected,
                    direction,
                } => match self.links.add(*connected, direction) {
                    Some(event) => event,
                    None => continue,
                },
                News::DialFailed { server } => Event::DialFailed { server },
                News::MasterUp { cluster } => {
                    self.parts.master.up();
                    Event::MasterUp { cluster }
                }
                News::MasterDown => Event::MasterDown,
                News::MasterSaid(word) => {
                    self.overhear(&word);
                    Event::MasterSaid(*word)
                }
                News::DeviceMade { volume, outcome } => {
                    let stores = &mut self.parts.stores;
                    let outcome = stores.created(outcome, &mut *self.parts.devices);
                    Event::DeviceCreated { volume, outcome }
                }
                News::Scraped(ask) => {
                    // Whoever asked may be gone.
                    let _unasked = ask.send(self.parts.node.report(now));
                    continue;
                }
                News::StopRequested => match self.stop_requested(now) {
                    Some(event) => event,
                    None => continue,
                },
            };
            self.parts.node.handle(now, event, &mut self.actions);
        }
    }

    /// The cluster that this server was registered in is written down and named in hellos.
    fn overhear(&mut self, word: &moorline_wire::control::MasterToServer) {
        if let moorline_wire::control::MasterToServer::Registered { cluster, .. } = word {
            self.parts.stores.joined(*cluster);
            self.parts.introduction.set_cluster(*cluster);
        }
    }

    fn stop_requested(&mut self, now: Instant) -> Option<Event> {
        match self.stopping {
            Stopping::No => {
                tracing::info!("stopping: handing over and coming to rest");
                self.stopping = Stopping::Until(now.after(STOP_MAX));
                self.parts.nbd.shut_down();
                Some(Event::StopRequested)
            }
            Stopping::Until(_) => {
                self.stopping = Stopping::Over(Ended::Hastily);
                None
            }
            Stopping::Over(_) => None,
        }
    }

    fn take_deadlines(&mut self, now: Instant) {
        let Parts { node, nbd, .. } = &mut self.parts;
        let actions = &mut self.actions;
        nbd.on_deadline(now, &mut |event| node.handle(now, event, actions));
        if node.next_deadline().is_some_and(|deadline| deadline <= now) {
            node.handle(now, Event::DeadlineReached, actions);
        }
        if let Stopping::Until(deadline) = self.stopping
            && deadline <= now
        {
            tracing::warn!("the stores did not come to rest in time; the next start sees to them");
            self.stopping = Stopping::Over(Ended::Hastily);
        }
    }

    /// Ends the batch and carries out what it asks for, until nothing follows from it any more.
    fn settle(&mut self, now: Instant) {
        for _ in 0..ROUNDS_MAX {
            for event in self.events.drain(..) {
                self.parts.node.handle(now, event, &mut self.actions);
            }
            self.parts.node.submit(now, &mut self.actions);
            let spare = std::mem::take(&mut self.spare_actions);
            let mut actions = std::mem::replace(&mut self.actions, spare);
            for action in actions.drain(..) {
                self.act(action);
            }
            self.spare_actions = actions;
            self.flush(now);
            if self.events.is_empty() {
                return;
            }
        }
    }

    /// Sends and submits what the actions queued. Records leave for the peers first: theirs is the
    /// longer way.
    fn flush(&mut self, now: Instant) {
        let events = &mut self.events;
        self.links.flush(&mut |event| events.push(event));
        if !self.submissions.is_empty() {
            self.parts.devices.submit(&mut self.submissions);
        }
        self.parts.nbd.flush(now, &mut |event| events.push(event));
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Device { device, op } => self.submissions.push(Submission {
                device: DeviceTag::new(device.get()),
                op,
            }),
            Action::Send { link, message } => self.events.extend(self.links.send(link, &message)),
            Action::Reply {
                client,
                request,
                reply,
            } => self.parts.nbd.reply(client, request, reply),
            Action::TellMaster(word) => self.parts.master.tell(word),
            Action::HangUp { link } => self.events.extend(self.links.hang_up(link)),
            Action::Dial { server, address } => dial_server(
                server,
                address,
                Arc::clone(&self.parts.introduction),
                self.parts.teller.clone(),
            ),
            Action::CreateDevice { volume, bytes } => {
                let Parts { stores, teller, .. } = &mut self.parts;
                if stores.is_whole_device() {
                    let outcome = stores.hand_out(bytes);
                    self.events.push(Event::DeviceCreated { volume, outcome });
                } else {
                    stores.create(volume, bytes, teller);
                }
            }
            Action::RemoveDevice { device } => {
                let Parts {
                    stores, devices, ..
                } = &mut self.parts;
                stores.remove(device, &mut **devices);
            }
            Action::SetExport {
                volume,
                name,
                state,
            } => {
                let events = &mut self.events;
                let nbd = &mut self.parts.nbd;
                nbd.set_export(volume, name, state, &mut |event| events.push(event));
            }
            Action::Note(event) => self.note(&event),
            Action::Stopped => self.stopping = Stopping::Over(Ended::Cleanly),
        }
    }

    fn note(&mut self, event: &NodeEvent) {
        note::log(self.parts.node.server(), event);
        // In a directory there are other stores to serve. A server with one device would sit there
        // for nothing, while whoever started it believes that it serves.
        if let Happening::StoreRefused { reason } = &event.what
            && self.parts.stores.is_whole_device()
        {
            self.stopping = Stopping::Over(Ended::StoreRefused(reason.clone()));
        }
    }

    /// Sees to it that whatever comes next wakes the task.
    fn rest(&mut self, now: Instant, cx: &mut Context<'_>) {
        let armed = match self.parts.devices.in_flight() {
            0 => Armed::Quiet,
            _ => self.parts.devices.arm(),
        };
        if !self.events.is_empty() || armed == Armed::Ready {
            cx.waker().wake_by_ref();
        }
        let look_again = match armed {
            Armed::QuietFor(wait) => Some(now.after(wait)),
            Armed::Quiet | Armed::Ready => None,
        };
        let stop_by = match self.stopping {
            Stopping::Until(deadline) => Some(deadline),
            Stopping::No | Stopping::Over(_) => None,
        };
        let next = [
            self.parts.node.next_deadline(),
            self.parts.nbd.next_deadline(),
            look_again,
            stop_by,
        ];
        // The runtime's clock is another one, and coarser: it alone knows whether it rang.
        if self.alarm.is_elapsed() {
            self.alarm_at = None;
        }
        let Some(next) = next.into_iter().flatten().min() else {
            return;
        };
        // An alarm that rings too early costs one turn; setting it anew costs something every time.
        if self.alarm_at.is_none_or(|at| next < at) {
            self.alarm_at = Some(next);
            let wait = clock::until(next, now);
            self.alarm
                .as_mut()
                .reset(tokio::time::Instant::now() + wait);
            if self.alarm.as_mut().poll(cx).is_ready() {
                self.alarm_at = None;
                cx.waker().wake_by_ref();
            }
        }
    }
}
