//! What cells are made of: paths into an object, ages, label selectors, lists that are cut short.

use serde_json::Value;

use crate::object::duration::human;
use crate::object::time::Timestamp;

/// A value of an object, `null` where it is absent. The path is a JSON pointer.
pub fn at<'a>(object: &'a Value, path: &str) -> &'a Value {
    object.pointer(path).unwrap_or(&Value::Null)
}

pub fn text<'a>(object: &'a Value, path: &str) -> &'a str {
    at(object, path).as_str().unwrap_or_default()
}

pub fn text_or<'a>(object: &'a Value, path: &str, absent: &'a str) -> &'a str {
    match text(object, path) {
        "" => absent,
        text => text,
    }
}

pub fn number(object: &Value, path: &str) -> i64 {
    at(object, path).as_i64().unwrap_or(0)
}

pub fn list<'a>(object: &'a Value, path: &str) -> &'a [Value] {
    at(object, path).as_array().map_or(&[], Vec::as_slice)
}

pub fn flag(object: &Value, path: &str) -> bool {
    at(object, path).as_bool().unwrap_or(false)
}

/// How many entries a map or list has.
pub fn count(object: &Value, path: &str) -> i64 {
    let value = at(object, path);
    let count = value.as_object().map(serde_json::Map::len);
    let count = count.or_else(|| value.as_array().map(Vec::len)).unwrap_or(0);
    i64::try_from(count).unwrap_or(i64::MAX)
}

pub fn name(object: &Value) -> Value {
    text(object, "/metadata/name").into()
}

/// How long ago the object was created.
pub fn age_of(object: &Value, now: Timestamp) -> Value {
    since(object, "/metadata/creationTimestamp", now).into()
}

/// How long ago a moment in the object was.
pub fn since(object: &Value, path: &str, now: Timestamp) -> String {
    age(text(object, path), now)
}

/// How long ago a moment was, as people say it.
#[must_use]
pub fn age(moment: &str, now: Timestamp) -> String {
    match Timestamp::parse(moment) {
        Some(moment) => human(now.micros_since(moment).div_euclid(1_000_000)),
        None => "<unknown>".into(),
    }
}

/// A map of labels as `a=b,c=d`.
pub fn labels(map: &Value) -> String {
    match map.as_object() {
        Some(map) if !map.is_empty() => map
            .iter()
            .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
            .collect::<Vec<_>>()
            .join(","),
        _ => "<none>".into(),
    }
}

/// A label selector as `a=b,c in (d,e)`.
pub fn selector(selector: &Value) -> String {
    let text = selector_text(selector);
    if text.is_empty() { "<none>".into() } else { text }
}

/// The same, empty where nothing is selected by.
pub fn selector_text(selector: &Value) -> String {
    let mut parts: Vec<(String, String)> = Vec::new();
    for (key, value) in at(selector, "/matchLabels").as_object().into_iter().flatten() {
        parts.push((key.clone(), format!("{key}={}", value.as_str().unwrap_or_default())));
    }
    for expression in list(selector, "/matchExpressions") {
        let key = text(expression, "/key");
        let mut values: Vec<_> =
            list(expression, "/values").iter().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let values = values.join(",");
        let part = match text(expression, "/operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            _ => "<error>".to_owned(),
        };
        parts.push((key.to_owned(), part));
    }
    parts.sort();
    parts.into_iter().map(|(_, part)| part).collect::<Vec<_>>().join(",")
}

/// Names and images of containers, each joined by commas.
pub fn containers(spec: &Value) -> [Value; 2] {
    let join = |field: &str| {
        let all: Vec<_> = list(spec, "/containers").iter().map(|it| text(it, field)).collect();
        Value::from(all.join(","))
    };
    [join("/name"), join("/image")]
}

/// At most `most` entries, then how many more there are.
pub fn cut(entries: &[String], most: usize, separator: &str) -> String {
    if entries.len() > most {
        let shown = entries[..most].join(separator);
        format!("{shown} + {} more...", entries.len() - most)
    } else {
        entries.join(separator)
    }
}

/// The status of a condition, empty where it is not there.
pub fn condition<'a>(object: &'a Value, name: &str) -> &'a str {
    list(object, "/status/conditions")
        .iter()
        .find(|condition| text(condition, "/type") == name)
        .map_or("", |condition| text(condition, "/status"))
}

/// What a value prints as: strings bare, all else as JSON.
pub fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

pub fn or<'a>(text: &'a str, absent: &'a str) -> &'a str {
    if text.is_empty() { absent } else { text }
}
