//! Stepwise execution of recovery plans.
