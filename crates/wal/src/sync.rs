//! The primitives that pins stand on: real ones, or loom's when its models run.

#[cfg(loom)]
pub(crate) use loom::sync::Arc;
#[cfg(not(loom))]
pub(crate) use std::sync::Arc;

/// A mutual exclusion lock that is never poisoned.
#[derive(Debug)]
pub(crate) struct Mutex<T>(Inner<T>);

#[cfg(not(loom))]
type Inner<T> = parking_lot::Mutex<T>;
#[cfg(loom)]
type Inner<T> = loom::sync::Mutex<T>;

#[cfg(not(loom))]
type Guard<'a, T> = parking_lot::MutexGuard<'a, T>;
#[cfg(loom)]
type Guard<'a, T> = loom::sync::MutexGuard<'a, T>;

impl<T> Mutex<T> {
    /// A lock over `value`.
    pub(crate) fn new(value: T) -> Self {
        Self(Inner::new(value))
    }

    /// Waits for the lock. Held for a few instructions only, never across a call out.
    #[cfg(not(loom))]
    pub(crate) fn lock(&self) -> Guard<'_, T> {
        self.0.lock()
    }

    /// Waits for the lock.
    #[cfg(loom)]
    pub(crate) fn lock(&self) -> Guard<'_, T> {
        self.0
            .lock()
            .expect("a model that panicked has failed already")
    }
}
