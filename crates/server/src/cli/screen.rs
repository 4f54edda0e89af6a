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

/// What a terminal has that does not say it.
const SIZE_DEFAULT: Size = Size {
    rows: 24,
    columns: 80,
};

/// Room on a terminal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Size {
    /// Lines.
    pub rows: usize,
    /// Characters in a line.
    pub columns: usize,
}

/// A terminal that shows one text; given back as it was when this is dropped.
#[derive(Debug)]
pub struct Screen {
    shown: Option<(String, Size)>,
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
        let size = size();
        let next = (text.to_owned(), size);
        if self.shown.as_ref() != Some(&next) {
            put(&frame(text, size));
            self.shown = Some(next);
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        put(LEAVE);
    }
}

/// How much fits on the terminal.
#[must_use]
pub fn size() -> Size {
    match rustix::termios::tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => Size {
            rows: usize::from(size.ws_row),
            columns: usize::from(size.ws_col),
        },
        Ok(_) | Err(_) => SIZE_DEFAULT,
    }
}

/// The first `columns` characters of `line`. Colours take no room and are all kept, so that none
/// stays on behind a line that was cut.
fn cut(line: &str, columns: usize) -> String {
    let mut kept = String::with_capacity(line.len());
    let mut seen = 0;
    let mut in_colour = false;
    for char in line.chars() {
        if char == '\x1b' {
            in_colour = true;
        }
        if in_colour {
            kept.push(char);
            in_colour = char != 'm';
        } else if seen < columns {
            kept.push(char);
            seen += 1;
        }
    }
    kept
}

/// The bytes that paint `text` over whatever is shown, without a flicker of empty lines.
fn frame(text: &str, Size { rows, columns }: Size) -> String {
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
        // Emptied first: behind a line as wide as the terminal it would take the last character.
        painted.push_str("\x1b[K");
        painted.push_str(&cut(line, columns));
    }
    if !fits {
        let left = lines.len() - shown;
        let more = format!("... {left} more lines: `moorline status`");
        painted.push_str("\r\n\x1b[K");
        painted.push_str(&cut(&more, columns));
    }
    if shown < rows && fits {
        painted.push_str("\r\n\x1b[J");
    }
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
        let size = |rows, columns| Size { rows, columns };
        expect![[r#""\u{1b}[H\u{1b}[Ka\r\n\u{1b}[Kb""#]]
            .assert_eq(&format!("{:?}", frame("a\nb\n", size(2, 80))));
        expect![[r#""\u{1b}[H\u{1b}[Ka\r\n\u{1b}[Kb\r\n\u{1b}[J""#]]
            .assert_eq(&format!("{:?}", frame("a\nb\n", size(3, 80))));
        expect![[r#""\u{1b}[H\u{1b}[Ka\r\n\u{1b}[K... 2 more lines: `moorline status`""#]]
            .assert_eq(&format!("{:?}", frame("a\nb\nc\n", size(2, 80))));
    }

    #[test]
    fn a_line_as_wide_as_the_terminal_is_whole_and_a_wider_one_is_cut() {
        for (line, columns, want) in [
            ("VERSION", 7, "VERSION"),
            ("VERSION", 6, "VERSIO"),
            ("\x1b[32mok\x1b[0m then", 4, "\x1b[32mok\x1b[0m t"),
            ("\x1b[31mdown\x1b[0m", 2, "\x1b[31mdo\x1b[0m"),
            ("größer", 4, "größ"),
        ] {
            assert_eq!(cut(line, columns), want);
        }
    }
}
