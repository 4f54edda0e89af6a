//! The assignment authority: pure rules, stores, service.
