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
    }

    /// The bugs planted in one log. None by default.
    pub struct Mutants;
}
