//! What a client may ask of a connection's memory and patience.

use crate::protocol::MAXIMUM_BLOCK_BYTES;

/// Bounds that are checked before anything is allocated or skipped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The longest option data that is looked at, in bytes. Longer data is skipped and refused.
    pub option_bytes_max: u32,
    /// The longest option data that is skipped, in bytes. Longer data ends the connection.
    pub option_skip_bytes_max: u32,
    /// The most options of one handshake; one more ends the connection.
    pub options_max: u32,
    /// The most queries in one option about metadata contexts.
    pub queries_max: u32,
    /// The longest READ, WRITE and CACHE, in bytes; the maximum block size that is advertised.
    pub request_bytes_max: u32,
    /// The longest TRIM and WRITE_ZEROES, in bytes.
    ///
    /// They carry no payload, and clients are known to send them far beyond the maximum block size.
    pub range_bytes_max: u32,
    /// The longest payload of a refused WRITE that is skipped, in bytes. Longer ones end the
    /// connection. At least `request_bytes_max`.
    pub write_skip_bytes_max: u32,
    /// The most extents in one answer to BLOCK_STATUS; the client asks again for the rest.
    pub extents_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // A query about sixteen contexts with the longest names fits.
            option_bytes_max: 72 << 10,
            option_skip_bytes_max: MAXIMUM_BLOCK_BYTES,
            // Clients send fewer than ten, plus one or two for each export that they ask about.
            options_max: 4096,
            queries_max: 64,
            request_bytes_max: MAXIMUM_BLOCK_BYTES,
            range_bytes_max: u32::MAX,
            // Skipping costs the client more than us; what no client can mean is not waited for.
            write_skip_bytes_max: 4 * MAXIMUM_BLOCK_BYTES,
            extents_max: 4096,
        }
    }
}

impl Limits {
    /// Checks what the machines rely on.
    ///
    /// # Panics
    ///
    /// If a read or write could be as long as a reply cannot say, or shorter than what clients count
    /// on (64 KiB), if an accepted length of a write could not be skipped, or no extent be told.
    pub fn assert_sound(&self) {
        assert!(self.request_bytes_max >= 64 << 10, "requests are too short");
        assert!(self.request_bytes_max <= 1 << 30, "requests are too long");
        assert!(
            self.write_skip_bytes_max >= self.request_bytes_max,
            "a refused write is longer than what is skipped"
        );
        assert!(
            (1..=1 << 20).contains(&self.extents_max),
            "extents do not fit a reply"
        );
        assert!(
            self.option_skip_bytes_max >= self.option_bytes_max,
            "option data is looked at beyond what is skipped"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_sound() {
        Limits::default().assert_sound();
    }

    #[test]
    fn limits_that_contradict_themselves_are_a_mistake() {
        let unsound: [fn(&mut Limits); 6] = [
            |l| l.request_bytes_max = (64 << 10) - 1,
            |l| l.request_bytes_max = (1 << 30) + 1,
            |l| l.write_skip_bytes_max = l.request_bytes_max - 1,
            |l| l.extents_max = 0,
            |l| l.extents_max = (1 << 20) + 1,
            |l| l.option_skip_bytes_max = l.option_bytes_max - 1,
        ];
        for spoil in unsound {
            let mut limits = Limits::default();
            spoil(&mut limits);
            assert!(std::panic::catch_unwind(|| limits.assert_sound()).is_err());
        }
    }
}
