//! How many bytes are in flight.

use std::collections::VecDeque;

use moorline_volume::client::ClientId;

/// What every request counts for at least: its bookkeeping here and in the node.
pub(super) const REQUEST_BYTES_MIN: usize = 4096;

/// A quarter of the total is kept for the connections' own shares.
const SHARES_PART: usize = 4;

/// Bytes in flight on all connections.
///
/// Each connection has a small share of its own, which nobody else can fill: a client that announces
/// a long write and falls silent, or asks for much and takes nothing, keeps no other from its small
/// requests. What a connection holds beyond its share comes out of the rest, first come first served.
#[derive(Debug)]
pub(super) struct TotalLoad {
    /// What connections hold beyond their shares.
    common: usize,
    common_max: usize,
    /// What each connection may hold whatever the others do.
    share: usize,
    /// Who was held back because of the others, in order.
    waiting: VecDeque<ClientId>,
    /// Whether something was counted out since they were all told the last time.
    has_shrunk: bool,
}

impl TotalLoad {
    pub(super) fn new(bytes_max: usize, connections_max: usize) -> Self {
        let share = bytes_max / SHARES_PART / connections_max.max(1);
        Self {
            common: 0,
            common_max: bytes_max - share * connections_max,
            share,
            waiting: VecDeque::new(),
            has_shrunk: false,
        }
    }

    /// What a connection with `bytes` in flight holds beyond its share.
    fn beyond(&self, bytes: usize) -> usize {
        bytes.saturating_sub(self.share)
    }

    fn has_room(&self, more: usize) -> bool {
        more == 0 || self.common == 0 || self.common.saturating_add(more) <= self.common_max
    }

    /// Whether somebody waits for what others hold.
    pub(super) fn is_wanted(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Forgets a connection that has ended.
    pub(super) fn forget(&mut self, client: ClientId) {
        self.waiting.retain(|waiting| *waiting != client);
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
        let more = total.beyond(self.bytes.saturating_add(bytes)) - self.beyond(total);
        if !total.has_room(more) {
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
        total.common -= self.beyond(total);
        self.bytes += bytes;
        total.common += self.beyond(total);
    }

    /// Counts out.
    pub(super) fn release(&mut self, bytes: usize, total: &mut TotalLoad) {
        let before = self.beyond(total);
        self.bytes = self
            .bytes
            .checked_sub(bytes)
            .expect("only what was counted in goes out");
        let given_back = before - self.beyond(total);
        total.common = total
            .common
            .checked_sub(given_back)
            .expect("only what was counted in goes out");
        total.has_shrunk |= given_back > 0;
    }

    /// What the others could use if it were given back.
    pub(super) fn beyond(&self, total: &TotalLoad) -> usize {
        total.beyond(self.bytes)
    }

    /// Whether no more requests are to be looked at for now.
    ///
    /// Answers are counted without asking for room. When they alone have filled the total, those who
    /// have more than their share in flight go on when some of their own are gone.
    pub(super) fn is_full(&self, total: &TotalLoad) -> bool {
        let total_is_over = total.common > total.common_max;
        self.bytes >= self.bytes_max || (total_is_over && self.beyond(total) > 0)
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
        let mut total = TotalLoad::new(100, 512);
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

    #[test]
    fn a_small_request_is_let_in_whatever_the_others_hold() {
        // A share of 10 for each of ten, and 300 for all.
        let mut total = TotalLoad::new(400, 10);
        let mut hog = Load::new(ClientId::new(1), 1000);
        let mut small = Load::new(ClientId::new(2), 1000);
        assert_eq!(hog.admit(310, &mut total), Admission::Granted);
        assert_eq!(hog.admit(1, &mut total), Admission::WaitsForOthers);
        assert_eq!(small.admit(4, &mut total), Admission::Granted);
        assert_eq!(small.admit(6, &mut total), Admission::Granted);
        assert_eq!(small.admit(1, &mut total), Admission::WaitsForOthers);
        // What comes out of a share makes no room for others, and what comes out of the rest does.
        small.release(5, &mut total);
        assert_eq!(total.next_waiting(), None);
        hog.release(1, &mut total);
        assert_eq!(total.next_waiting(), Some(ClientId::new(1)));
        assert_eq!(total.next_waiting(), Some(ClientId::new(2)));
        assert_eq!(small.admit(6, &mut total), Admission::Granted);
        hog.release(309, &mut total);
        small.release(11, &mut total);
        assert_eq!(total.common, 0);
    }

    #[test]
    fn answers_that_fill_the_total_hold_back_whoever_has_more_than_a_share() {
        let mut total = TotalLoad::new(400, 10);
        let mut greedy = Load::new(ClientId::new(1), 1000);
        let mut modest = Load::new(ClientId::new(2), 1000);
        greedy.add(311, &mut total);
        modest.add(10, &mut total);
        assert!(greedy.is_full(&total));
        assert!(!modest.is_full(&total));
        greedy.release(1, &mut total);
        assert!(!greedy.is_full(&total));
    }
}
