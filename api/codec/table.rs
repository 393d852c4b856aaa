//! What each protobuf message looks like, read from `fields.txt`: facts, not code.
//!
//! A line of the table is one message, a word of it one field:
//!
//! ```text
//! package apps.v1 apps/v1              the messages that follow, and the apiVersion of their kinds
//! DeploymentSpec replicas=1i? template=3@core.v1.PodTemplateSpec conditions=6*@DeploymentCondition
//! ExtraValue [] items=1*s              in JSON the bare list
//!
//! name=NUMBER[repetition]TYPE[flags]   repetition: * list, % map with string keys
//! TYPE   s string, b bool, i int32, l int64, d double, y bytes, @M message (of this package, or full)
//! flags  ? pointer in Go (absent differs from zero), ! in JSON even when zero, ~ its fields stand in JSON
//!        where it would stand
//! ```
//!
//! A line is parsed when its message is first met. `fields.py` writes the table; a line that cannot be read
//! is our own mistake, and a test reads them all.

use std::collections::HashMap;
use std::sync::{LazyLock, OnceLock};

const TEXT: &str = include_str!("fields.txt");

/// Kinds of `meta/v1` that every group version knows.
const EVERYWHERE: &[&str] = &[
    "APIGroup",
    "APIGroupList",
    "APIResourceList",
    "APIVersions",
    "CreateOptions",
    "DeleteOptions",
    "GetOptions",
    "ListOptions",
    "PatchOptions",
    "Status",
    "UpdateOptions",
    "WatchEvent",
];

#[derive(Debug)]
pub struct Message {
    pub shape: Shape,
    /// Sorted by number.
    pub fields: Vec<Field>,
}

/// How a message stands in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// An object of its fields.
    Object,
    /// The list that is its only field.
    List,
    Time,
    MicroTime,
    Quantity,
    IntOrString,
    /// JSON as it is, in bytes.
    Json,
    /// An object in bytes: JSON, or protobuf in its envelope.
    RawExtension,
    /// `JSONSchemaPropsOrBool`, `JSONSchemaPropsOrArray`, `JSONSchemaPropsOrStringArray`.
    SchemaOrBool,
    SchemaOrList,
    SchemaOrStrings,
}

#[derive(Debug)]
pub struct Field {
    pub name: &'static str,
    pub number: u32,
    pub repetition: Repetition,
    pub value: Type,
    /// A pointer in Go: absent differs from zero.
    pub pointer: bool,
    /// Written in JSON even when it is zero.
    pub always: bool,
    pub inline: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repetition {
    Once,
    List,
    Map,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    Text,
    Boolean,
    Int32,
    Int64,
    Double,
    Bytes,
    Message(Id),
}

/// A message of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Id(usize);

struct Line {
    package: &'static str,
    text: &'static str,
    parsed: OnceLock<Message>,
}

#[derive(Default)]
struct Table {
    lines: Vec<Line>,
    /// By package and name.
    names: HashMap<(&'static str, &'static str), Id>,
    /// The packages of an apiVersion.
    packages: HashMap<&'static str, Vec<&'static str>>,
}

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let mut table = Table::default();
    let mut package = "";
    for text in TEXT.lines() {
        if let Some(header) = text.strip_prefix("package ") {
            let (name, api_version) = header.split_once(' ').unwrap_or((header, ""));
            package = name;
            table.packages.entry(api_version).or_default().push(name);
            continue;
        }
        let name = text.split(' ').next().unwrap_or_default();
        table.names.insert((package, name), Id(table.lines.len()));
        table.lines.push(Line { package, text, parsed: OnceLock::new() });
    }
    table
});

/// The message of a kind, if it has one.
#[must_use]
pub fn of_kind(api_version: &str, kind: &str) -> Option<&'static Message> {
    let own = TABLE.packages.get(api_version)?;
    let meta = EVERYWHERE.contains(&kind).then_some(&"meta.v1");
    own.iter().chain(meta).find_map(|package| of_name(package, kind))
}

#[must_use]
pub fn of_name(package: &str, name: &str) -> Option<&'static Message> {
    // The lookup is by the caller's borrow; what it finds lives as long as the table.
    let (_, id) = TABLE.names.get_key_value(&(package, name))?;
    Some(id.message())
}

impl Id {
    #[must_use]
    pub fn message(self) -> &'static Message {
        let line = &TABLE.lines[self.0];
        line.parsed.get_or_init(|| {
            parse(line.package, line.text).unwrap_or_else(|why| {
                panic!("fields.txt, {} in `{}`: {why}", line.package, line.text)
            })
        })
    }
}

impl Message {
    #[must_use]
    pub fn field(&self, number: u32) -> Option<&Field> {
        let at = self.fields.binary_search_by_key(&number, |field| field.number).ok()?;
        Some(&self.fields[at])
    }
}

fn parse(package: &'static str, line: &'static str) -> Result<Message, String> {
    let mut words = line.split(' ').peekable();
    let name = words.next().ok_or("no name")?;
    let bare = words.next_if_eq(&"[]").is_some();
    let mut fields = Vec::new();
    for word in words {
        fields.push(parse_field(package, word).ok_or_else(|| format!("cannot read {word}"))?);
    }
    if !fields.is_sorted_by(|a, b| a.number < b.number) {
        return Err("numbers out of order".into());
    }
    let shape = match (package, name) {
        _ if bare => Shape::List,
        ("meta.v1", "Time") => Shape::Time,
        ("meta.v1", "MicroTime") => Shape::MicroTime,
        ("meta.v1", "FieldsV1") | ("apiextensions.v1", "JSON") => Shape::Json,
        ("resource", "Quantity") => Shape::Quantity,
        ("intstr", "IntOrString") => Shape::IntOrString,
        ("runtime", "RawExtension") => Shape::RawExtension,
        ("apiextensions.v1", "JSONSchemaPropsOrBool") => Shape::SchemaOrBool,
        ("apiextensions.v1", "JSONSchemaPropsOrArray") => Shape::SchemaOrList,
        ("apiextensions.v1", "JSONSchemaPropsOrStringArray") => Shape::SchemaOrStrings,
        _ => Shape::Object,
    };
    Ok(Message { shape, fields })
}

fn parse_field(package: &'static str, word: &'static str) -> Option<Field> {
    let (name, rest) = word.split_once('=')?;
    let digits = rest.find(|c: char| !c.is_ascii_digit())?;
    let (number, mut rest) = (rest[..digits].parse().ok()?, &rest[digits..]);
    let mut repetition = Repetition::Once;
    for (mark, meaning) in [('*', Repetition::List), ('%', Repetition::Map)] {
        if let Some(after) = rest.strip_prefix(mark) {
            (repetition, rest) = (meaning, after);
        }
    }
    let flags = rest.find(['?', '!', '~']).unwrap_or(rest.len());
    let (value, flags) = rest.split_at(flags);
    let value = match value {
        "s" => Type::Text,
        "b" => Type::Boolean,
        "i" => Type::Int32,
        "l" => Type::Int64,
        "d" => Type::Double,
        "y" => Type::Bytes,
        message => {
            let message = message.strip_prefix('@')?;
            let (package, name) = message.rsplit_once('.').unwrap_or((package, message));
            Type::Message(*TABLE.names.get(&(package, name))?)
        }
    };
    let has = |flag| flags.contains(flag);
    let (pointer, always, inline) = (has('?'), has('!'), has('~'));
    Some(Field { name, number, repetition, value, pointer, always, inline })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_table_can_be_read() {
        for at in 0..TABLE.lines.len() {
            let message = Id(at).message();
            assert!(message.shape == Shape::Object || !message.fields.is_empty(), "{message:?}");
        }
        assert!(TABLE.lines.len() > 900, "only {} messages", TABLE.lines.len());
    }

    #[test]
    fn kinds_are_found_by_api_version_and_those_of_meta_under_every_one() {
        assert!(of_kind("apps/v1", "Deployment").is_some());
        assert!(of_kind("v1", "Deployment").is_none());
        assert!(of_kind("apps/v1", "DeleteOptions").is_some());
        assert!(of_kind("v1", "Status").is_some());
        assert!(of_kind("example.com/v1", "DeleteOptions").is_none());
        assert!(of_kind("meta.k8s.io/v1", "PartialObjectMetadataList").is_some());
    }
}
