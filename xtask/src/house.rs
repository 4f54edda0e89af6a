//! Rules of the house that no lint knows: sans-IO crates, file sizes, work left open, the documented record format.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{During, Result, ensure, fail};
use crate::workspace::root;

/// Files are split before they get longer.
const MAX_LINES: usize = 1_000;
/// Crates that read no clock, start no thread and await nothing. `blockvol`'s device acts, and is left out below.
const SANS_IO: &[&str] = &[
    "types", "engine", "wal", "executor", "blockvol", "volume", "wire",
];
/// What betrays a clock, a thread, a runtime, a hashed collection.
const ACTS: &[&str] = &[
    "Instant::now",
    "SystemTime::now",
    "std::thread",
    "tokio::",
    "async fn",
    "HashMap",
    "HashSet",
    "thread_rng",
];
/// What may not be left in the code.
const LEFT_OPEN: &[&str] = &[
    "todo!(",
    "unimplemented!(",
    concat!("FIX", "ME"),
    concat!("TO", "DO"),
    "#[ignore",
];
/// The document of the format, the source it describes, and how the one names the other.
const FORMAT_DOC: &str = "docs/on-disk-format.md";
const FORMAT_SOURCE: &str = "crates/wal/src/record.rs";
const FORMAT_MARK: &str = "sha256 of `crates/wal/src/record.rs`: `";

/// Checks all of them; every finding is named, not only the first.
pub(crate) fn check() -> Result<()> {
    let mut findings = Vec::new();
    let mut files = Vec::new();
    for dir in ["crates", "sim", "rig", "xtask", "fuzz", "benches"] {
        rust_files(&root().join(dir), &mut files)?;
    }
    for path in files {
        let name = path
            .strip_prefix(root())
            .unwrap_or(&path)
            .display()
            .to_string();
        let text = std::fs::read_to_string(&path).during(format!("reading {name}"))?;
        file_findings(&name, &text, &mut findings);
    }
    if let Err(error) = check_format_hash() {
        findings.push(error.to_string());
    }
    ensure!(findings.is_empty(), "{}", findings.join("\n"));
    Ok(())
}

fn file_findings(name: &str, text: &str, findings: &mut Vec<String>) {
    let lines = text.lines().count();
    if lines > MAX_LINES {
        findings.push(format!("{name} has {lines} lines: split it"));
    }
    if name == "xtask/src/house.rs" {
        return;
    }
    let sans_io = is_sans_io(name);
    for (number, line) in text.lines().enumerate() {
        let code = line.trim_start();
        for mark in LEFT_OPEN {
            if code.contains(mark) {
                findings.push(format!(
                    "{name}:{} leaves something open: {mark}",
                    number + 1
                ));
            }
        }
        for mark in ACTS {
            if sans_io && !code.starts_with("//") && code.contains(mark) {
                findings.push(format!(
                    "{name}:{} acts in a sans-IO crate: {mark}",
                    number + 1
                ));
            }
        }
    }
}

/// Whether the file belongs to the part of the workspace that a simulator runs as it is.
fn is_sans_io(name: &str) -> bool {
    let Some((krate, rest)) = name
        .strip_prefix("crates/")
        .and_then(|name| name.split_once("/src/"))
    else {
        return false;
    };
    let acting = krate == "blockvol" && (rest.starts_with("device") || rest.starts_with("uring"));
    let test = rest.ends_with("tests.rs") || rest.contains("tests/") || rest.contains("test_");
    // The loom seam names what it replaces.
    SANS_IO.contains(&krate) && !acting && !test && rest != "sync.rs"
}

fn rust_files(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    for entry in std::fs::read_dir(dir).during(format!("reading {}", dir.display()))? {
        let path = entry.during(format!("reading {}", dir.display()))?.path();
        if path.is_dir() {
            if !path.ends_with("target") {
                rust_files(&path, found)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

fn source_hash() -> Result<String> {
    let source =
        std::fs::read(root().join(FORMAT_SOURCE)).during(format!("reading {FORMAT_SOURCE}"))?;
    Ok(Sha256::digest(source)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// The document carries the hash of the source, so that a change of bytes cannot forget it.
fn check_format_hash() -> Result<()> {
    let document =
        std::fs::read_to_string(root().join(FORMAT_DOC)).during(format!("reading {FORMAT_DOC}"))?;
    let Some((_, rest)) = document.split_once(FORMAT_MARK) else {
        fail!(
            "{FORMAT_DOC} does not carry the {FORMAT_MARK}...`; `cargo xtask format-hash` adds it"
        );
    };
    let written = rest.split('`').next().unwrap_or_default();
    let hash = source_hash()?;
    ensure!(
        written == hash,
        "{FORMAT_SOURCE} changed (sha256 {hash}): bring {FORMAT_DOC} up to date, then run `cargo xtask format-hash`"
    );
    Ok(())
}

/// Writes the hash into the document, at its mark or at the end.
pub(crate) fn write_format_hash() -> Result<()> {
    let path = root().join(FORMAT_DOC);
    let document = std::fs::read_to_string(&path).during(format!("reading {FORMAT_DOC}"))?;
    let hash = source_hash()?;
    let written = match document.split_once(FORMAT_MARK) {
        Some((before, rest)) => {
            let after = rest.split_once('`').map_or("", |(_, after)| after);
            format!("{before}{FORMAT_MARK}{hash}`{after}")
        }
        None => format!("{}\n\n{FORMAT_MARK}{hash}`\n", document.trim_end()),
    };
    std::fs::write(&path, written).during(format!("writing {FORMAT_DOC}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_and_tests_may_act_the_rest_may_not() {
        assert!(is_sans_io("crates/wal/src/log.rs"));
        assert!(is_sans_io("crates/blockvol/src/flusher.rs"));
        assert!(!is_sans_io("crates/blockvol/src/device/sync.rs"));
        assert!(!is_sans_io("crates/wal/src/log/tests.rs"));
        assert!(!is_sans_io("crates/server/src/driver.rs"));
    }

    #[test]
    fn a_clock_in_a_sans_io_crate_is_found_and_a_comment_is_not() {
        let mut findings = Vec::new();
        let text = "// no Instant::now here\nlet now = Instant::now();\n";
        file_findings("crates/wal/src/log.rs", text, &mut findings);
        assert_eq!(
            findings,
            ["crates/wal/src/log.rs:2 acts in a sans-IO crate: Instant::now"]
        );
    }
}
