//! NBD server protocol over a small back-end trait.
