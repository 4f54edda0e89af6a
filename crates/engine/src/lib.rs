//! Recovery state machines: senders, sessions, fences, budgets, verdicts and plans.
