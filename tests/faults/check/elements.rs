//! Lists that grow and sets, judged by what is in them: no revision is believed here.
//!
//! A list's value names its elements in order, each written once in a run. So every version of a list is
//! a beginning of every later one, and what each transaction read and wrote says which it stands behind: a
//! circle of those is an order that cannot be (Elle's idea, for lists and nothing else).

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Violation, violation};
use crate::history::{Answer, Operation, Outcome, Rest, Step};

pub const LISTS: &str = "append";
pub const SET: &str = "set";

/// The elements of a list's value.
#[must_use]
pub fn elements(value: &str) -> Vec<&str> {
    value.split(' ').filter(|element| !element.is_empty()).collect()
}

#[must_use]
pub fn check(operations: &[Operation], rest: &Rest) -> Vec<Violation> {
    let mut found = lists(operations, rest);
    found.extend(set(operations, rest));
    found
}

/// What was added and acknowledged is there at the end, what was refused is not.
fn set(operations: &[Operation], rest: &Rest) -> Vec<Violation> {
    if rest.revision == 0 {
        return Vec::new();
    }
    let there: HashSet<&str> = rest.keys.iter().map(|(key, _)| key.as_str()).collect();
    let mut found = Vec::new();
    for operation in operations.iter().filter(|operation| operation.workload == SET) {
        for step in &operation.ask.then {
            let Step::Put { key, .. } = step else { continue };
            match &operation.outcome {
                Outcome::Done { .. } if !there.contains(key.as_str()) => {
                    let what = format!("{key} was added at {} and is not there", operation.end);
                    found.push(violation("what was acknowledged is there", what));
                }
                Outcome::Refused(why) if there.contains(key.as_str()) => {
                    let what = format!("{key} was refused ({why}) and is there");
                    found.push(violation("what was refused did not happen", what));
                }
                _ => {}
            }
        }
    }
    found
}

/// What one operation saw and did to lists.
struct Touched<'h> {
    operation: &'h Operation,
    read: Vec<(&'h str, Vec<&'h str>)>,
    written: Vec<(&'h str, Vec<&'h str>)>,
}

fn touched(operation: &Operation) -> Option<Touched<'_>> {
    let Outcome::Done { succeeded, answers, .. } = &operation.outcome else { return None };
    let steps = if *succeeded { &operation.ask.then } else { &operation.ask.otherwise };
    let mut touched = Touched { operation, read: Vec::new(), written: Vec::new() };
    for (step, answer) in steps.iter().zip(answers) {
        match (step, answer) {
            (Step::Get { key, end: None, .. }, Answer::Found(found)) => {
                let value = found.first().map_or("", |(_, stored)| stored.value.as_str());
                touched.read.push((key, elements(value)));
            }
            (Step::Put { key, value, .. }, Answer::Put) => {
                touched.written.push((key, elements(value)));
            }
            _ => {}
        }
    }
    Some(touched)
}

fn lists(operations: &[Operation], rest: &Rest) -> Vec<Violation> {
    let mut found = Vec::new();
    let all: Vec<Touched<'_>> =
        operations.iter().filter(|it| it.workload == LISTS).filter_map(touched).collect();
    // The longest version of each list is its order.
    let mut longest: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let at_rest = rest.keys.iter().map(|(key, stored)| (key.as_str(), elements(&stored.value)));
    let versions = all.iter().flat_map(|it| it.read.iter().chain(&it.written).cloned());
    for (key, version) in versions.chain(at_rest) {
        let known = longest.entry(key).or_default();
        if version.len() > known.len() {
            *known = version;
        }
    }
    for (key, order) in &longest {
        let distinct: HashSet<&&str> = order.iter().collect();
        if distinct.len() < order.len() {
            let what = format!("{key}: {order:?}");
            found.push(violation("nothing happens twice", what));
        }
    }
    for one in &all {
        for (key, version) in one.read.iter().chain(&one.written) {
            if !longest[key].starts_with(version) {
                let what = format!(
                    "{:?}: {key} was {version:?} and became {:?}",
                    one.operation, longest[key]
                );
                found.push(violation("lists only grow", what));
            }
        }
    }
    if found.is_empty() {
        found.extend(circles(&all, &longest));
    }
    found
}

/// Who stands behind whom: by what was written over what, read from whom, and read before it changed.
fn circles(all: &[Touched<'_>], longest: &BTreeMap<&str, Vec<&str>>) -> Vec<Violation> {
    let mut writer: HashMap<(&str, usize), usize> = HashMap::new();
    for (at, one) in all.iter().enumerate() {
        for (key, version) in &one.written {
            writer.insert((key, version.len()), at);
        }
    }
    let mut behind: Vec<Vec<usize>> = vec![Vec::new(); all.len()];
    for (at, one) in all.iter().enumerate() {
        for (key, version) in &one.written {
            let before = (0..version.len()).rev().find_map(|length| writer.get(&(key, length)));
            behind[at].extend(before.filter(|other| **other != at));
        }
        for (key, version) in &one.read {
            behind[at].extend(writer.get(&(key, version.len())).filter(|other| **other != at));
            let length = longest[key].len();
            let next = (version.len() + 1..=length).find_map(|length| writer.get(&(key, length)));
            if let Some(next) = next.filter(|next| **next != at) {
                behind[*next].push(at);
            }
        }
    }
    match circle(&behind) {
        None => Vec::new(),
        Some(members) => {
            let who: Vec<_> = members.iter().map(|at| all[*at].operation).collect();
            vec![violation("transactions have an order", format!("each behind the next: {who:?}"))]
        }
    }
}

/// A circle in a graph, if there is one: depth first, without recursion.
fn circle(edges: &[Vec<usize>]) -> Option<Vec<usize>> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        Open,
        Closed,
    }
    let mut marks = vec![Mark::New; edges.len()];
    for start in 0..edges.len() {
        if marks[start] != Mark::New {
            continue;
        }
        let mut path = vec![(start, 0)];
        marks[start] = Mark::Open;
        while let Some((node, next)) = path.last_mut() {
            let Some(to) = edges[*node].get(*next).copied() else {
                marks[*node] = Mark::Closed;
                path.pop();
                continue;
            };
            *next += 1;
            match marks[to] {
                Mark::New => {
                    marks[to] = Mark::Open;
                    path.push((to, 0));
                }
                Mark::Open => {
                    let nodes = path.iter().map(|(node, _)| *node);
                    return Some(nodes.skip_while(|node| *node != to).collect());
                }
                Mark::Closed => {}
            }
        }
    }
    None
}
