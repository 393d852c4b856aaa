//! The JSONPath of printer columns: as much of it as kubectl and CustomResourceDefinitions use.
//!
//! ```text
//! path   = { "." name | "[" index "]" | "['" name "']" | "[*]" | ".." name | "[?(@.path op value)]" }
//! op     = "==" | "!=" | "<" | "<=" | ">" | ">="
//! ```
//! A path that cannot be read finds nothing: a bad column must not hide the objects.

use serde_json::Value;

use super::age;
use crate::object::time::Timestamp;

/// One cell; null where nothing is found.
pub(super) fn cell(object: &Value, path: &str, kind: &str, now: Timestamp) -> Value {
    let found = find(object, path);
    let Some(first) = found.first() else { return Value::Null };
    match (kind, *first) {
        ("date", Value::String(text)) => age(text, now).into(),
        ("integer", Value::Number(number)) => {
            number.as_i64().or(number.as_f64().map(|it| it as i64)).into()
        }
        ("number", Value::Number(number)) => number.clone().into(),
        ("boolean", Value::Bool(flag)) => (*flag).into(),
        ("string", _) => {
            let all: Vec<String> = found.iter().map(|it| text(it)).collect();
            all.join(" ").into()
        }
        _ => Value::Null,
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// All values that a path leads to.
fn find<'a>(object: &'a Value, path: &str) -> Vec<&'a Value> {
    let path = path.trim().trim_start_matches('{').trim_end_matches('}');
    let path = path.strip_prefix('$').unwrap_or(path);
    match steps(path) {
        Some(steps) => steps.iter().fold(vec![object], |values, step| step.take(&values)),
        None => Vec::new(),
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Name(String),
    /// At any depth.
    Below(String),
    Index(i64),
    All,
    Where {
        path: String,
        operator: String,
        value: Option<Value>,
    },
}

fn steps(mut path: &str) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    while !path.is_empty() {
        if let Some(rest) = path.strip_prefix("..") {
            let (name, rest) = name(rest)?;
            steps.push(Step::Below(name));
            path = rest;
        } else if let Some(rest) = path.strip_prefix('.') {
            if let Some(rest) = rest.strip_prefix('*') {
                steps.push(Step::All);
                path = rest;
                continue;
            }
            let (name, rest) = name(rest)?;
            steps.push(Step::Name(name));
            path = rest;
        } else if let Some(rest) = path.strip_prefix('[') {
            let end = closing(rest)?;
            steps.push(bracket(rest[..end].trim())?);
            path = &rest[end + 1..];
        } else {
            let (name, rest) = name(path)?;
            steps.push(Step::Name(name));
            path = rest;
        }
    }
    Some(steps)
}

/// A name up to the next sign that is not escaped.
fn name(path: &str) -> Option<(String, &str)> {
    let mut name = String::new();
    let mut signs = path.char_indices();
    while let Some((at, sign)) = signs.next() {
        match sign {
            '\\' => name.push(signs.next()?.1),
            '.' | '[' => return (!name.is_empty()).then_some((name, &path[at..])),
            other => name.push(other),
        }
    }
    (!name.is_empty()).then_some((name, ""))
}

/// Where the bracket that was opened is closed.
fn closing(path: &str) -> Option<usize> {
    let mut depth = 0;
    let mut quote = None;
    for (at, sign) in path.char_indices() {
        match (quote, sign) {
            (Some(open), sign) if open == sign => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(sign),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(at),
            (None, ']') => depth -= 1,
            (None, _) => {}
        }
    }
    None
}

fn bracket(inside: &str) -> Option<Step> {
    if inside == "*" {
        return Some(Step::All);
    }
    if let Some(name) = unquoted(inside) {
        return Some(Step::Name(name));
    }
    if let Some(condition) = inside.strip_prefix("?(").and_then(|it| it.strip_suffix(')')) {
        let condition = condition.trim().strip_prefix('@')?;
        for operator in ["==", "!=", "<=", ">=", "<", ">"] {
            if let Some((path, value)) = condition.split_once(operator) {
                return Some(Step::Where {
                    path: path.trim().into(),
                    operator: operator.into(),
                    value: Some(literal(value.trim())?),
                });
            }
        }
        let path = condition.trim().into();
        return Some(Step::Where { path, operator: String::new(), value: None });
    }
    inside.parse().ok().map(Step::Index)
}

fn unquoted(text: &str) -> Option<String> {
    ['\'', '"'].iter().find_map(|quote| {
        let inner = text.strip_prefix(*quote)?.strip_suffix(*quote)?;
        Some(inner.replace('\\', ""))
    })
}

fn literal(text: &str) -> Option<Value> {
    unquoted(text).map(Value::from).or_else(|| serde_json::from_str(text).ok())
}

impl Step {
    fn take<'a>(&self, values: &[&'a Value]) -> Vec<&'a Value> {
        values.iter().flat_map(|value| self.one(value)).collect()
    }

    fn one<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        match (self, value) {
            (Step::Name(name), _) => value.get(name).into_iter().collect(),
            (Step::Below(name), _) => below(value, name),
            (Step::Index(at), Value::Array(list)) => {
                let length = i64::try_from(list.len()).unwrap_or(i64::MAX);
                let at = if *at < 0 { at + length } else { *at };
                usize::try_from(at).ok().and_then(|at| list.get(at)).into_iter().collect()
            }
            (Step::All, Value::Array(list)) => list.iter().collect(),
            (Step::All, Value::Object(map)) => map.values().collect(),
            (Step::Where { path, operator, value }, Value::Array(list)) => {
                let holds = |item: &&Value| {
                    let found = find(item, path);
                    match value {
                        None => !found.is_empty(),
                        Some(value) => found.first().is_some_and(|it| compare(it, operator, value)),
                    }
                };
                list.iter().filter(holds).collect()
            }
            _ => Vec::new(),
        }
    }
}

fn below<'a>(value: &'a Value, name: &str) -> Vec<&'a Value> {
    let mut found: Vec<&Value> = value.get(name).into_iter().collect();
    match value {
        Value::Object(map) => found.extend(map.values().flat_map(|it| below(it, name))),
        Value::Array(list) => found.extend(list.iter().flat_map(|it| below(it, name))),
        _ => {}
    }
    found
}

fn compare(there: &Value, operator: &str, wanted: &Value) -> bool {
    match (operator, there.as_f64(), wanted.as_f64()) {
        ("==", ..) => there == wanted,
        ("!=", ..) => there != wanted,
        ("<", Some(there), Some(wanted)) => there < wanted,
        ("<=", Some(there), Some(wanted)) => there <= wanted,
        (">", Some(there), Some(wanted)) => there > wanted,
        (">=", Some(there), Some(wanted)) => there >= wanted,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_of_printer_columns_find_what_they_name() {
        let object = json!({"spec": {"a.b": 1, "list": [{"n": "x", "v": 1}, {"n": "y", "v": 2}]},
            "status": {"conditions": [{"type": "Ready", "status": "True"},
                {"type": "Synced", "status": "False"}]}});
        let check = |path: &str, expected: Value| {
            let found: Vec<Value> = find(&object, path).into_iter().cloned().collect();
            assert_eq!(Value::Array(found), expected, "{path}");
        };
        check(".status.conditions[?(@.type==\"Ready\")].status", json!(["True"]));
        check(".status.conditions[?(@.type=='Synced')].status", json!(["False"]));
        check("{.spec.list[0].n}", json!(["x"]));
        check(".spec.list[-1].n", json!(["y"]));
        check(".spec.list[*].v", json!([1, 2]));
        check(".spec['a.b']", json!([1]));
        check(".spec.a\\.b", json!([1]));
        check("..n", json!(["x", "y"]));
        check(".spec.list[?(@.v>1)].n", json!(["y"]));
        check(".spec.gone", json!([]));
        check(".spec.list[", json!([]));
    }

    #[test]
    fn a_cell_is_of_its_columns_type() {
        let now = Timestamp::parse("2026-01-02T00:00:00Z").unwrap();
        let object = json!({"a": 3, "b": "x", "c": true, "t": "2026-01-01T00:00:00Z"});
        assert_eq!(cell(&object, ".a", "integer", now), json!(3));
        assert_eq!(cell(&object, ".b", "integer", now), Value::Null);
        assert_eq!(cell(&object, ".a", "string", now), json!("3"));
        assert_eq!(cell(&object, ".c", "boolean", now), json!(true));
        assert_eq!(cell(&object, ".t", "date", now), json!("24h"));
        assert_eq!(cell(&object, ".gone", "date", now), Value::Null);
    }
}
