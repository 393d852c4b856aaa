//! Values made from values: a configuration laid over the live object, and fields taken out of one.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::compare::{field, is_void, names};
use super::set::{Element, Set};
use super::typed::{Kind, Type};

/// The live value with a configuration laid over it, which has passed [`super::typed::check`]. A null in it
/// stands for a scalar, and says nothing of lists and objects.
#[must_use]
pub fn merge(of: Type<'_>, live: Option<&Value>, over: Option<&Value>) -> Option<Value> {
    let kind = match (live, over) {
        (Some(live), None) => return Some(live.clone()),
        (_, Some(over)) => of.kind(over),
        (None, None) => return None,
    };
    if kind == Kind::Leaf || (is_void(kind, live) && is_void(kind, over)) {
        return over.or(live).cloned();
    }
    if kind == Kind::Fields {
        let mut merged = Map::new();
        for name in names(live, over) {
            if let Some(value) = merge(of.field(name), field(live, name), field(over, name)) {
                merged.insert(name.into(), value);
            }
        }
        return Some(merged.into());
    }
    Some(merge_elements(of, live, over).into())
}

/// The elements of both lists. Those of the configuration keep its order, those of the live list alone keep
/// theirs, and stay behind what they followed as far as the first allows.
fn merge_elements(of: Type<'_>, live: Option<&Value>, over: Option<&Value>) -> Vec<Value> {
    let mine = live.map(|list| of.elements(list)).unwrap_or_default();
    let theirs = over.map(|list| of.elements(list)).unwrap_or_default();
    let applied: HashSet<&Element> = theirs.iter().map(|(element, _)| element).collect();
    let mut lived: HashMap<&Element, &Value> = HashMap::new();
    for (element, item) in &mine {
        // What is there twice is not merged with what is applied: that takes its place.
        lived.entry(element).and_modify(|it| *it = &Value::Null).or_insert(item);
    }
    let merged_with = |element: &Element, item: &Value| {
        merge(of.items(), lived.get(element).copied(), Some(item))
    };
    let mut shared = theirs.iter().map(|(it, _)| it).filter(|it| lived.contains_key(it)).peekable();
    let mut done: HashSet<&Element> = HashSet::new();
    let mut merged = Vec::with_capacity(mine.len().max(theirs.len()));
    let (mut left, mut right) = (0, 0);
    while left < mine.len() || right < theirs.len() {
        if let (Some((own, _)), Some((other, item))) = (mine.get(left), theirs.get(right)) {
            if own == other {
                done.insert(own);
                merged.extend(merged_with(own, item));
                (left, right) = (left + 1, right + 1);
                shared.next();
                continue;
            }
            if applied.contains(own) && shared.peek().is_some_and(|next| *next != own) {
                // Applied as well, but it is another's turn.
                left += 1;
                continue;
            }
        }
        if let Some((own, item)) = mine.get(left) {
            if !applied.contains(own) {
                merged.push((*item).clone());
                left += 1;
                continue;
            }
            if done.contains(own) {
                left += 1;
            }
        }
        if let Some((other, item)) = theirs.get(right) {
            done.insert(other);
            merged.extend(merged_with(other, item));
            right += 1;
            shared.next_if_eq(&other);
        }
    }
    merged
}

/// A value without the fields and elements of a set. What they were in stays, empty if need be.
#[must_use]
pub fn remove(of: Type<'_>, value: &Value, gone: &Set) -> Value {
    match (of.kind(value), value) {
        (Kind::Fields, Value::Object(map)) => map
            .iter()
            .filter_map(|(name, value)| {
                let element = Element::field(name);
                Some((name.clone(), without(of.field(name), value, gone, &element)?))
            })
            .collect::<Map<_, _>>()
            .into(),
        (Kind::List, Value::Array(list)) => list
            .iter()
            .filter_map(|item| match of.element(item) {
                Ok(element) => without(of.items(), item, gone, &element),
                Err(_) => Some(item.clone()),
            })
            .collect(),
        _ => value.clone(),
    }
}

fn without(of: Type<'_>, value: &Value, gone: &Set, element: &Element) -> Option<Value> {
    if gone.has_element(element) {
        return None;
    }
    Some(match gone.below(element) {
        Some(below) => remove(of, value, below),
        None => value.clone(),
    })
}
