//! How two values of one type differ, as sets of fields: what was added, what was modified, what was removed.
//!
//! The books themselves (`metadata.managedFields`) belong to nobody, and no difference is seen in them.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::set::{Element, Set};
use super::typed::{Kind, Type};

static EMPTY: LazyLock<Value> = LazyLock::new(|| Value::Object(Map::new()));

/// How two values of one type differ. No path is in two of the sets.
#[derive(Debug, Default)]
pub struct Comparison {
    pub removed: Set,
    pub modified: Set,
    pub added: Set,
}

#[must_use]
pub fn compare(of: Type<'_>, old: &Value, new: &Value) -> Comparison {
    let mut comparison = Comparison::default();
    compare_at(of, Some(old), Some(new), &mut Vec::new(), &mut comparison);
    comparison
}

fn compare_at(
    of: Type<'_>,
    old: Option<&Value>,
    new: Option<&Value>,
    path: &mut Vec<Element>,
    into: &mut Comparison,
) {
    // Most of an object is as it was, and need not be taken apart for that to be known.
    if let (Some(old), Some(new)) = (old, new)
        && same(old, new)
    {
        return;
    }
    let kinds = (old.map(|it| of.kind(it)), new.map(|it| of.kind(it)));
    match kinds {
        // Only without a type can two values be of different kinds.
        (Some(before), Some(after)) if before != after => {
            compare_as(before, of, old, new, path, into);
            compare_as(after, of, old, new, path, into);
        }
        (Some(kind), None) | (_, Some(kind)) => compare_as(kind, of, old, new, path, into),
        (None, None) => {}
    }
}

fn compare_as(
    kind: Kind,
    of: Type<'_>,
    old: Option<&Value>,
    new: Option<&Value>,
    path: &mut Vec<Element>,
    into: &mut Comparison,
) {
    if kind == Kind::Leaf || (is_void(kind, old) && is_void(kind, new)) {
        match (old, new) {
            (None, _) => into.added.insert(path),
            (_, None) => into.removed.insert(path),
            (Some(old), Some(new)) if !same(old, new) => into.modified.insert(path),
            _ => {}
        }
        return;
    }
    if kind == Kind::Fields {
        let in_metadata = matches!(path.as_slice(), [Element::Field(name)] if name == "metadata");
        for name in names(old, new) {
            if in_metadata && name == "managedFields" {
                continue;
            }
            // Where the structure is, so are its own structures, though they may not be written.
            let own = |of_whole: Option<&'_ Value>| of_whole.is_some() && of.always_has(name);
            let before = field(old, name).or(own(old).then_some(&EMPTY));
            let after = field(new, name).or(own(new).then_some(&EMPTY));
            path.push(Element::field(name));
            compare_at(of.field(name), before, after, path, into);
            path.pop();
        }
    } else {
        compare_elements(of, old, new, path, into);
    }
    match (old, new) {
        (None, _) => into.added.insert(path),
        (_, None) => into.removed.insert(path),
        _ => {}
    }
}

fn compare_elements(
    of: Type<'_>,
    old: Option<&Value>,
    new: Option<&Value>,
    path: &mut Vec<Element>,
    into: &mut Comparison,
) {
    let mut all: BTreeMap<Element, (Vec<&Value>, Vec<&Value>)> = BTreeMap::new();
    for (element, item) in old.into_iter().flat_map(|list| of.elements(list)) {
        all.entry(element).or_default().0.push(item);
    }
    for (element, item) in new.into_iter().flat_map(|list| of.elements(list)) {
        all.entry(element).or_default().1.push(item);
    }
    for (element, (before, after)) in all {
        path.push(element);
        // Elements that cannot be told apart are taken together, as one value.
        match (before.as_slice(), after.as_slice()) {
            ([] | [_], [] | [_]) => {
                let (old, new) = (before.first().copied(), after.first().copied());
                compare_at(of.items(), old, new, path, into);
            }
            ([_, _, ..], [_, _, ..]) => {
                let pairs = || before.iter().zip(&after);
                if before.len() != after.len() || !pairs().all(|(a, b)| same(a, b)) {
                    into.modified.insert(path);
                }
            }
            ([_, _, ..], rest) => {
                compare_at(of.items(), None, rest.first().copied(), path, into);
                into.removed.insert(path);
            }
            (rest, _) => {
                compare_at(of.items(), rest.first().copied(), None, path, into);
                into.added.insert(path);
            }
        }
        path.pop();
    }
}

/// The names of the fields of both, each once.
pub fn names<'v>(
    one: Option<&'v Value>,
    other: Option<&'v Value>,
) -> impl Iterator<Item = &'v str> {
    let fields = |of: Option<&'v Value>| of.and_then(Value::as_object).into_iter().flatten();
    let more = fields(other).filter(move |(name, _)| field(one, name).is_none());
    fields(one).chain(more).map(|(name, _)| name.as_str())
}

pub fn field<'v>(of: Option<&'v Value>, name: &str) -> Option<&'v Value> {
    of.and_then(|value| value.as_object()?.get(name))
}

/// Nothing in it that could be taken apart.
pub fn is_void(kind: Kind, value: Option<&Value>) -> bool {
    match (kind, value) {
        (Kind::Fields, Some(Value::Object(map))) => map.is_empty(),
        (Kind::List, Some(Value::Array(list))) => list.is_empty(),
        _ => true,
    }
}

/// Equal, where a number is what it is worth.
#[must_use]
pub fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(a), Value::Number(b)) => {
            a == b || ((a.is_f64() || b.is_f64()) && a.as_f64() == b.as_f64())
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter().all(|(key, value)| b.get(key).is_some_and(|it| same(value, it)))
        }
        _ => one == other,
    }
}
