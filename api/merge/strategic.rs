//! Strategic merge patch: a merge patch that knows the type.
//!
//! Lists whose field says so are merged, of objects by a merge key, of scalars as a set; directives in the
//! patch say what a merge patch cannot:
//!
//! ```text
//! {"$patch": "replace", …}                              this object as it is here
//! {"$patch": "delete"}                                  nothing of it at all
//! [{"$patch": "replace"}, …]                            only these elements
//! [{"$patch": "delete", "name": "a"}, …]                without that element
//! {"$deleteFromPrimitiveList/finalizers": ["x"]}        without these scalars
//! {"$setElementOrder/containers": [{"name": "a"}, …]}   in this order
//! {"$retainKeys": ["type"], …}                          without all fields but these
//! ```
//!
//! Order: what the patch names stands as the patch (or `$setElementOrder`) orders it; what only the live
//! object has stays where it was among its neighbours, as far as both can be had.
//! The work grows with the size of patch and object, not with their product: elements are looked up by hash.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::unprocessable;
use crate::error::{Reason, Status};
use crate::schema::{Form, Node, Patch};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList";
const ELEMENT_ORDER: &str = "$setElementOrder";

type Fields = Map<String, Value>;

/// Merges a patch into an object of a built-in type.
pub fn apply(node: &Node, original: &Value, patch: &Value) -> Result<Value, Status> {
    let Value::Object(patch) = patch else {
        return Err(Status::bad_request("invalid JSON document"));
    };
    let original = original.as_object().cloned().unwrap_or_default();
    merge_fields(Place::at(node), original, patch.clone()).map(Value::Object)
}

/// A type as far as it is known: below what has no schema everything is merged as plain JSON.
#[derive(Clone, Copy)]
struct Place<'a>(Option<&'a Node>);

static NO_PATCH: Patch =
    Patch { merge: false, merge_key: None, retain_keys: false, replace: false };

impl<'a> Place<'a> {
    fn at(node: &'a Node) -> Place<'a> {
        Place(Some(node.resolve()))
    }

    /// A field and how it is patched.
    fn field(self, name: &str) -> Result<(Place<'a>, &'a Patch), Status> {
        match self.0.map(|node| &node.form) {
            Some(Form::Object(object)) => match object.field(name) {
                Some(field) => Ok((Place::at(&field.node), &field.patch)),
                None if self.0.is_some_and(|node| node.preserve_unknown) => {
                    Ok((Place(None), &NO_PATCH))
                }
                None => Err(failed(format!("unable to find api field \"{name}\""))),
            },
            Some(Form::Map(map)) => Ok((Place::at(&map.values), &NO_PATCH)),
            _ => Ok((Place(None), &NO_PATCH)),
        }
    }

    /// A field that is a list: its elements.
    fn list(self, name: &str) -> Result<(Place<'a>, &'a Patch), Status> {
        let (place, patch) = self.field(name)?;
        match place.0.map(|node| &node.form) {
            Some(Form::List(list)) => Ok((Place::at(&list.items), patch)),
            None | Some(Form::Any) => Ok((Place(None), patch)),
            Some(_) => Err(failed(format!("expected slice or array type, but got: {name}"))),
        }
    }
}

/// What upstream reports as a plain error, which its clients see as a 500 without a reason.
fn failed(message: impl Into<String>) -> Status {
    Status::new(Reason::Unknown, message)
}

fn merge_fields(
    place: Place<'_>,
    mut original: Fields,
    mut patch: Fields,
) -> Result<Fields, Status> {
    if let Some(directive) = patch.get(DIRECTIVE) {
        return match directive.as_str() {
            Some("replace") => {
                patch.remove(DIRECTIVE);
                Ok(patch)
            }
            Some("delete") => Ok(Fields::new()),
            _ => Err(unknown_directive(directive, &patch)),
        };
    }
    retain_keys(&mut original, &mut patch)?;
    merge_ordered_lists(place, &mut original, &mut patch)?;
    for (key, value) in patch {
        let (key, deletes) = match key.split_once('/') {
            Some((DELETE_FROM, rest)) if !rest.is_empty() => (rest.to_owned(), true),
            _ if key.starts_with(DELETE_FROM) => {
                return Err(Status::bad_request("invalid patch format of primitive list"));
            }
            _ => (key, false),
        };
        if value.is_null() {
            original.remove(&key);
            continue;
        }
        let merged = match (original.remove(&key), value) {
            (Some(Value::Object(under)), Value::Object(over)) => {
                let (inner, strategy) = place.field(&key)?;
                Some(Value::Object(if strategy.replace {
                    over
                } else {
                    merge_fields(inner, under, over)?
                }))
            }
            (Some(Value::Array(under)), Value::Array(over)) => {
                let (items, strategy) = place.list(&key)?;
                let merged = match deletes {
                    true => delete_from(items, strategy, under, over)?,
                    false if strategy.merge => merge_list(items, strategy, under, over)?.list,
                    false => over,
                };
                Some(Value::Array(merged))
            }
            (under, _) if deletes => under,
            (_, over) => without_directives(without_nulls(over)),
        };
        if let Some(merged) = merged {
            original.insert(key, merged);
        }
    }
    Ok(original)
}

fn retain_keys(original: &mut Fields, patch: &mut Fields) -> Result<(), Status> {
    let malformed = || Status::bad_request("invalid patch format of retainKeys");
    let Some(list) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let list = list.as_array().ok_or_else(malformed)?;
    let kept: HashSet<&str> = list.iter().filter_map(Value::as_str).collect();
    let is_named = |(key, value): (&String, &Value)| {
        value.is_null()
            || key.starts_with(DELETE_FROM)
            || key.starts_with(ELEMENT_ORDER)
            || kept.contains(key.as_str())
    };
    if !patch.iter().all(is_named) {
        return Err(malformed());
    }
    original.retain(|key, _| kept.contains(key.as_str()));
    Ok(())
}

/// Merges each list that `$setElementOrder` orders, and takes both out of the patch.
fn merge_ordered_lists(
    place: Place<'_>,
    original: &mut Fields,
    patch: &mut Fields,
) -> Result<(), Status> {
    let malformed = || Status::bad_request("invalid patch format of setElementOrder list");
    let directives: Vec<String> =
        patch.keys().filter(|key| key.starts_with(ELEMENT_ORDER)).cloned().collect();
    for directive in directives {
        let order = patch.remove(&directive).unwrap_or_default();
        let name = match directive.split_once('/') {
            Some((ELEMENT_ORDER, name)) => name,
            _ => return Err(malformed()),
        };
        let order = array(order)?;
        let live = original.get(name).cloned().map(array).transpose()?;
        let over = patch.get(name).cloned().map(array).transpose()?;
        let (items, strategy) = place.list(name)?;
        let key = strategy.merge_key.as_deref();
        check_order(over.as_deref().unwrap_or_default(), &order, key)?;
        let mut places = positions(live.as_deref().unwrap_or_default(), key);
        let merged = match (live, over) {
            (None, None) => continue,
            (Some(live), None) => live,
            (None, Some(over)) => over.into_iter().filter_map(without_directives).collect(),
            (Some(live), Some(over)) if strategy.merge => {
                let merged = merge_list(items, strategy, live, over)?;
                places = merged.places.unwrap_or(places);
                merged.list
            }
            (Some(_), Some(over)) => over,
        };
        let merged = in_order(merged, &order, &places, key)?;
        original.insert(name.into(), merged.into());
        patch.remove(name);
    }
    Ok(())
}

/// The elements of a patch must stand in the order that the patch itself asks for.
fn check_order(patch: &[Value], order: &[Value], key: Option<&str>) -> Result<(), Status> {
    if patch.is_empty() || order.is_empty() {
        return Ok(());
    }
    let mut wanted = order.iter();
    for item in patch {
        if key.is_some() && item.get(DIRECTIVE).is_some() {
            continue;
        }
        let own = identity(item, key)?;
        let mut found = false;
        for other in wanted.by_ref() {
            if identity(other, key)? == own {
                found = true;
                break;
            }
        }
        if !found {
            return Err(failed(format!(
                "The order in patch list:\n{}\n doesn't match {ELEMENT_ORDER} list:\n{}\n",
                go_list(patch),
                go_list(order)
            )));
        }
    }
    Ok(())
}

fn delete_from(
    items: Place<'_>,
    strategy: &Patch,
    original: Vec<Value>,
    gone: Vec<Value>,
) -> Result<Vec<Value>, Status> {
    if elements(&[&original, &gone])? == Some(Elements::Objects) {
        return Ok(merge_list(items, strategy, original, gone)?.list);
    }
    let gone: HashSet<String> = gone.iter().map(Value::to_string).collect();
    Ok(original.into_iter().filter(|item| !gone.contains(&item.to_string())).collect())
}

struct Merged {
    list: Vec<Value>,
    /// Where an element stood in the live list, and what is new in the place of what was deleted: by this a
    /// list is ordered that the patch orders as well. `None`: as the live list was.
    places: Option<HashMap<String, usize>>,
}

fn merge_list(
    items: Place<'_>,
    strategy: &Patch,
    original: Vec<Value>,
    patch: Vec<Value>,
) -> Result<Merged, Status> {
    match elements(&[&original, &patch])? {
        None => return Ok(Merged { list: original, places: None }),
        Some(Elements::Scalars) => {
            let mut seen = HashSet::new();
            let both = original.iter().chain(&patch);
            let merged = both.filter(|item| seen.insert(item.to_string())).cloned().collect();
            let list = in_order(merged, &patch, &positions(&original, None), None)?;
            return Ok(Merged { list, places: None });
        }
        Some(Elements::Objects) => {}
    }
    let Some(key) = strategy.merge_key.as_deref() else {
        return Err(failed("cannot merge lists without merge key for struct"));
    };
    let live_length = original.len();
    let (original, patch, replaced) = take_directives(original, patch, key)?;
    let live = positions(&original, Some(key));
    let mut known = live.clone();
    let mut merged = original;
    for item in &patch {
        let identity = identity(item, Some(key))?;
        match known.get(&identity) {
            Some(at) => {
                let (under, over) = (fields(merged[*at].take())?, fields(item.clone())?);
                merged[*at] = merge_fields(items, under, over)?.into();
            }
            None => {
                known.insert(identity, merged.len());
                merged.push(item.clone());
            }
        }
    }
    known.retain(|_, at| *at < live_length);
    let list = in_order(merged, &patch, &live, Some(key))?;
    Ok(Merged { list, places: (!replaced).then_some(known) })
}

/// Carries out the elements that are directives: what is left of the live list, of the patch, and whether the
/// list is replaced.
fn take_directives(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    key: &str,
) -> Result<(Vec<Value>, Vec<Value>, bool), Status> {
    let (mut gone, mut rest, mut replace) = (HashSet::new(), Vec::new(), false);
    for item in patch {
        match item.get(DIRECTIVE) {
            None => rest.push(item),
            Some(directive) => match directive.as_str() {
                Some("delete") => drop(gone.insert(identity(&item, Some(key))?)),
                Some("replace") => replace = true,
                Some("merge") => {
                    return Err(failed("merging lists cannot yet be specified in the patch"));
                }
                _ => return Err(unknown_directive(directive, &fields(item.clone())?)),
            },
        }
    }
    if replace {
        return Ok((Vec::new(), rest, true));
    }
    if !gone.is_empty() {
        original
            .retain(|item| item.get(key).is_none_or(|value| !gone.contains(&value.to_string())));
    }
    Ok((original, rest, false))
}

/// Those that `order` names, in its order, woven into the others, which keep the order of their `places`.
fn in_order(
    merged: Vec<Value>,
    order: &[Value],
    places: &HashMap<String, usize>,
    key: Option<&str>,
) -> Result<Vec<Value>, Status> {
    let wanted = positions(order, key);
    let (mut named, mut others) = (Vec::new(), Vec::new());
    for item in merged {
        let identity = identity(&item, key)?;
        let place = places.get(&identity).copied();
        match wanted.get(&identity) {
            Some(at) => named.push((*at, place, item)),
            None => others.push((place, item)),
        }
    }
    named.sort_by_key(|(at, _, _)| *at);
    others.sort_by_key(|(place, _)| place.unwrap_or(usize::MAX));
    let mut result = Vec::with_capacity(named.len() + others.len());
    let mut others = others.into_iter().peekable();
    for (_, place, item) in named {
        // Others go first as long as they stood before this one.
        let before = |(other, _): &(Option<usize>, Value)| {
            other.zip(place).is_some_and(|(other, place)| other < place)
        };
        while let Some((_, other)) = others.next_if(before) {
            result.push(other);
        }
        result.push(item);
    }
    result.extend(others.map(|(_, other)| other));
    Ok(result)
}

/// What an element is told apart by, as text: its merge key, or itself.
fn identity(item: &Value, key: Option<&str>) -> Result<String, Status> {
    let Some(key) = key else { return Ok(item.to_string()) };
    let Value::Object(map) = item else {
        return Err(failed("expected a map[string]interface {}, but received a scalar"));
    };
    match map.get(key) {
        Some(value) => Ok(value.to_string()),
        None => Err(failed(format!(
            "map: {} does not contain declared merge key: {key}",
            go_value(item)
        ))),
    }
}

/// The first place of each element that has an identity.
fn positions(list: &[Value], key: Option<&str>) -> HashMap<String, usize> {
    let mut found = HashMap::with_capacity(list.len());
    for (at, item) in list.iter().enumerate() {
        if let Ok(identity) = identity(item, key) {
            found.entry(identity).or_insert(at);
        }
    }
    found
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Elements {
    Objects,
    Scalars,
}

/// What the lists hold, which must be one and the same; nothing where all are empty.
fn elements(lists: &[&[Value]]) -> Result<Option<Elements>, Status> {
    let mut kind = None;
    for item in lists.iter().copied().flatten() {
        let own = match item {
            Value::Array(_) => return Err(unprocessable("lists of lists are not supported")),
            Value::Object(_) => Elements::Objects,
            _ => Elements::Scalars,
        };
        if kind.replace(own).is_some_and(|other| other != own) {
            return Err(failed(format!(
                "list element types are not identical: {}",
                lists.iter().map(|list| go_list(list)).collect::<Vec<_>>().join(" ")
            )));
        }
    }
    Ok(kind)
}

fn array(value: Value) -> Result<Vec<Value>, Status> {
    match value {
        Value::Array(list) => Ok(list),
        other => {
            Err(failed(format!("expected a []interface {{}}, but received a {}", go_type(&other))))
        }
    }
}

fn fields(value: Value) -> Result<Fields, Status> {
    match value {
        Value::Object(map) => Ok(map),
        other => Err(failed(format!(
            "expected a map[string]interface {{}}, but received a {}",
            go_type(&other)
        ))),
    }
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => map
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key, without_nulls(value)))
            .collect::<Fields>()
            .into(),
        Value::Array(list) => list.into_iter().map(without_nulls).collect(),
        other => other,
    }
}

/// A part of a patch under which there is nothing to merge. `None`: all of it was a directive.
fn without_directives(value: Value) -> Option<Value> {
    Some(match value {
        Value::Object(map) => {
            if map.contains_key(DIRECTIVE) {
                return None;
            }
            map.into_iter()
                .filter_map(|(key, value)| Some((key, without_directives(value)?)))
                .collect::<Fields>()
                .into()
        }
        Value::Array(list) => list.into_iter().filter_map(without_directives).collect(),
        other => other,
    })
}

fn unknown_directive(directive: &Value, patch: &Fields) -> Status {
    failed(format!(
        "unknown patch type: {} in map: {}",
        go_value(directive),
        go_value(&Value::Object(patch.clone()))
    ))
}

/// As Go's `%v` prints it, which upstream's messages quote.
fn go_value(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".into(),
        Value::String(text) => text.clone(),
        Value::Array(list) => go_list(list),
        Value::Object(map) => {
            let mut text = String::from("map[");
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            for (at, (key, value)) in entries.into_iter().enumerate() {
                let space = if at == 0 { "" } else { " " };
                let _ = write!(text, "{space}{key}:{}", go_value(value));
            }
            text + "]"
        }
        other => other.to_string(),
    }
}

fn go_list(list: &[Value]) -> String {
    format!("[{}]", list.iter().map(go_value).collect::<Vec<_>>().join(" "))
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "%!s(<nil>)",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

#[cfg(test)]
mod tests;
