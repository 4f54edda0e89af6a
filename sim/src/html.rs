//! One self-contained page about one run, for a person who looks rather than reads.

use std::fmt::Write as _;

use crate::{
    run::Outcome,
    watch::{Sample, Spot, SpotKind, Watch},
};

const WIDTH: f64 = 1_400.0;
const LANE: f64 = 190.0;
const LEFT: f64 = 60.0;
const TOP: f64 = 70.0;

/// A frontier's name, its colour, and where it is.
type Curve = (&'static str, &'static str, fn(&Sample) -> u64);

/// The frontiers drawn.
const CURVES: [Curve; 5] = [
    ("head", "#999999", |s| s.head),
    ("flushed", "#1f77b4", |s| s.flushed),
    ("committed", "#2ca02c", |s| s.committed),
    ("checkpoint", "#9467bd", |s| s.checkpoint),
    ("tail", "#8c564b", |s| s.tail),
];

/// Turns what was watched into a page.
#[must_use]
pub fn page(outcome: &Outcome) -> String {
    let scale = Scale::of(outcome);
    let mut svg = String::new();
    for server in 0..scale.servers {
        lane(&mut svg, &outcome.watch, &scale, server);
    }
    across(&mut svg, &outcome.watch, &scale);
    let height = scale.bottom() + 30.0;
    let verdict = match &outcome.violation {
        None => "no rule was broken".to_owned(),
        Some(violation) => escape(&violation.to_string()),
    };
    let legend: String = CURVES
        .iter()
        .map(|(name, colour, _)| format!("<span style=\"color:{colour}\">&#9632; {name}</span> "))
        .collect();
    let mut table = String::new();
    for spot in &outcome.watch.spots {
        let server = spot
            .server
            .map_or(String::new(), |server| format!("s{}", server + 1));
        write!(
            table,
            "<tr class=\"{:?}\"><td>{:.6}</td><td>{server}</td><td>{}</td></tr>",
            spot.kind,
            seconds(spot.at_ns),
            escape(&spot.text)
        )
        .expect("a string takes everything");
    }
    let plan = outcome.plan.as_ref().and_then(|plan| {
        let text = serde_json::to_string_pretty(plan);
        text.ok().map(|text| escape(&text))
    });
    format!(
        "<!doctype html><meta charset=utf-8><title>seed {seed}</title><style>{STYLE}</style>\
         <h1>Seed {seed}</h1><p>{verdict}</p><p>{legend}\
         <span style=\"color:#f3c14b\">&#9632; serving</span> \
         <span style=\"color:#d62728\">&#9632; fault</span> \
         <span style=\"color:#17becf\">&#9632; session</span></p>\
         <svg width={WIDTH} height={height}>{svg}</svg>\
         <h2>Moments</h2><table>{table}</table><h2>Options</h2><pre>{plan}</pre>",
        seed = outcome.seed,
        plan = plan.unwrap_or_default(),
    )
}

const STYLE: &str = "body{font:14px sans-serif;margin:20px}svg{background:#fff}\
    td{padding:1px 8px;font:12px monospace}tr.Fault td{background:#fbe0e0}\
    tr.Phase td{background:#eee}tr.Session td{color:#0a7c8a}";

struct Scale {
    servers: usize,
    end_ns: f64,
    top_lsn: f64,
}

impl Scale {
    fn of(outcome: &Outcome) -> Self {
        let samples = &outcome.watch.samples;
        let top = samples.iter().map(|s| s.head).max().unwrap_or(1).max(1);
        Self {
            servers: outcome.plan.as_ref().map_or(0, |plan| plan.replicas),
            end_ns: seconds(outcome.counts.simulated_ns).max(0.001),
            top_lsn: std::time::Duration::from_secs(top).as_secs_f64(),
        }
    }

    fn x(&self, at_ns: u64) -> f64 {
        LEFT + (WIDTH - LEFT - 10.0) * seconds(at_ns) / self.end_ns
    }

    fn lane_bottom(server: usize) -> f64 {
        (0..=server).fold(TOP, |at, _| at + LANE) - 25.0
    }

    fn y(&self, server: usize, lsn: u64) -> f64 {
        let share = std::time::Duration::from_secs(lsn).as_secs_f64() / self.top_lsn;
        Self::lane_bottom(server) - (LANE - 45.0) * share
    }

    fn bottom(&self) -> f64 {
        Self::lane_bottom(self.servers.saturating_sub(1)) + 25.0
    }
}

fn lane(svg: &mut String, watch: &Watch, scale: &Scale, server: usize) {
    let base = Scale::lane_bottom(server);
    let mut put = |text: String| svg.push_str(&text);
    put(format!(
        "<text x=5 y={:.0} font-size=16>s{}</text><line x1={LEFT} x2={WIDTH} y1={base} y2={base} stroke=\"#ccc\"/>",
        base - LANE / 2.0,
        server + 1
    ));
    let mine = || {
        watch
            .spots
            .iter()
            .filter(|spot| spot.server == Some(server))
    };
    for (from, to) in spans(mine(), SpotKind::Serves, &[SpotKind::Rests, SpotKind::Down]) {
        put(band(scale, base, (from, to), "#fdf0c8"));
    }
    for (from, to) in spans(mine(), SpotKind::Down, &[SpotKind::Up]) {
        put(band(scale, base, (from, to), "#dddddd"));
    }
    for (_, colour, of) in CURVES {
        let mut points = String::new();
        let mut before: Option<f64> = None;
        for sample in watch.samples.iter().filter(|s| s.server == server) {
            let (x, y) = (scale.x(sample.at_ns), scale.y(server, of(sample)));
            if let Some(before) = before {
                write!(points, "{x:.1},{before:.1} ").expect("a string takes everything");
            }
            write!(points, "{x:.1},{y:.1} ").expect("a string takes everything");
            before = Some(y);
        }
        put(format!(
            "<polyline fill=none stroke=\"{colour}\" points=\"{points}\"/>"
        ));
    }
    let mut epoch = None;
    for sample in watch.samples.iter().filter(|s| s.server == server) {
        if epoch != Some(sample.epoch) {
            epoch = Some(sample.epoch);
            put(format!(
                "<text x={:.1} y={:.1} font-size=10 fill=\"#333\">e{}</text>",
                scale.x(sample.at_ns),
                base + 12.0,
                sample.epoch
            ));
        }
    }
    for spot in mine().filter(|spot| spot.kind == SpotKind::Session) {
        put(dot(scale, base + 5.0, spot, "#17becf"));
    }
    for spot in mine().filter(|spot| spot.kind == SpotKind::Event) {
        put(dot(scale, base - LANE + 50.0, spot, "#555555"));
    }
}

fn spans<'a>(
    spots: impl Iterator<Item = &'a Spot>,
    begins: SpotKind,
    ends: &[SpotKind],
) -> Vec<(u64, Option<u64>)> {
    let mut found: Vec<(u64, Option<u64>)> = Vec::new();
    for spot in spots {
        match found.last_mut() {
            Some((_, end @ None)) if ends.contains(&spot.kind) => *end = Some(spot.at_ns),
            Some((_, None)) => {}
            Some(_) | None if spot.kind == begins => found.push((spot.at_ns, None)),
            Some(_) | None => {}
        }
    }
    found
}

fn band(scale: &Scale, base: f64, (from, to): (u64, Option<u64>), colour: &str) -> String {
    let (x, end) = (scale.x(from), to.map_or(WIDTH, |to| scale.x(to)));
    format!(
        "<rect x={x:.1} y={:.1} width={:.1} height={:.1} fill=\"{colour}\"/>",
        base - LANE + 45.0,
        (end - x).max(1.0),
        LANE - 45.0
    )
}

fn dot(scale: &Scale, y: f64, spot: &Spot, colour: &str) -> String {
    format!(
        "<circle cx={:.1} cy={y:.1} r=3 fill=\"{colour}\"><title>{:.6} {}</title></circle>",
        scale.x(spot.at_ns),
        seconds(spot.at_ns),
        escape(&spot.text)
    )
}

/// Faults and phases go through all lanes.
fn across(svg: &mut String, watch: &Watch, scale: &Scale) {
    let mut row = 0;
    for spot in &watch.spots {
        let colour = match spot.kind {
            SpotKind::Fault => "#d62728",
            SpotKind::Phase => "#888888",
            SpotKind::Up
            | SpotKind::Down
            | SpotKind::Serves
            | SpotKind::Rests
            | SpotKind::Session
            | SpotKind::Event => continue,
        };
        let (x, y) = (scale.x(spot.at_ns), 12 + 12 * (row % 5));
        row += 1;
        let name = spot.text.split([' ', '{']).next().unwrap_or_default();
        write!(
            svg,
            "<line x1={x:.1} x2={x:.1} y1={y} y2={:.1} stroke=\"{colour}\" stroke-dasharray=\"3 3\">\
             <title>{:.6} {text}</title></line>\
             <text x={:.1} y={y} font-size=10 fill=\"{colour}\">{}<title>{text}</title></text>",
            scale.bottom(),
            seconds(spot.at_ns),
            x + 2.0,
            escape(name),
            text = escape(&spot.text),
        )
        .expect("a string takes everything");
    }
}

fn seconds(ns: u64) -> f64 {
    crate::history::seconds(ns)
}

fn escape(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use crate::{Timeline, run};

    #[test]
    fn a_page_stands_alone_and_shows_every_server() {
        let outcome = run(3, None, Timeline::Kept);
        let page = super::page(&outcome);
        let replicas = outcome.plan.as_ref().map_or(0, |plan| plan.replicas);
        for server in 1..=replicas {
            assert!(page.contains(&format!(">s{server}</text>")));
        }
        assert!(!page.contains("http"), "it loads nothing");
        assert!(page.contains("<polyline"));
    }
}
