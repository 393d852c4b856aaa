//! A table of rules as a value, and the step from one to the next.
//!
//! Keeps: a step is one transaction: the kernel takes it whole or not at all, and no packet meets half of it.
//! What is equal in both is not touched, so that a client keeps its endpoint over any change that is not
//! about it.
//! A chain that nothing needs any more is emptied at once and removed by a later step: kernels before 6.2
//! believe for a moment that a map still leads to it.
//! Never: acts; [`super::nft`] does.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// The family and name of our table.
pub const TABLE: &str = "inet kontiki";
/// Elements in one command; the program reads a line at a time.
const ELEMENTS_MAX: usize = 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Set,
    Map,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Set => "set",
            Kind::Map => "map",
        }
    }
}

/// A set or a map. Two of one name have the same declaration: what can differ is part of the name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    pub kind: Kind,
    pub declaration: String,
    /// What it holds, with what a map says of it; `None`: packets fill it.
    pub elements: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Where the kernel enters it; `None`: other chains lead to it.
    pub hook: Option<&'static str>,
    pub rules: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    pub sets: BTreeMap<String, Set>,
    pub chains: BTreeMap<String, Chain>,
}

/// What a table is known to have, without what is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    pub sets: BTreeMap<String, Kind>,
    pub chains: BTreeSet<String>,
}

/// What is in the kernel before a step.
#[derive(Clone, Copy, Debug)]
pub enum Before<'a> {
    /// Nothing that we trust: the table is made anew, and clients lose their endpoints.
    Nothing,
    Names(&'a Names),
    Known(&'a Ruleset),
}

/// A step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// For `nft -f`; empty if there is nothing to do.
    pub text: String,
    /// Chains that are left empty, to be removed later.
    pub emptied: Vec<String>,
}

impl Ruleset {
    pub fn declare(&mut self, name: impl Into<String>, kind: Kind, declaration: impl Into<String>) {
        let elements = Some(BTreeMap::new());
        self.sets.insert(name.into(), Set { kind, declaration: declaration.into(), elements });
    }

    /// Adds to a map (or with an empty value to a set) that was declared. The first to claim a key keeps it.
    pub fn put(&mut self, set: &str, key: String, value: String) {
        let elements = self.sets.get_mut(set).and_then(|set| set.elements.as_mut());
        elements.expect("declared before it is filled").entry(key).or_insert(value);
    }

    pub fn chain(&mut self, name: impl Into<String>) -> &mut Chain {
        self.chains.entry(name.into()).or_default()
    }
}

impl Chain {
    pub fn rule(&mut self, rule: impl Into<String>) -> &mut Chain {
        self.rules.push(rule.into());
        self
    }
}

/// The transaction that turns `before` into `after`.
#[must_use]
pub fn step(before: Before<'_>, after: &Ruleset) -> Step {
    let none = Ruleset::default();
    let known = match before {
        Before::Known(ruleset) => ruleset,
        _ => &none,
    };
    let mut step = Step::default();
    let text = &mut step.text;
    let fresh_sets = after.sets.iter().filter(|(name, _)| !known.sets.contains_key(*name));
    for (name, set) in fresh_sets {
        line(
            text,
            format_args!("add {} {TABLE} {name} {{ {} }}", set.kind.word(), set.declaration),
        );
        if set.elements.is_some() && matches!(before, Before::Names(_)) {
            line(text, format_args!("flush {} {TABLE} {name}", set.kind.word()));
        }
    }
    let changed: Vec<_> = after
        .chains
        .iter()
        .filter(|(name, chain)| known.chains.get(*name) != Some(chain))
        .collect();
    for (name, chain) in &changed {
        match chain.hook {
            Some(hook) => line(text, format_args!("add chain {TABLE} {name} {{ {hook} }}")),
            None => line(text, format_args!("add chain {TABLE} {name}")),
        }
    }
    changed.iter().for_each(|(name, _)| line(text, format_args!("flush chain {TABLE} {name}")));
    step.emptied =
        chains_of(before).filter(|it| !after.chains.contains_key(*it)).cloned().collect();
    for name in &step.emptied {
        line(text, format_args!("flush chain {TABLE} {name}"));
    }
    for (name, set) in &after.sets {
        let Some(elements) = &set.elements else { continue };
        let held = known.sets.get(name).and_then(|set| set.elements.as_ref());
        let held = held.into_iter().flatten();
        let gone = held.filter(|(key, value)| elements.get(*key) != Some(value));
        let gone: Vec<_> = gone.map(|(key, _)| key.clone()).collect();
        for some in gone.chunks(ELEMENTS_MAX) {
            let list = some.join(", ");
            line(text, format_args!("delete element {TABLE} {name} {{ {list} }}"));
        }
    }
    for (name, chain) in &changed {
        for rule in &chain.rules {
            line(text, format_args!("add rule {TABLE} {name} {rule}"));
        }
    }
    for (name, set) in &after.sets {
        let held = known.sets.get(name).and_then(|set| set.elements.as_ref());
        let fresh = set.elements.iter().flatten();
        let fresh = fresh.filter(|(key, value)| held.and_then(|it| it.get(*key)) != Some(value));
        let fresh: Vec<_> = fresh.map(|(key, value)| element(key, value)).collect();
        for some in fresh.chunks(ELEMENTS_MAX) {
            let list = some.join(", ");
            line(text, format_args!("add element {TABLE} {name} {{ {list} }}"));
        }
    }
    for (name, kind) in sets_of(before).filter(|(name, _)| !after.sets.contains_key(*name)) {
        line(text, format_args!("delete {} {TABLE} {name}", kind.word()));
    }
    match before {
        // Deleting what is not there is an error; adding what is there is none.
        Before::Nothing => {
            let anew = format!("add table {TABLE}\ndelete table {TABLE}\nadd table {TABLE}\n");
            step.text.insert_str(0, &anew);
        }
        Before::Names(_) => step.text.insert_str(0, &format!("add table {TABLE}\n")),
        Before::Known(_) => {}
    }
    step
}

/// The transaction that removes chains which earlier steps have left empty.
#[must_use]
pub fn sweep(chains: &BTreeSet<String>) -> String {
    let mut text = String::new();
    chains.iter().for_each(|name| line(&mut text, format_args!("delete chain {TABLE} {name}")));
    text
}

/// The transaction that leaves nothing.
#[must_use]
pub fn removal() -> String {
    format!("add table {TABLE}\ndelete table {TABLE}\n")
}

fn line(text: &mut String, words: std::fmt::Arguments<'_>) {
    writeln!(text, "{words}").expect("a string takes what it is given");
}

fn element(key: &str, value: &str) -> String {
    if value.is_empty() { key.to_owned() } else { format!("{key} : {value}") }
}

fn chains_of<'a>(before: Before<'a>) -> Box<dyn Iterator<Item = &'a String> + 'a> {
    match before {
        Before::Nothing => Box::new(std::iter::empty()),
        Before::Names(names) => Box::new(names.chains.iter()),
        Before::Known(ruleset) => Box::new(ruleset.chains.keys()),
    }
}

fn sets_of<'a>(before: Before<'a>) -> Box<dyn Iterator<Item = (&'a String, Kind)> + 'a> {
    match before {
        Before::Nothing => Box::new(std::iter::empty()),
        Before::Names(names) => Box::new(names.sets.iter().map(|(name, kind)| (name, *kind))),
        Before::Known(ruleset) => Box::new(ruleset.sets.iter().map(|(name, set)| (name, set.kind))),
    }
}
