//! An error with all that caused it, on one line.

use std::{error::Error, fmt};

/// Shows an error and its causes, outermost first. A wrapper that repeats its cause is said once.
pub(crate) struct Causes<'a>(pub(crate) &'a dyn Error);

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = self.0.to_string();
        f.write_str(&said)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            let line = error.to_string();
            if !said.contains(&line) {
                write!(f, ": {line}")?;
                said = line;
            }
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open {name}")]
    struct Outer {
        name: &'static str,
        #[source]
        source: io::Error,
    }

    #[derive(Debug, thiserror::Error)]
    #[error("giving up: {0}")]
    struct Repeats(#[source] io::Error);

    #[test]
    fn every_cause_is_said_once() {
        let source = || io::Error::other("no room");
        let outer = Outer {
            name: "it",
            source: source(),
        };
        assert_eq!(Causes(&outer).to_string(), "cannot open it: no room");
        assert_eq!(Causes(&Repeats(source())).to_string(), "giving up: no room");
    }
}
