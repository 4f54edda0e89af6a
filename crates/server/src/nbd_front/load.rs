//! How many bytes are in flight.

use std::collections::VecDeque;

use moorline_volume::client::ClientId;

/// What every request counts for at least: its bookkeeping here and in the node.
pub(super) const REQUEST_BYTES_MIN: usize = 4096;

/// Bytes in flight on all connections.
#[derive(Debug)]
pub(super) struct TotalLoad {
    bytes: usize,
    bytes_max: usize,
    /// Who was held back because of the others, in order.
    waiting: VecDeque<ClientId>,
    /// Whether something was counted out since they were all told the last time.
    has_shrunk: bool,
}

impl TotalLoad {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes: 0,
            bytes_max,
            waiting: VecDeque::new(),
            has_shrunk: false,
        }
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.bytes == 0 || self.bytes.saturating_add(bytes) <= self.bytes_max
    }

    /// The next one to be told that there may be room again.
    pub(super) fn next_waiting(&mut self) -> Option<ClientId> {
        if self.has_shrunk {
            self.has_shrunk = !self.waiting.is_empty();
            self.waiting.pop_front()
        } else {
            None
        }
    }
}

/// Bytes in flight on one connection: requests that were not answered, and answers not sent.
#[derive(Debug)]
pub(super) struct Load {
    client: ClientId,
    bytes: usize,
    bytes_max: usize,
}

/// Whether a request may come in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(super) enum Admission {
    /// It may, and counts from here on.
    Granted,
    /// When some of the connection's own are answered.
    WaitsForOwn,
    /// When some of others' are answered: the front tells.
    WaitsForOthers,
}

impl Load {
    pub(super) fn new(client: ClientId, bytes_max: usize) -> Self {
        Self {
            client,
            bytes: 0,
            bytes_max,
        }
    }

    /// Counts `bytes` in, if there is room. One request is always let in when there is no other.
    pub(super) fn admit(&mut self, bytes: usize, total: &mut TotalLoad) -> Admission {
        if self.bytes > 0 && self.bytes.saturating_add(bytes) > self.bytes_max {
            return Admission::WaitsForOwn;
        }
        if !total.has_room(bytes) {
            if !total.waiting.contains(&self.client) {
                total.waiting.push_back(self.client);
            }
            return Admission::WaitsForOthers;
        }
        self.add(bytes, total);
        Admission::Granted
    }

    /// Counts in what is here already.
    pub(super) fn add(&mut self, bytes: usize, total: &mut TotalLoad) {
        self.bytes += bytes;
        total.bytes += bytes;
    }

    /// Counts out.
    pub(super) fn release(&mut self, bytes: usize, total: &mut TotalLoad) {
        self.bytes = self
            .bytes
            .checked_sub(bytes)
            .expect("only what was counted in goes out");
        total.bytes = total
            .bytes
            .checked_sub(bytes)
            .expect("only what was counted in goes out");
        total.has_shrunk |= bytes > 0;
    }

    /// Whether no more requests are to be looked at for now.
    pub(super) fn is_full(&self) -> bool {
        self.bytes >= self.bytes_max
    }

    /// What is counted in.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lone_request_is_let_in_whatever_its_size_and_others_wait() {
        let mut total = TotalLoad::new(100);
        let mut a = Load::new(ClientId::new(1), 50);
        let mut b = Load::new(ClientId::new(2), 500);
        assert_eq!(a.admit(80, &mut total), Admission::Granted);
        assert_eq!(a.admit(1, &mut total), Admission::WaitsForOwn);
        assert_eq!(b.admit(30, &mut total), Admission::WaitsForOthers);
        assert_eq!(b.admit(30, &mut total), Admission::WaitsForOthers);
        a.release(80, &mut total);
        assert_eq!(total.next_waiting(), Some(ClientId::new(2)));
        assert_eq!(total.next_waiting(), None);
        assert_eq!(b.admit(30, &mut total), Admission::Granted);
    }
}
