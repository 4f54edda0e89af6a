//! Which sockets are ready: each has a waker that puts its name on one list.
//!
//! The driver is one task. Polling every socket at every wake would cost more with every client, so
//! each is polled with a waker of its own, and a turn of the driver looks at the list only.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Wake, Waker},
};

use moorline_volume::{LinkId, client::ClientId};
use parking_lot::Mutex;

/// Who is ready.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Source {
    /// A connection to another server.
    Link(LinkId),
    /// A client's connection.
    Client(ClientId),
    /// The devices.
    Devices,
}

/// The list, shared by all wakers.
#[derive(Default, Debug)]
pub(crate) struct ReadyList {
    sources: Mutex<Vec<Arc<Ready>>>,
    driver: Mutex<Option<Waker>>,
}

/// One source's entry; its waker.
#[derive(Debug)]
pub(crate) struct Ready {
    source: Source,
    is_listed: AtomicBool,
    list: Arc<ReadyList>,
}

impl ReadyList {
    /// Sets whom to wake: the driver's task.
    pub(crate) fn set_driver(&self, waker: &Waker) {
        let mut driver = self.driver.lock();
        if !driver.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *driver = Some(waker.clone());
        }
    }

    /// Moves the names of those that are ready to the end of `sources`.
    pub(crate) fn take(&self, sources: &mut Vec<Source>) {
        for ready in self.sources.lock().drain(..) {
            ready.is_listed.store(false, Ordering::Release);
            sources.push(ready.source);
        }
    }

    /// A new entry for `source`.
    pub(crate) fn entry(self: &Arc<Self>, source: Source) -> Arc<Ready> {
        Arc::new(Ready {
            source,
            is_listed: AtomicBool::new(false),
            list: Arc::clone(self),
        })
    }
}

impl Ready {
    /// Puts the source on the list, as its waker does.
    pub(crate) fn list(self: &Arc<Self>) {
        if self.is_listed.swap(true, Ordering::AcqRel) {
            return;
        }
        self.list.sources.lock().push(Arc::clone(self));
        if let Some(driver) = &*self.list.driver.lock() {
            driver.wake_by_ref();
        }
    }
}

impl Wake for Ready {
    fn wake(self: Arc<Self>) {
        self.list();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.list();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_listed_once_however_often_it_wakes() {
        let list = Arc::new(ReadyList::default());
        let (a, b) = (
            list.entry(Source::Devices),
            list.entry(Source::Client(ClientId::new(3))),
        );
        let waker = Waker::from(Arc::clone(&a));
        waker.wake_by_ref();
        waker.wake();
        b.list();
        let mut sources = Vec::new();
        list.take(&mut sources);
        assert_eq!(sources, [Source::Devices, Source::Client(ClientId::new(3))]);
        a.list();
        list.take(&mut sources);
        assert_eq!(sources.len(), 3, "it can be listed again once it was taken");
    }
}
