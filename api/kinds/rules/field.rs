//! A field of an object: where it is, and what is there; and what may be wrong with it.
//!
//! Keeps: a cause names the field by the path that upstream's clients know (`spec.ports[0].name`), and says
//! what is wrong in upstream's words.

use serde_json::{Map, Value};

use crate::error::Cause;
use crate::object::quantity::Quantity;
use crate::object::selector::{Labels, bad_key, bad_label_value};
use crate::object::{names, selector};
use crate::schema::causes;

/// What is wrong with an object.
pub(super) type Found = Vec<Cause>;

#[derive(Clone, Debug)]
pub(super) struct Field<'a> {
    pub path: String,
    /// Null where nothing is there.
    pub value: &'a Value,
    /// Without it paths are empty: most objects have nothing wrong with them, and to put together where it is
    /// would be most of the work.
    pub(super) named: bool,
}

static NOTHING: Value = Value::Null;

impl<'a> Field<'a> {
    pub fn of(object: &'a Value) -> Field<'a> {
        Field { path: String::new(), value: object, named: true }
    }

    /// What a check finds in an object. Paths are put together only if there is anything.
    pub fn check(object: &'a Value, check: impl Fn(&Field<'a>, &mut Found)) -> Found {
        let mut found = Found::new();
        check(&Field { named: false, ..Field::of(object) }, &mut found);
        if !found.is_empty() {
            found.clear();
            check(&Field::of(object), &mut found);
        }
        found
    }

    pub fn new(path: impl Into<String>, value: Option<&'a Value>) -> Field<'a> {
        Field { path: path.into(), value: value.unwrap_or(&NOTHING), named: true }
    }

    /// A part of it, whose path is made of its own.
    fn part(&self, value: Option<&'a Value>, path: impl FnOnce(&str) -> String) -> Field<'a> {
        let named = self.named;
        let path = if named { path(&self.path) } else { String::new() };
        Field { path, value: value.unwrap_or(&NOTHING), named }
    }

    /// A field within it; `name` may be a path of several.
    pub fn at(&self, name: &str) -> Field<'a> {
        let value = name.split('.').try_fold(self.value, |value, name| value.get(name));
        self.part(value, |path| match path {
            "" => name.to_owned(),
            path => format!("{path}.{name}"),
        })
    }

    /// An entry of a map.
    pub fn key(&self, key: &str) -> Field<'a> {
        self.part(self.value.get(key), |path| format!("{path}[{key}]"))
    }

    pub fn items(&self) -> impl Iterator<Item = Field<'a>> {
        let list = self.clone();
        let items = self.value.as_array().into_iter().flatten().enumerate();
        items.map(move |(at, value)| list.part(Some(value), |path| format!("{path}[{at}]")))
    }

    pub fn entries(&self) -> impl Iterator<Item = (&'a str, Field<'a>)> {
        let map = self.clone();
        let entries = self.value.as_object().into_iter().flatten();
        entries.map(move |(key, value)| {
            (key.as_str(), map.part(Some(value), |path| format!("{path}[{key}]")))
        })
    }

    pub fn is_set(&self) -> bool {
        !self.value.is_null()
    }

    /// Nothing, an empty text, list or map.
    pub fn is_empty(&self) -> bool {
        match self.value {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        }
    }

    pub fn len(&self) -> usize {
        self.value.as_array().map_or(0, Vec::len)
    }

    pub fn text(&self) -> &'a str {
        self.value.as_str().unwrap_or_default()
    }

    pub fn number(&self) -> Option<i64> {
        self.value.as_i64()
    }

    pub fn is_true(&self) -> bool {
        self.value == &Value::Bool(true)
    }

    pub fn map(&self) -> Option<&'a Map<String, Value>> {
        self.value.as_object()
    }

    pub fn invalid(&self, why: &str) -> Cause {
        match self.value {
            Value::Null => causes::invalid(&self.path, &"".into(), why),
            value => causes::invalid(&self.path, value, why),
        }
    }

    pub fn required(&self, why: &str) -> Cause {
        causes::required(&self.path, why)
    }

    pub fn forbidden(&self, why: &str) -> Cause {
        causes::forbidden(&self.path, why)
    }

    pub fn duplicate(&self) -> Cause {
        causes::duplicate(&self.path, self.value)
    }

    pub fn not_found(&self) -> Cause {
        causes::not_found(&self.path, self.value)
    }

    pub fn unsupported(&self, supported: &[&str]) -> Cause {
        let supported: Vec<String> = supported.iter().map(|it| (*it).to_owned()).collect();
        match self.value {
            Value::Null => causes::not_supported(&self.path, &"".into(), &supported),
            value => causes::not_supported(&self.path, value, &supported),
        }
    }

    /// One of those, or that is what is wrong.
    pub fn must_be_one_of(&self, supported: &[&str], found: &mut Found) {
        if !supported.contains(&self.text()) {
            found.push(self.unsupported(supported));
        }
    }

    /// The same where anything is there.
    pub fn may_be_one_of(&self, supported: &[&str], found: &mut Found) {
        if !self.is_empty() {
            self.must_be_one_of(supported, found);
        }
    }

    pub fn must_not_be_empty(&self, found: &mut Found) {
        if self.is_empty() {
            found.push(self.required(""));
        }
    }

    pub fn must_not_be_negative(&self, found: &mut Found) {
        if self.number().is_some_and(|number| number < 0) {
            found.push(self.invalid("must be greater than or equal to 0"));
        }
    }

    pub fn must_be_between(&self, least: i64, most: i64, found: &mut Found) {
        if self.number().is_some_and(|number| !(least..=most).contains(&number)) {
            let why = format!("must be between {least} and {most}, inclusive");
            found.push(self.invalid(&why));
        }
    }

    /// A check of its text, where it has one.
    pub fn must_be(&self, bad: fn(&str) -> Option<String>, found: &mut Found) {
        if let Some(why) = bad(self.text()) {
            found.push(self.invalid(&why));
        }
    }

    pub fn must_be_label(&self, found: &mut Found) {
        self.must_be(names::bad_label, found);
    }

    pub fn must_be_subdomain(&self, found: &mut Found) {
        self.must_be(names::bad_subdomain, found);
    }

    /// A name such as `example.com/name`.
    pub fn must_be_qualified(&self, found: &mut Found) {
        self.must_be(bad_key, found);
    }

    pub fn must_stay(&self, old: &Field<'_>, found: &mut Found) {
        if !super::same::same(self.value, old.value) {
            found.push(match self.value {
                Value::Null => causes::invalid(&self.path, &Value::Null, IMMUTABLE),
                _ => self.invalid(IMMUTABLE),
            });
        }
    }

    /// A map of labels.
    pub fn must_be_labels(&self, found: &mut Found) {
        for (key, value) in self.map().into_iter().flatten() {
            if let Some(why) = bad_key(key) {
                found.push(causes::invalid(&self.path, &key.as_str().into(), &why));
            }
            if let Some(why) = value.as_str().and_then(bad_label_value) {
                found.push(causes::invalid(&self.path, value, &why));
            }
        }
    }

    /// A map of annotations.
    pub fn must_be_annotations(&self, found: &mut Found) {
        for key in self.map().into_iter().flatten().map(|(key, _)| key.to_lowercase()) {
            if let Some(why) = bad_key(&key) {
                found.push(causes::invalid(&self.path, &key.into(), &why));
            }
        }
    }

    /// A label selector.
    pub fn must_be_selector(&self, found: &mut Found) {
        self.at("matchLabels").must_be_labels(found);
        for requirement in self.at("matchExpressions").items() {
            let values = requirement.at("values");
            match requirement.at("operator").text() {
                "In" | "NotIn" if values.is_empty() => found
                    .push(values.required("must be specified when `operator` is 'In' or 'NotIn'")),
                "Exists" | "DoesNotExist" if !values.is_empty() => found.push(values.forbidden(
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                )),
                "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
                _ => {
                    let operator = requirement.at("operator");
                    found.push(operator.invalid("not a valid selector operator"));
                }
            }
            requirement.at("key").must_be(bad_key, found);
            for value in values.items() {
                value.must_be(selector::bad_label_value, found);
            }
        }
    }

    /// Whether it is a selector that chooses at all.
    pub fn selects_nothing(&self) -> bool {
        self.at("matchLabels").is_empty() && self.at("matchExpressions").is_empty()
    }

    /// As a selector; `None` where it is none.
    pub fn selector(&self) -> Option<Labels> {
        Labels::from_object(Some(self.value)).ok().flatten()
    }

    pub fn quantity(&self) -> Option<Quantity> {
        self.is_set().then(|| Quantity::from_json(self.value).ok()).flatten()
    }

    pub fn quantity_must_not_be_negative(&self, found: &mut Found) {
        if self.quantity().is_some_and(Quantity::is_negative) {
            found.push(self.invalid("must be greater than or equal to 0"));
        }
    }

    /// A number of 0 or more, or a percentage.
    pub fn must_be_number_or_percent(&self, found: &mut Found) {
        match self.value {
            Value::String(text) if !is_percent(text) => found.push(self.invalid(PERCENT)),
            _ => self.must_not_be_negative(found),
        }
    }

    /// What `5` and `5%` stand for.
    pub fn number_or_percent(&self) -> i64 {
        let percent = self.text().strip_suffix('%').and_then(|text| text.parse().ok());
        self.number().or(percent).unwrap_or_default()
    }

    pub fn must_not_pass_100_percent(&self, found: &mut Found) {
        if self.value.is_string() && is_percent(self.text()) && self.number_or_percent() > 100 {
            found.push(self.invalid("must not be greater than 100%"));
        }
    }

    pub fn must_be_port(&self, found: &mut Found) {
        if !(1..=65535).contains(&self.number().unwrap_or_default()) {
            let path = &self.path;
            let number = self.number().unwrap_or_default();
            found.push(causes::invalid(
                path,
                &number.into(),
                "must be between 1 and 65535, inclusive",
            ));
        }
    }

    /// A port's number, or its name within a container.
    pub fn must_be_port_or_name(&self, found: &mut Found) {
        match self.value {
            Value::String(_) => self.must_be_port_name(found),
            _ => self.must_be_port(found),
        }
    }

    pub fn must_be_port_name(&self, found: &mut Found) {
        for why in bad_port_name(self.text()) {
            found.push(self.invalid(why));
        }
    }
}

pub(super) const IMMUTABLE: &str = "field is immutable";
const PERCENT: &str = "a valid percent string must be a numeric string followed by an ending '%' \
    (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";

fn is_percent(text: &str) -> bool {
    let digits = text.strip_suffix('%').unwrap_or_default();
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whatever keeps a text from being the name of a port (RFC 6335).
fn bad_port_name(name: &str) -> Vec<&'static str> {
    let mut bad = Vec::new();
    if name.len() > 15 {
        bad.push("must be no more than 15 characters");
    }
    if !name.bytes().all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'-') {
        bad.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)");
    }
    if !name.bytes().any(|byte| byte.is_ascii_lowercase()) {
        bad.push("must contain at least one letter (a-z)");
    }
    if name.contains("--") {
        bad.push("must not contain consecutive hyphens");
    }
    if name.starts_with('-') || name.ends_with('-') {
        bad.push("must not begin or end with a hyphen");
    }
    bad
}

/// A name that is there twice, in whatever list.
pub(super) fn duplicates<'a>(fields: impl Iterator<Item = Field<'a>>, found: &mut Found) {
    let mut seen = Vec::new();
    for field in fields.filter(|field| !field.is_empty()) {
        if seen.contains(&field.value) {
            found.push(field.duplicate());
        }
        seen.push(field.value);
    }
}
