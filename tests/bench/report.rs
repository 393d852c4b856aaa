//! The figures, as a table or as one JSON document, each beside the limit and the goal it has.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::Failure;
use crate::meter::{Spent, resident_mib};
use crate::options::Options;

/// One line.
#[derive(Clone, Debug)]
pub struct Figure {
    pub what: String,
    pub members: usize,
    pub at_once: usize,
    pub value_bytes: usize,
    pub measured: Measured,
    pub goal: Option<Goal>,
}

#[derive(Clone, Debug)]
pub enum Measured {
    Rate {
        per_second: f64,
        processor_us: f64,
        /// Microseconds from the request to its answer.
        latency: Option<Latency>,
    },
    Took(Duration),
    /// Processor time.
    Processor(Duration),
    /// Percent.
    Share(f64),
}

#[derive(Clone, Copy, Debug)]
pub struct Latency {
    pub p50_us: u64,
    pub p99_us: u64,
}

#[derive(Clone, Copy, Debug)]
pub enum Goal {
    PerSecond(f64),
    /// Of the machine's own limit.
    OfLimit(f64),
    ProcessorBelow(Duration),
    ShareBelow(f64),
}

/// What the machine can do at most.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    pub at_once: usize,
    pub value_bytes: usize,
    pub per_second: f64,
    pub syncs_per_second: f64,
    pub processor_us: f64,
}

#[derive(Default)]
pub struct Report {
    limits: Vec<Limit>,
    lines: Vec<(Figure, u64)>,
}

impl Measured {
    pub fn rate(count: u64, spent: Spent, latency: Option<&Histogram<u64>>) -> Measured {
        let count = count as f64;
        Measured::Rate {
            per_second: count / spent.wall.as_secs_f64(),
            processor_us: spent.processor.as_secs_f64() * 1e6 / count.max(1.0),
            latency: latency.map(|latency| Latency {
                p50_us: latency.value_at_quantile(0.5),
                p99_us: latency.value_at_quantile(0.99),
            }),
        }
    }
}

impl Report {
    pub fn limit(&mut self, limit: Limit) {
        eprintln!(
            "limit     {} at once, {} B: {:.0}/s, {:.0} syncs/s",
            limit.at_once, limit.value_bytes, limit.per_second, limit.syncs_per_second
        );
        self.limits.push(limit);
    }

    pub fn figure(&mut self, figure: Figure) {
        let resident = resident_mib();
        eprintln!("{}", self.row(&figure, resident).join("  "));
        self.lines.push((figure, resident));
    }

    fn limit_of(&self, figure: &Figure) -> Option<f64> {
        let is_write = figure.what.starts_with("put") || figure.what.starts_with("transaction");
        let found = self.limits.iter().find(|limit| {
            is_write && limit.at_once == figure.at_once && limit.value_bytes == figure.value_bytes
        });
        found.map(|limit| limit.per_second)
    }

    fn share_of_limit(&self, figure: &Figure) -> Option<f64> {
        match figure.measured {
            Measured::Rate { per_second, .. } => Some(per_second / self.limit_of(figure)?),
            _ => None,
        }
    }

    /// The goal in words, and whether it is met. `None` for no goal.
    fn verdict(&self, figure: &Figure) -> Option<(String, bool)> {
        Some(match (figure.goal?, &figure.measured) {
            (Goal::PerSecond(goal), Measured::Rate { per_second, .. }) => {
                (format!("≥ {goal:.0}/s"), *per_second >= goal)
            }
            (Goal::OfLimit(goal), _) => {
                (format!("≥ {goal:.2} of limit"), self.share_of_limit(figure)? >= goal)
            }
            (Goal::ProcessorBelow(goal), Measured::Processor(took)) => {
                (format!("< {} ms", goal.as_millis()), *took < goal)
            }
            (Goal::ShareBelow(goal), Measured::Share(share)) => {
                (format!("≤ {goal:.0} %"), *share <= goal)
            }
            (goal, measured) => (format!("{goal:?} does not fit {measured:?}"), false),
        })
    }

    fn row(&self, figure: &Figure, resident_mib: u64) -> [String; 10] {
        let (mut processor, mut quantiles) = (String::new(), String::new());
        let amount = match &figure.measured {
            Measured::Rate { per_second, processor_us, latency } => {
                processor = format!("{processor_us:.1}");
                if let Some(Latency { p50_us, p99_us }) = latency {
                    quantiles = format!("{p50_us} / {p99_us}");
                }
                format!("{per_second:.0}/s")
            }
            Measured::Took(took) => format!("{:.1} ms", took.as_secs_f64() * 1e3),
            Measured::Processor(took) => format!("{:.2} ms CPU", took.as_secs_f64() * 1e3),
            Measured::Share(share) => format!("{share:.1} %"),
        };
        let share = self.share_of_limit(figure);
        let verdict = self
            .verdict(figure)
            .map(|(goal, met)| format!("{goal}: {}", if met { "met" } else { "MISSED" }));
        let or_nothing =
            |number: usize| if number == 0 { String::new() } else { number.to_string() };
        [
            figure.what.clone(),
            figure.members.to_string(),
            or_nothing(figure.at_once),
            or_nothing(figure.value_bytes),
            amount,
            share.map_or_else(String::new, |share| format!("{share:.2}")),
            processor,
            quantiles,
            resident_mib.to_string(),
            verdict.unwrap_or_default(),
        ]
    }

    pub fn print(&self, options: &Options) -> Result<(), Failure> {
        if options.json {
            println!("{}", serde_json::to_string_pretty(&self.json())?);
            return Ok(());
        }
        const HEAD: [&str; 10] = [
            "what",
            "members",
            "at once",
            "value B",
            "figure",
            "of limit",
            "CPU µs/op",
            "p50 / p99 µs",
            "RSS MiB",
            "goal",
        ];
        println!("| {} |", HEAD.join(" | "));
        println!("|{}", "---|".repeat(HEAD.len()));
        for (figure, resident) in &self.lines {
            println!("| {} |", self.row(figure, *resident).join(" | "));
        }
        println!();
        println!("| limit: at once | value B | records/s | syncs/s | CPU µs/record |");
        println!("|---|---|---|---|---|");
        for limit in &self.limits {
            println!(
                "| {} | {} | {:.0} | {:.0} | {:.1} |",
                limit.at_once,
                limit.value_bytes,
                limit.per_second,
                limit.syncs_per_second,
                limit.processor_us
            );
        }
        Ok(())
    }

    fn json(&self) -> Value {
        let figures: Vec<Value> = self
            .lines
            .iter()
            .map(|(figure, resident)| {
                let verdict = self.verdict(figure);
                let measured = match &figure.measured {
                    Measured::Rate { per_second, processor_us, latency } => json!({
                        "per_second": per_second,
                        "cpu_us": processor_us,
                        "p50_us": latency.map(|latency| latency.p50_us),
                        "p99_us": latency.map(|latency| latency.p99_us),
                    }),
                    Measured::Took(took) => json!({ "took_ms": took.as_secs_f64() * 1e3 }),
                    Measured::Processor(took) => json!({ "cpu_ms": took.as_secs_f64() * 1e3 }),
                    Measured::Share(percent) => json!({ "percent": percent }),
                };
                json!({
                    "what": figure.what,
                    "members": figure.members,
                    "at_once": figure.at_once,
                    "value_bytes": figure.value_bytes,
                    "measured": measured,
                    "of_limit": self.share_of_limit(figure),
                    "resident_mib": resident,
                    "goal": verdict.as_ref().map(|(goal, _)| goal),
                    "met": verdict.map(|(_, met)| met),
                })
            })
            .collect();
        let limits: Vec<Value> = self
            .limits
            .iter()
            .map(|limit| {
                json!({
                    "at_once": limit.at_once,
                    "value_bytes": limit.value_bytes,
                    "per_second": limit.per_second,
                    "syncs_per_second": limit.syncs_per_second,
                    "cpu_us": limit.processor_us,
                })
            })
            .collect();
        json!({ "limits": limits, "figures": figures })
    }
}
