//! The figures of both sides beside each other, as a table or as one JSON document.

use serde_json::{Value, json};

use crate::Failure;
use crate::load::Done;
use crate::options::Options;
use crate::servers::Side;

#[derive(Default)]
pub struct Report {
    /// Which etcd it is.
    peer: String,
    rates: Vec<Rate>,
    once: Vec<Once>,
}

/// One case, with what each side did.
struct Rate {
    what: &'static str,
    members: usize,
    clients: usize,
    done: Vec<(Side, Done)>,
}

/// Something that is measured once for each side.
struct Once {
    what: &'static str,
    members: usize,
    unit: &'static str,
    etcd: Option<f64>,
    kontiki: Option<f64>,
}

impl Report {
    pub fn beside(peer: String) -> Report {
        Report { peer, ..Report::default() }
    }

    pub fn rates(
        &mut self,
        what: &'static str,
        members: usize,
        clients: usize,
        done: Vec<(Side, Done)>,
    ) {
        let rate = Rate { what, members, clients, done };
        eprintln!("{}", rate.row().join("  "));
        self.rates.push(rate);
    }

    pub fn once(
        &mut self,
        what: &'static str,
        members: usize,
        side: Side,
        figure: f64,
        unit: &'static str,
    ) {
        eprintln!("{what}, {members} members, {}: {figure:.0} {unit}", side.name());
        let found = self.once.iter().position(|one| one.what == what && one.members == members);
        let at = found.unwrap_or_else(|| {
            self.once.push(Once { what, members, unit, etcd: None, kontiki: None });
            self.once.len() - 1
        });
        match side {
            Side::Etcd => self.once[at].etcd = Some(figure),
            Side::Kontiki => self.once[at].kontiki = Some(figure),
        }
    }

    pub fn print(&self, options: &Options) -> Result<(), Failure> {
        if options.json {
            println!("{}", serde_json::to_string_pretty(&self.json())?);
            return Ok(());
        }
        println!("Beside etcd {}.\n", self.peer);
        println!(
            "| what | members | clients | etcd | Kontiki | ratio | p50 / p99 µs, etcd | Kontiki | \
             CPU µs each, etcd | Kontiki | ratio |"
        );
        println!("|{}", "---|".repeat(11));
        for rate in &self.rates {
            println!("| {} |", rate.row().join(" | "));
        }
        println!();
        println!("| what | members | etcd | Kontiki | ratio |");
        println!("|---|---|---|---|---|");
        for Once { what, members, unit, etcd, kontiki } in &self.once {
            let shown =
                |figure: Option<f64>| figure.map_or(String::new(), |f| format!("{f:.0} {unit}"));
            println!(
                "| {what} | {members} | {} | {} | {} |",
                shown(*etcd),
                shown(*kontiki),
                ratio(*kontiki, *etcd)
            );
        }
        Ok(())
    }

    fn json(&self) -> Value {
        let rates = self.rates.iter().map(|rate| {
            let sides = rate.done.iter().map(|(side, done)| {
                let figures = json!({
                    "per_second": done.per_second(),
                    "cpu_us": done.processor_us(),
                    "p50_us": done.latency.value_at_quantile(0.5),
                    "p99_us": done.latency.value_at_quantile(0.99),
                });
                (side.name().to_owned(), figures)
            });
            let sides: serde_json::Map<String, Value> = sides.collect();
            json!({
                "what": rate.what,
                "members": rate.members,
                "clients": rate.clients,
                "sides": sides,
            })
        });
        let once = self.once.iter().map(|Once { what, members, unit, etcd, kontiki }| {
            json!({
                "what": what, "members": members, "unit": unit, "etcd": etcd, "kontiki": kontiki,
            })
        });
        json!({
            "etcd": self.peer,
            "rates": rates.collect::<Vec<_>>(),
            "once": once.collect::<Vec<_>>(),
        })
    }
}

impl Rate {
    fn of(&self, side: Side) -> Option<&Done> {
        let found = self.done.iter().find(|(other, _)| *other == side);
        found.map(|(_, done)| done).filter(|done| done.count > 0)
    }

    fn row(&self) -> [String; 11] {
        let (etcd, kontiki) = (self.of(Side::Etcd), self.of(Side::Kontiki));
        let rate = |done: Option<&Done>| done.map(Done::per_second);
        let cost = |done: Option<&Done>| done.map(Done::processor_us);
        let shown = |figure: Option<f64>, unit: &str, digits: usize| {
            figure.map_or(String::new(), |figure| format!("{figure:.digits$}{unit}"))
        };
        let quantiles = |done: Option<&Done>| {
            done.map_or(String::new(), |done| {
                let at = |quantile| done.latency.value_at_quantile(quantile);
                format!("{} / {}", at(0.5), at(0.99))
            })
        };
        [
            self.what.to_owned(),
            self.members.to_string(),
            self.clients.to_string(),
            shown(rate(etcd), "/s", 0),
            shown(rate(kontiki), "/s", 0),
            ratio(rate(kontiki), rate(etcd)),
            quantiles(etcd),
            quantiles(kontiki),
            shown(cost(etcd), "", 1),
            shown(cost(kontiki), "", 1),
            ratio(cost(kontiki), cost(etcd)),
        ]
    }
}

/// Of ours to etcd's.
fn ratio(ours: Option<f64>, etcds: Option<f64>) -> String {
    match (ours, etcds) {
        (Some(ours), Some(etcds)) if etcds > 0.0 => format!("{:.2}", ours / etcds),
        _ => String::new(),
    }
}
