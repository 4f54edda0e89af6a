//! Bugs that a simulator can plant at run time, to show that it finds them.

moorline_types::mutants! {
    /// A bug to plant.
    pub enum Mutant {
        /// Reclaim frees records that a pin holds.
        IgnorePins,
        /// A frame counts as durable as soon as it is written, before any flush.
        AckBeforeFlush,
        /// Opening does not replay cuts: what was cut comes back.
        CutIgnored,
        /// A failed flush is asked for again, as if it had changed nothing.
        FailedFlushRetried,
        /// A frame of which the device wrote a part counts as written.
        ShortWriteTakenForWhole,
        /// A flush that ends makes durable what was written while it ran.
        FlushCoversLaterWrites,
        /// A durable frame counts before the one in front of it does.
        GapSkipped,
        /// A frame marks the one before it as durable, which may be in flight.
        DurableMarkTooHigh,
        /// A frame without its payload is on the chain.
        PayloadNotVerified,
        /// The chain goes on with any later frame, whatever came before that.
        ChainNotVerified,
        /// What is damaged below a durable mark is taken for a torn end.
        DamageTakenForTornEnd,
        /// One record more than may go is reclaimed.
        RetentionOffByOne,
        /// Records take the room that cuts and marks need in a full ring.
        ReserveIgnored,
    }

    /// The bugs planted in one log. None by default.
    pub struct Mutants;
}
