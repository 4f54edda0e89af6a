//! What the user of a `dev` sees: lines while it starts, then one screen or a line per change.

use std::{collections::VecDeque, env, path::PathBuf, time::Duration};

use moorline_types::ByteCount;
use moorline_wire::control::ClusterStatus;

use super::{
    VOLUME,
    child::{ChildEvent, Start, What},
    home::{Home, Ports},
};
use crate::cli::{
    args::{HostPort, MASTER_DEFAULT},
    output::{self, Paint},
    screen::{Screen, say, size, stamped},
    watch::{Seen, Sight},
};

/// Lines about what happened that the screen keeps.
const RECENT_MAX: usize = 6;

/// Everything that is shown, and to whom.
#[derive(Debug)]
pub(super) struct Show {
    dir: PathBuf,
    nbd: HostPort,
    master: HostPort,
    paint: Paint,
    screen: Option<Screen>,
    recent: VecDeque<String>,
    seen: Seen,
}

impl Show {
    pub(super) fn new(home: &Home, nbd: HostPort, master: &HostPort) -> Self {
        Self {
            dir: home.dir().to_owned(),
            nbd,
            master: master.clone(),
            paint: crate::cli::paint(),
            screen: None,
            recent: VecDeque::new(),
            seen: Seen::default(),
        }
    }

    fn uri(&self) -> String {
        format!("nbd://{}/{VOLUME}", self.nbd)
    }

    /// The first line.
    pub(super) fn begin(&mut self, ports: &Ports) {
        let count = u64::try_from(ports.servers.len()).unwrap_or(u64::MAX);
        let servers = output::count(count, "server");
        self.line(&format!(
            "starting a master at {} and {servers} for {}; everything is kept in {}",
            self.master,
            self.uri(),
            self.dir.display()
        ));
    }

    /// A line about what happened: to the screen when there is one, else printed.
    pub(super) fn line(&mut self, line: &str) {
        if self.screen.is_some() {
            if self.recent.len() == RECENT_MAX {
                self.recent.pop_front();
            }
            self.recent.push_back(stamped(line));
            self.draw();
        } else {
            say(line);
        }
    }

    /// Something happened to a child.
    pub(super) fn child(&mut self, event: &ChildEvent) {
        let name = &event.name;
        match &event.what {
            What::Started {
                start: Start::First,
                ..
            }
            | What::Stopped => {}
            What::Started {
                pid,
                start: Start::Again,
            } => self.line(&format!("{name} is restarted as process {pid}")),
            What::Ended {
                how, restart_in, ..
            } => self.line(&format!(
                "{name} {how}: restarting it in {:.2} s",
                restart_in.as_secs_f64()
            )),
            What::Killed { after } => self.line(&format!(
                "{name} had not stopped after {:.1} s and was killed; it recovers at its next start",
                after.as_secs_f64()
            )),
        }
    }

    /// The volume is served for the first time.
    pub(super) fn served(&mut self, cluster: Box<ClusterStatus>, after: Duration) {
        let made = cluster.volumes.iter().find(|v| v.name == VOLUME);
        let what = made.map_or_else(String::new, |volume| {
            let copies = u64::try_from(volume.replicas.len()).unwrap_or(u64::MAX);
            format!(
                ", {} with {},",
                ByteCount::new(volume.size),
                output::count(copies, "replica")
            )
        });
        self.line(&format!(
            "volume {VOLUME}{what} is served after {:.1} s at {}",
            after.as_secs_f64(),
            self.uri()
        ));
        crate::cli::screen::put(&format!("\n{}\n", self.intro()));
        self.screen = Screen::open();
        self.sight(Sight::Seen(cluster));
    }

    /// The address and three commands to try.
    fn intro(&self) -> String {
        let uri = self.uri();
        let program = env::args_os().next().map_or_else(
            || "moorline".to_owned(),
            |name| name.to_string_lossy().into_owned(),
        );
        let master = if self.master.as_str() == MASTER_DEFAULT {
            String::new()
        } else {
            format!(" --master {}", self.master)
        };
        format!(
            "  {uri}\n\n\
             Try, in another terminal:\n  \
             nbdinfo {uri}\n  \
             head -c 64M /dev/urandom | nbdcopy --flush - {uri}\n  \
             qemu-img convert -f raw -O qcow2 {uri} demo.qcow2\n\
             and `{program} volume status {VOLUME}{master}`, or kill a server (`pgrep -af server-id` lists them).\n\
             Ctrl-C stops; the data stays.\n"
        )
    }

    /// A look at the cluster.
    pub(super) fn sight(&mut self, sight: Sight) {
        let news = self.seen.take(sight);
        if self.screen.is_none() {
            news.iter().for_each(|line| say(line));
        }
        self.draw();
    }

    /// Paints the screen, when there is one and something changed.
    pub(super) fn draw(&mut self) {
        if self.screen.is_none() {
            return;
        }
        let text = self.fitting(size().rows);
        if let Some(screen) = &mut self.screen {
            screen.show(&text);
        }
    }

    /// The fullest text that fits. What goes first is the introduction, which was printed before the
    /// screen was taken, then the older ones of the lines about what happened.
    fn fitting(&self, rows: usize) -> String {
        let mut text = self.full();
        for recent in (1..=RECENT_MAX).rev() {
            if text.lines().count() <= rows {
                return text;
            }
            text = self.short(recent);
        }
        text
    }

    fn full(&self) -> String {
        let mut text = format!(
            "moorline dev in {}\n\n{}\n",
            self.dir.display(),
            self.intro()
        );
        text.push_str(&self.status("\n"));
        if !self.recent.is_empty() {
            text.push('\n');
            self.put_recent(RECENT_MAX, &mut text);
        }
        text
    }

    /// Without the introduction, and what happened on top: it is news, and the end may be cut off.
    fn short(&self, recent: usize) -> String {
        let mut text = format!("{}   Ctrl-C stops; the data stays\n", self.uri());
        self.put_recent(recent, &mut text);
        text.push('\n');
        text.push_str(&self.status(""));
        text
    }

    fn put_recent(&self, count: usize, text: &mut String) {
        let left_out = self.recent.len().saturating_sub(count);
        for line in self.recent.iter().skip(left_out) {
            text.push_str(line);
            text.push('\n');
        }
    }

    fn status(&self, gap: &str) -> String {
        let mut text = String::new();
        if let Some(why) = &self.seen.lost {
            text.push_str(&format!("{why}; what follows was seen before\n{gap}"));
        }
        if let Some(cluster) = &self.seen.cluster {
            text.push_str(&output::cluster(cluster, self.paint));
        }
        text
    }

    /// The end was asked for.
    pub(super) fn stopping(&mut self) {
        // What the screen kept goes where it can be read afterwards.
        self.screen = None;
        for line in self.recent.drain(..) {
            crate::cli::screen::put(&format!("{line}\n"));
        }
        self.line("stopping the servers, then the master; another Ctrl-C kills them");
    }

    /// No process is left.
    pub(super) fn stopped(&mut self) {
        self.line(&format!(
            "stopped; the data is kept in {}, and the same command serves it again",
            self.dir.display()
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_is_seen_on_a_small_screen_too() {
        let news: Vec<String> = (1..=RECENT_MAX).map(|n| format!("news {n}")).collect();
        let mut show = Show {
            dir: "/d".into(),
            nbd: "127.0.0.1:10809".parse().unwrap(),
            master: MASTER_DEFAULT.parse().unwrap(),
            paint: Paint::Plain,
            screen: None,
            recent: news.iter().cloned().collect(),
            seen: Seen::default(),
        };
        let lost = Sight::Lost("the master does not answer".to_owned());
        assert_eq!(show.seen.take(lost).len(), 1);
        let full = show.full();
        let rows = full.lines().count();
        assert_eq!(show.fitting(rows), full);
        let shorter = show.fitting(rows - 1);
        assert!(!shorter.contains("Try,"), "{shorter}");
        assert!(news.iter().all(|line| shorter.contains(line)), "{shorter}");
        let least = show.fitting(1);
        let shown: Vec<&str> = least.lines().take(2).collect();
        assert!(shown[0].contains("nbd://127.0.0.1:10809/demo"), "{least}");
        assert_eq!(shown[1], news[RECENT_MAX - 1]);
        assert!(!least.contains(&news[0]), "{least}");
    }
}
