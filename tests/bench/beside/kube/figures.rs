//! The figures of one server, as tables or as one JSON document, each beside what kube-apiserver was measured
//! to do, and beside its goal.
//!
//! kube-apiserver's are of 1.36 over etcd 3.6 on another machine of two cores that did nothing else. So rates
//! and times are held against them with care; processor time is what can be compared.

use serde_json::{Value, json};

use crate::Failure;
use crate::load::Done;
use crate::options::Options;

#[derive(Default)]
pub struct Figures {
    rates: Vec<Rate>,
    once: Vec<Once>,
}

/// What kube-apiserver does in the same case, as far as it was measured.
#[derive(Clone, Copy, Debug, Default)]
pub struct Beside {
    pub per_second: Option<f64>,
    pub p50_ms: Option<f64>,
    pub cpu_ms: Option<f64>,
}

#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// Of a figure that is measured once.
    Below(f64),
    AtLeast(f64),
    /// Of requests: the median, the processor time of each.
    P50Ms(f64),
    CpuMs(f64),
    /// At least so many a second, each with no more processor time than this.
    Both(f64, f64),
}

struct Rate {
    what: String,
    clients: usize,
    done: Done,
    beside: Beside,
    goal: Option<Goal>,
}

struct Once {
    what: String,
    figure: f64,
    unit: &'static str,
    beside: Option<f64>,
    goal: Option<Goal>,
}

impl Figures {
    pub fn rate(
        &mut self,
        what: &str,
        clients: usize,
        done: Done,
        beside: Beside,
        goal: Option<Goal>,
    ) {
        let rate = Rate { what: what.to_owned(), clients, done, beside, goal };
        eprintln!("{}", rate.row().join("  "));
        self.rates.push(rate);
    }

    pub fn once(
        &mut self,
        what: &str,
        figure: f64,
        unit: &'static str,
        beside: Option<f64>,
        goal: Option<Goal>,
    ) {
        let once = Once { what: what.to_owned(), figure, unit, beside, goal };
        eprintln!("{}", once.row().join("  "));
        self.once.push(once);
    }

    pub fn print(&self, options: &Options) -> Result<(), Failure> {
        if options.json {
            let document = json!({
                "rates": self.rates.iter().map(Rate::json).collect::<Vec<_>>(),
                "once": self.once.iter().map(Once::json).collect::<Vec<_>>(),
            });
            println!("{}", serde_json::to_string_pretty(&document)?);
            return Ok(());
        }
        if !self.rates.is_empty() {
            let heads = [
                "what",
                "at once",
                "a second",
                "kube-apiserver",
                "ratio",
                "p50 / p99 ms",
                "p50, kube-apiserver",
                "CPU ms each",
                "kube-apiserver",
                "ratio",
                "goal",
            ];
            print_table(&heads, self.rates.iter().map(Rate::row));
            println!();
        }
        let heads = ["what", "figure", "kube-apiserver", "ratio", "goal"];
        print_table(&heads, self.once.iter().map(Once::row));
        Ok(())
    }
}

fn print_table<const N: usize>(heads: &[&str; N], rows: impl Iterator<Item = [String; N]>) {
    println!("| {} |", heads.join(" | "));
    println!("|{}", "---|".repeat(N));
    rows.for_each(|row| println!("| {} |", row.join(" | ")));
}

impl Rate {
    fn p50_ms(&self) -> f64 {
        self.done.latency.value_at_quantile(0.5) as f64 / 1e3
    }

    fn p99_ms(&self) -> f64 {
        self.done.latency.value_at_quantile(0.99) as f64 / 1e3
    }

    fn cpu_ms(&self) -> f64 {
        self.done.processor_us() / 1e3
    }

    /// The goal in words, and whether it is met.
    fn verdict(&self) -> Option<(String, bool)> {
        let (rate, cpu) = (self.done.per_second(), self.cpu_ms());
        Some(match self.goal? {
            Goal::P50Ms(most) => (format!("p50 < {most} ms"), self.p50_ms() < most),
            Goal::CpuMs(most) => (format!("CPU < {most} ms"), cpu < most),
            Goal::Both(least, most) => {
                (format!("≥ {least:.0}/s, CPU ≤ {most} ms"), rate >= least && cpu <= most)
            }
            Goal::Below(most) => (format!("< {most}/s"), rate < most),
            Goal::AtLeast(least) => (format!("≥ {least}/s"), rate >= least),
        })
    }

    fn row(&self) -> [String; 11] {
        let Beside { per_second, p50_ms, cpu_ms } = self.beside;
        [
            self.what.clone(),
            self.clients.to_string(),
            shown(self.done.per_second()),
            per_second.map_or(String::new(), shown),
            ratio(self.done.per_second(), per_second),
            format!("{} / {}", shown(self.p50_ms()), shown(self.p99_ms())),
            p50_ms.map_or(String::new(), shown),
            shown(self.cpu_ms()),
            cpu_ms.map_or(String::new(), shown),
            ratio(self.cpu_ms(), cpu_ms),
            said(self.verdict()),
        ]
    }

    fn json(&self) -> Value {
        let verdict = self.verdict();
        json!({
            "what": self.what,
            "at_once": self.clients,
            "per_second": self.done.per_second(),
            "p50_ms": self.p50_ms(),
            "p99_ms": self.p99_ms(),
            "cpu_ms": self.cpu_ms(),
            "beside": {
                "per_second": self.beside.per_second,
                "p50_ms": self.beside.p50_ms,
                "cpu_ms": self.beside.cpu_ms,
            },
            "goal": verdict.as_ref().map(|(goal, _)| goal),
            "met": verdict.map(|(_, met)| met),
        })
    }
}

impl Once {
    fn verdict(&self) -> Option<(String, bool)> {
        match self.goal? {
            Goal::Below(most) => Some((format!("< {most} {}", self.unit), self.figure < most)),
            Goal::AtLeast(least) => {
                Some((format!("≥ {least} {}", self.unit), self.figure >= least))
            }
            Goal::P50Ms(_) | Goal::CpuMs(_) | Goal::Both(..) => None,
        }
    }

    fn row(&self) -> [String; 5] {
        let unit = |figure: f64| format!("{} {}", shown(figure), self.unit);
        [
            self.what.clone(),
            unit(self.figure),
            self.beside.map_or(String::new(), unit),
            ratio(self.figure, self.beside),
            said(self.verdict()),
        ]
    }

    fn json(&self) -> Value {
        let verdict = self.verdict();
        json!({
            "what": self.what,
            "figure": self.figure,
            "unit": self.unit,
            "beside": self.beside,
            "goal": verdict.as_ref().map(|(goal, _)| goal),
            "met": verdict.map(|(_, met)| met),
        })
    }
}

fn said(verdict: Option<(String, bool)>) -> String {
    verdict.map_or(String::new(), |(goal, met)| {
        format!("{goal}: {}", if met { "met" } else { "MISSED" })
    })
}

/// Three digits that say something.
fn shown(figure: f64) -> String {
    match figure.abs() {
        size if size >= 100.0 => format!("{figure:.0}"),
        size if size >= 10.0 => format!("{figure:.1}"),
        size if size >= 1.0 => format!("{figure:.2}"),
        _ => format!("{figure:.3}"),
    }
}

/// Ours to theirs.
fn ratio(ours: f64, theirs: Option<f64>) -> String {
    theirs.filter(|it| *it > 0.0).map_or(String::new(), |theirs| format!("{:.2}", ours / theirs))
}
