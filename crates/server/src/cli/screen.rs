//! A status that stays on one screen, and its changes as plain lines.
//!
//! [`Screen`] takes a terminal over and shows one text, painted anew only when text or size changed.
//! [`Changes`] is for everything else that standard output may be: a line per change, none when
//! nothing changed.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal, Write},
    time::{SystemTime, UNIX_EPOCH},
};

use moorline_wire::control::{ClusterStatus, ServerState};

use super::output;

/// The other screen, no cursor, and lines cut at the edge instead of wrapped.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// Rows of a terminal that does not say how many it has.
const ROWS_DEFAULT: usize = 24;

/// A terminal that shows one text; given back as it was when this is dropped.
#[derive(Debug)]
pub struct Screen {
    shown: Option<(String, usize)>,
}

impl Screen {
    /// Takes standard output over; `None` when it is no terminal.
    #[must_use]
    pub fn open() -> Option<Self> {
        if !io::stdout().is_terminal() {
            return None;
        }
        put(ENTER);
        Some(Self { shown: None })
    }

    /// Shows `text` from the top, unless it is there already. What does not fit is left out, and
    /// said so.
    pub fn show(&mut self, text: &str) {
        let rows = rows();
        let next = (text.to_owned(), rows);
        if self.shown.as_ref() != Some(&next) {
            put(&frame(text, rows));
            self.shown = Some(next);
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        put(LEAVE);
    }
}

fn rows() -> usize {
    match rustix::termios::tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_row > 0 => usize::from(size.ws_row),
        Ok(_) | Err(_) => ROWS_DEFAULT,
    }
}

/// The bytes that paint `text` over whatever is shown, without a flicker of empty lines.
fn frame(text: &str, rows: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let mut painted = "\x1b[H".to_owned();
    let fits = lines.len() <= rows;
    let shown = if fits {
        lines.len()
    } else {
        rows.saturating_sub(1)
    };
    for (at, line) in lines.iter().take(shown).enumerate() {
        if at > 0 {
            painted.push_str("\r\n");
        }
        painted.push_str(line);
        painted.push_str("\x1b[K");
    }
    if !fits {
        let left = lines.len() - shown;
        painted.push_str(&format!(
            "\r\n... {left} more lines: `moorline status`\x1b[K"
        ));
    }
    painted.push_str("\x1b[J");
    painted
}

/// Writes to standard output at once; a terminal that went away is nobody to tell.
pub(crate) fn put(text: &str) {
    let mut out = io::stdout().lock();
    // A terminal that went away takes its reader along: there is nobody to tell.
    let _written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Prints one line with the time of day in front; nothing when standard output is gone.
pub fn say(line: &str) {
    put(&format!("{}\n", stamped(line)));
}

/// `line` with the time of day in front, in UTC.
#[must_use]
pub fn stamped(line: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = now.map_or(0, |since| since.as_secs());
    format!("{} {line}", output::clock(seconds))
}

/// Tells what changed from one status to the next.
#[derive(Debug, Default)]
pub struct Changes {
    told: BTreeMap<String, String>,
}

impl Changes {
    /// The lines that are news.
    #[must_use]
    pub fn news(&mut self, cluster: &ClusterStatus) -> Vec<String> {
        let mut now = BTreeMap::new();
        for server in &cluster.servers {
            let state = match server.state {
                ServerState::Up => "up",
                ServerState::Down => "down",
            };
            let line = format!("server {}: {state}", server.server_id);
            now.insert(format!("server {}", server.server_id), line);
        }
        for volume in &cluster.volumes {
            let line = output::summary_line(volume);
            now.insert(format!("volume {}", volume.name), line);
        }
        let mut news: Vec<String> = self
            .told
            .keys()
            .filter(|name| !now.contains_key(*name))
            .map(|name| format!("{name}: gone"))
            .collect();
        let changed = now
            .iter()
            .filter(|(name, line)| self.told.get(*name) != Some(*line));
        news.extend(changed.map(|(_, line)| line.clone()));
        self.told = now;
        news
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn what_does_not_fit_is_left_out_and_said() {
        expect![[r#""\u{1b}[Ha\u{1b}[K\r\nb\u{1b}[K\u{1b}[J""#]]
            .assert_eq(&format!("{:?}", frame("a\nb\n", 2)));
        expect![[r#""\u{1b}[Ha\u{1b}[K\r\n... 2 more lines: `moorline status`\u{1b}[K\u{1b}[J""#]]
            .assert_eq(&format!("{:?}", frame("a\nb\nc\n", 2)));
    }
}
