//! Bugs that a simulator can plant at run time, to show that it finds them.

moorline_types::mutants! {
    /// A bug to plant.
    pub enum Mutant {
        /// A verdict never asks for a cut: a divergent tail stays.
        CutSkipped,
        /// Logs are compared by length alone.
        CutByLsn,
    }

    /// The bugs planted in one volume's engine. None by default.
    pub struct Mutants;
}
