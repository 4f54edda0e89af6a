//! The engine from outside: against a reference model, and what handling an event costs.

mod causal;
mod model;
mod reference;
