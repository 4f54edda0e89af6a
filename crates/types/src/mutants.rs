//! Planted bugs: how a crate names them, and how nothing is left of them in a production build.

/// Declares the bugs that a simulator can plant in a crate at run time: an enum of them, and a set.
///
/// The calling crate has a feature `mutants`. Without it the set is empty and takes no room, and its
/// `has` is constant, so that the planted branches are gone from the build; both types are always
/// there, so that callers need no conditions of their own. At most 64 bugs.
///
/// ```
/// moorline_types::mutants! {
///     /// A bug to plant.
///     pub enum Mutant {
///         /// Flushes are answered and not made.
///         FlushSkipped,
///     }
///     /// The bugs planted in one log. None by default.
///     pub struct Mutants;
/// }
/// assert_eq!(Mutants::NONE, Mutants::default());
/// assert!(!Mutants::NONE.has(Mutant::FlushSkipped));
/// ```
#[macro_export]
macro_rules! mutants {
    (
        $(#[$of_enum:meta])*
        pub enum $mutant:ident { $($(#[$of_bug:meta])* $bug:ident,)+ }
        $(#[$of_set:meta])*
        pub struct $set:ident;
    ) => {
        $(#[$of_enum])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum $mutant { $($(#[$of_bug])* $bug,)+ }

        $(#[$of_set])*
        #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
        pub struct $set {
            #[cfg(feature = "mutants")]
            bits: u64,
        }

        impl $set {
            /// No bug.
            pub const NONE: Self = Self {
                #[cfg(feature = "mutants")]
                bits: 0,
            };

            /// These bugs and `mutant`.
            #[cfg(feature = "mutants")]
            #[must_use]
            pub const fn with(self, mutant: $mutant) -> Self {
                Self {
                    bits: self.bits | 1 << mutant as u64,
                }
            }

            /// Whether `mutant` is planted.
            #[cfg(feature = "mutants")]
            pub(crate) const fn has(self, mutant: $mutant) -> bool {
                self.bits & 1 << mutant as u64 != 0
            }

            /// Whether `mutant` is planted: never in this build.
            #[cfg(not(feature = "mutants"))]
            pub(crate) const fn has(self, _mutant: $mutant) -> bool {
                false
            }
        }
    };
}
