//! Linearizability of single registers by search, without believing any revision.
//!
//! Wing and Gong's search with Lowe's memory of states that were tried, as Porcupine does it: an operation
//! is taken next if none that is left ended before it began. What was not answered may be taken at any
//! later time, or never. The search is bounded by the states it remembers; past that a key is undecided,
//! which is said and is no verdict.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Violation, violation};
use crate::history::{Answer, Guard, Micros, Operation, Outcome, Step};

pub const REGISTERS: &str = "register";

/// States of one key that are remembered before it is given up.
const STATES_MAX: usize = 1 << 20;

#[derive(Default)]
pub struct Searched {
    pub violations: Vec<Violation>,
    pub keys: usize,
    pub undecided: usize,
}

/// Values as numbers; 0 is that the key is not there.
type Value = u32;

#[derive(Clone, Copy, Debug)]
enum Act {
    Read(Value),
    Write(Value),
    /// If it was the first, now the second; and whether it was.
    Swap(Value, Value, bool),
}

impl Act {
    fn on(self, now: Value) -> Option<Value> {
        match self {
            Act::Read(seen) => (seen == now).then_some(now),
            Act::Write(value) => Some(value),
            Act::Swap(from, to, true) => (from == now).then_some(to),
            Act::Swap(from, _, false) => (from != now).then_some(now),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Span {
    call: Micros,
    /// Nothing where it was not answered.
    end: Option<Micros>,
    act: Act,
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    Order,
    None,
    TooMany,
}

#[must_use]
pub fn check(operations: &[Operation]) -> Searched {
    let mut searched = Searched::default();
    let mut names: HashMap<&str, Value> = HashMap::new();
    let mut keys: BTreeMap<&str, Vec<Span>> = BTreeMap::new();
    for operation in operations.iter().filter(|it| it.workload == REGISTERS && !it.ask.stale) {
        let mut number = |value| {
            let next = Value::try_from(names.len() + 1).unwrap_or(Value::MAX);
            *names.entry(value).or_insert(next)
        };
        if let Some((key, span)) = span(operation, &mut number) {
            keys.entry(key).or_default().push(span);
        }
    }
    for (key, spans) in keys {
        searched.keys += 1;
        match search(spans, STATES_MAX) {
            Found::Order => {}
            Found::None => searched.violations.push(violation(
                "registers are linearizable",
                format!("no order explains what was read of {key}"),
            )),
            Found::TooMany => searched.undecided += 1,
        }
    }
    searched
}

fn span<'h>(
    operation: &'h Operation,
    number: &mut impl FnMut(&'h str) -> Value,
) -> Option<(&'h str, Span)> {
    let done = match &operation.outcome {
        Outcome::Refused(_) => return None,
        Outcome::Unknown(_) => None,
        Outcome::Done { succeeded, answers, .. } => Some((*succeeded, answers)),
    };
    let ask = &operation.ask;
    let (key, act) = match (ask.guards.as_slice(), ask.then.as_slice()) {
        ([], [Step::Get { key, end: None, at: 0 }]) => {
            let (_, answers) = done?;
            let [Answer::Found(found)] = answers.as_slice() else { return None };
            let value = found.first().map_or(0, |(_, stored)| number(&stored.value));
            (key, Act::Read(value))
        }
        ([], [Step::Put { key, value, .. }]) => (key, Act::Write(number(value))),
        ([Guard::Value { value: from, .. }], [Step::Put { key, value, .. }]) => {
            let swapped = done.is_none_or(|(succeeded, _)| succeeded);
            (key, Act::Swap(number(from), number(value), swapped))
        }
        _ => return None,
    };
    let end = done.map(|_| operation.end);
    Some((key, Span { call: operation.call, end, act }))
}

/// Which operations are taken, one bit each.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Taken(Vec<u64>);

impl Taken {
    fn has(&self, at: usize) -> bool {
        self.0[at / 64] >> (at % 64) & 1 == 1
    }

    fn flip(&mut self, at: usize) {
        self.0[at / 64] ^= 1 << (at % 64);
    }
}

fn search(mut spans: Vec<Span>, states_max: usize) -> Found {
    spans.sort_by_key(|span| span.call);
    let answered = spans.iter().filter(|span| span.end.is_some()).count();
    let mut taken = Taken(vec![0; spans.len() / 64 + 1]);
    let mut tried: HashSet<(Taken, Value)> = HashSet::new();
    // What was taken in which order, with the value before it, and from where to go on trying.
    let mut path: Vec<(usize, Value)> = Vec::new();
    let mut value: Value = 0;
    let mut done = 0;
    let mut from = 0;
    loop {
        if done == answered {
            return Found::Order;
        }
        match next(&spans, &taken, value, from, &mut tried) {
            Some((at, after)) => {
                if tried.len() > states_max {
                    return Found::TooMany;
                }
                path.push((at, value));
                taken.flip(at);
                done += usize::from(spans[at].end.is_some());
                value = after;
                from = 0;
            }
            None => {
                let Some((at, before)) = path.pop() else { return Found::None };
                taken.flip(at);
                done -= usize::from(spans[at].end.is_some());
                value = before;
                from = at + 1;
            }
        }
    }
}

/// The first operation from `from` on that can be taken next and leads somewhere new.
fn next(
    spans: &[Span],
    taken: &Taken,
    value: Value,
    from: usize,
    tried: &mut HashSet<(Taken, Value)>,
) -> Option<(usize, Value)> {
    let left = spans.iter().enumerate().filter(|(at, _)| !taken.has(*at));
    let first_end = left.filter_map(|(_, span)| span.end).min().unwrap_or(Micros::MAX);
    for (at, span) in spans.iter().enumerate().skip(from) {
        if span.call > first_end {
            return None;
        }
        if taken.has(at) {
            continue;
        }
        let Some(after) = span.act.on(value) else { continue };
        let mut with = taken.clone();
        with.flip(at);
        if tried.insert((with, after)) {
            return Some((at, after));
        }
    }
    None
}
