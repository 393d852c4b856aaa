//! What a run came to, for programs (JSON) and for people (a page with a timeline).

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::check::Verdict;
use crate::gap::quantile;
use crate::history::{History, Micros, Outcome, Run};
use crate::run::Ended;
use std::time::Duration;

#[derive(Serialize)]
struct Report<'r> {
    run: &'r Option<Run>,
    verdict: &'r Verdict,
    faults: usize,
    failed_commands: &'r [String],
    latency_p50_ms: f64,
    latency_p99_ms: f64,
    longest_gap_ms: u64,
}

pub fn write(folder: &Path, ended: &Ended) -> Result<(), String> {
    let history = &ended.history;
    let mut latencies: Vec<Duration> = history
        .operations
        .iter()
        .filter(|it| matches!(it.outcome, Outcome::Done { .. }))
        .map(|it| Duration::from_micros(it.end.saturating_sub(it.call)))
        .collect();
    latencies.sort();
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    let report = Report {
        run: &history.run,
        verdict: &ended.verdict,
        faults: ended.faults.values().sum(),
        failed_commands: &ended.failed,
        latency_p50_ms: millis(quantile(&latencies, 0.5)),
        latency_p99_ms: millis(quantile(&latencies, 0.99)),
        longest_gap_ms: longest_gap(history) / 1000,
    };
    let json = serde_json::to_string_pretty(&report).map_err(|error| error.to_string())?;
    let save = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
    };
    save("report.json", &json)?;
    save("report.html", &page(history, &ended.verdict, &json))
}

/// The longest time in which nothing was acknowledged.
fn longest_gap(history: &History) -> Micros {
    let done = history.operations.iter().filter(|it| matches!(it.outcome, Outcome::Done { .. }));
    let mut ends: Vec<Micros> = done.map(|it| it.end).collect();
    ends.sort_unstable();
    ends.windows(2).map(|two| two[1] - two[0]).max().unwrap_or_default()
}

const WIDTH: f64 = 1600.0;
const LATENCY_TOP: f64 = 20.0;
const LATENCY_HEIGHT: f64 = 240.0;
const ROW: f64 = 16.0;
/// Points of a timeline; more say nothing to the eye.
const POINTS_MAX: usize = 20_000;

/// One page that needs nothing but itself: latencies above, faults below, on one axis of time.
fn page(history: &History, verdict: &Verdict, json: &str) -> String {
    let end = history.rest.at.max(1) as f64;
    let x = |at: Micros| at as f64 / end * WIDTH;
    // A decade is a fifth of the height: from 0.1 ms to 10 s.
    let y = |micros: Micros| {
        let decades = ((micros.max(100) as f64) / 100.0).log10();
        LATENCY_TOP + LATENCY_HEIGHT * (1.0 - decades.min(5.0) / 5.0)
    };
    let mut svg = String::new();
    for (nth, label) in ["0.1 ms", "1 ms", "10 ms", "100 ms", "1 s", "10 s"].iter().enumerate() {
        let at = LATENCY_TOP + LATENCY_HEIGHT * (1.0 - nth as f64 / 5.0);
        let _ = write!(
            svg,
            "<line x1='0' x2='{WIDTH}' y1='{at}' y2='{at}' class='grid'/>\
             <text x='2' y='{at}'>{label}</text>"
        );
    }
    let every = history.operations.len() / POINTS_MAX + 1;
    for operation in history.operations.iter().step_by(every) {
        let class = match operation.outcome {
            Outcome::Done { .. } => "done",
            Outcome::Refused(_) => "refused",
            Outcome::Unknown(_) => "unknown",
        };
        let (at, height) = (x(operation.call), y(operation.end.saturating_sub(operation.call)));
        let _ = write!(svg, "<circle cx='{at:.1}' cy='{height:.1}' r='1.2' class='{class}'/>");
    }
    let mut kinds: Vec<&str> = history.faults.iter().map(|fault| fault.what.as_str()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let top = LATENCY_TOP + LATENCY_HEIGHT + 20.0;
    for fault in &history.faults {
        let row = kinds.iter().position(|kind| *kind == fault.what).unwrap_or_default();
        let (from, until) = (x(fault.from), x(fault.until));
        let _ = write!(
            svg,
            "<rect x='{from:.1}' y='{:.1}' width='{:.1}' height='{}' class='fault'>\
             <title>{} {:?}</title></rect>",
            top + row as f64 * ROW,
            (until - from).max(2.0),
            ROW - 3.0,
            fault.what,
            fault.members
        );
    }
    for (row, kind) in kinds.iter().enumerate() {
        let _ = write!(svg, "<text x='2' y='{:.1}'>{kind}</text>", top + row as f64 * ROW + 10.0);
    }
    let height = top + kinds.len() as f64 * ROW + 20.0;
    let verdict = if verdict.holds() {
        "no violation".to_owned()
    } else {
        format!("<b>{} violations</b>", verdict.violations.len())
    };
    let name = history.run.as_ref().map_or("", |run| run.target.as_str());
    format!(
        "<!doctype html><meta charset='utf-8'><title>{name} under faults</title><style>\
         body{{font:14px sans-serif;margin:1em}}svg{{width:100%;background:#fafafa}}\
         text{{font:10px sans-serif}}\
         .grid{{stroke:#ddd}}.done{{fill:#2a7}}.refused{{fill:#e90}}.unknown{{fill:#c22}}\
         .fault{{fill:#79c;opacity:.6}}\
         </style><h1>{name} under faults: {verdict}</h1>\
         <p>Latency of each operation (green: acknowledged, orange: refused, red: not answered), \
         and the faults beside them, over {:.0} s.</p>\
         <svg viewBox='0 0 {WIDTH} {height}'>{svg}</svg><pre>{}</pre>",
        end / 1e6,
        escaped(json)
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
