//! One place of an object while it is read: the type that is expected there, and the path to it.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map as Json, Value};

use super::{COMPLAINTS_MAX, Decoded, Form, Node, leaf};
use crate::schema::{Map, Object, Presence};

/// What is known while reading: where we are, and what was found so far.
#[derive(Default)]
pub(super) struct Context {
    /// `spec.containers[0].ports`, for complaints.
    path: String,
    /// `spec.containers.ports`, for errors of Go's decoder.
    fields: String,
    /// The Go structure we are in: `Container`.
    owner: &'static str,
    /// Keys come with their lines, and duplicates are told in the words of Go's YAML decoder.
    yaml: bool,
    strict: Vec<String>,
    yaml_duplicates: Vec<String>,
    /// What to tell the client, where the error that travels through serde is not that.
    error: Option<String>,
}

impl Context {
    pub fn yaml() -> Context {
        Context { yaml: true, ..Context::default() }
    }

    pub fn finish(self, read: Result<Option<Value>, String>) -> Result<Decoded, String> {
        let value = match (self.error, read) {
            (Some(error), _) | (None, Err(error)) => return Err(error),
            (None, Ok(value)) => value.unwrap_or(Value::Null),
        };
        let mut strict = self.strict;
        if !self.yaml_duplicates.is_empty() {
            let lines = self.yaml_duplicates.join("\n  ");
            strict.insert(0, format!("yaml: unmarshal errors:\n  {lines}"));
        }
        Ok(Decoded { value, strict })
    }

    fn complain(&mut self, what: &str, field: &str) {
        let path = &self.path;
        let dot = if path.is_empty() { "" } else { "." };
        let complaint = format!("{what} {:?}", format!("{path}{dot}{field}"));
        if self.strict.len() < COMPLAINTS_MAX && !self.strict.contains(&complaint) {
            self.strict.push(complaint);
        }
    }

    fn duplicate(&mut self, key: &Key) {
        match key.line {
            None => self.complain("duplicate field", &key.text),
            Some(_) if self.yaml_duplicates.len() >= COMPLAINTS_MAX => {}
            Some(line) => {
                let told = format!("line {line}: key {:?} already set in map", key.text);
                self.yaml_duplicates.push(told);
            }
        }
    }

    pub fn fail<E: Error>(&mut self, error: String) -> E {
        self.error.get_or_insert(error);
        E::custom("told apart")
    }

    /// As Go's decoder tells that a value does not fit: `found` is `string`, `number 1.5`, …
    pub fn wrong_type<E: Error>(&mut self, found: &str, wanted: &str) -> E {
        let at = match self.owner {
            "" => format!("Go value of type {wanted}"),
            owner => format!("Go struct field {owner}.{} of type {wanted}", self.fields),
        };
        self.fail(format!("json: cannot unmarshal {found} into {at}"))
    }
}

/// How strictly a place is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// As Go reads into a structure.
    BuiltIn,
    /// What does not fit is kept for validation to see.
    Custom,
}

/// A place as a seed for serde: gives nothing for null where null means absent.
pub(super) struct Place<'n, 'c> {
    node: &'n Node,
    manner: Manner,
    context: &'c mut Context,
}

impl<'n, 'c> Place<'n, 'c> {
    pub fn root(node: &'n Node, context: &'c mut Context) -> Place<'n, 'c> {
        let manner = match node.form {
            Form::Named(_) => Manner::BuiltIn,
            _ => Manner::Custom,
        };
        Place { node, manner, context }
    }

    /// A place within, of another type.
    fn within<'x>(&'x mut self, node: &'x Node) -> Place<'x, 'x> {
        // A custom resource's metadata is a built-in type.
        let manner =
            if matches!(node.form, Form::Named(_)) { Manner::BuiltIn } else { self.manner };
        Place { node, manner, context: self.context }
    }

    fn custom(&self) -> bool {
        self.manner == Manner::Custom
    }

    /// A value without parts: it fits, or is an error, or in custom resources is left as it is.
    fn leaf<E: Error>(self, value: Value) -> Result<Option<Value>, E> {
        let node = self.node.resolve();
        if self.manner == Manner::Custom {
            return Ok(Some(leaf::custom(value)));
        }
        match leaf::read(node, value) {
            Ok(value) => Ok(Some(value)),
            Err(leaf::Mismatch::Type(found)) => {
                let wanted = leaf::go_type(self.node);
                Err(self.context.wrong_type(&found, &wanted))
            }
            Err(leaf::Mismatch::Text(error)) => Err(self.context.fail(error)),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Place<'_, '_> {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Place<'_, '_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
        self.leaf(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
        self.leaf(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        self.leaf(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
        self.leaf(value.into())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Self::Value, E> {
        self.leaf(value.into())
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Self::Value, E> {
        self.leaf(value.into())
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        let keeps_null = self.custom() || matches!(self.node.resolve().form, Form::Any);
        Ok(keeps_null.then_some(Value::Null))
    }

    fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
        self.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut elements: A) -> Result<Self::Value, A::Error> {
        let node = self.node.resolve();
        let items = match &node.form {
            Form::List(list) => &*list.items,
            Form::Any => &leaf::ANY,
            _ if self.custom() => &leaf::ANY,
            _ => return Err(self.context.wrong_type("array", &leaf::go_type(self.node))),
        };
        let mut list = Vec::new();
        let path_len = self.context.path.len();
        let owner = self.context.owner;
        loop {
            self.context.path.push_str(&format!("[{}]", list.len()));
            let element = elements.next_element_seed(self.within(items))?;
            self.context.path.truncate(path_len);
            self.context.owner = owner;
            match element {
                None => return Ok(Some(Value::Array(list))),
                Some(Some(value)) => list.push(value),
                // A null in a list is the zero value of its type.
                Some(None) => list.push(leaf::zero(items).unwrap_or(Value::Null)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<Self::Value, A::Error> {
        let node = self.node.resolve();
        let read = match &node.form {
            Form::Object(object) => self.object(node, object, entries)?,
            Form::Map(map) => self.map(map, entries)?,
            Form::Any => self.map(&leaf::ANY_MAP, entries)?,
            _ if self.custom() => self.map(&leaf::ANY_MAP, entries)?,
            _ => return Err(self.context.wrong_type("object", &leaf::go_type(self.node))),
        };
        Ok(Some(Value::Object(read)))
    }
}

impl Place<'_, '_> {
    fn map<'de, A: MapAccess<'de>>(
        mut self,
        map: &Map,
        mut entries: A,
    ) -> Result<Json<String, Value>, A::Error> {
        let mut out = Json::new();
        let path_len = self.context.path.len();
        let owner = self.context.owner;
        // Go does not look into raw JSON for duplicates.
        let looks = self.custom() || !matches!(self.node.resolve().form, Form::Any);
        let yaml = self.context.yaml;
        while let Some(key) = entries.next_key_seed(KeySeed { yaml })? {
            if looks && out.contains_key(&key.text) {
                self.context.duplicate(&key);
            }
            self.enter(&key.text);
            let value = entries.next_value_seed(self.within(&map.values))?;
            self.context.path.truncate(path_len);
            self.context.owner = owner;
            let value = value.or_else(|| leaf::zero(&map.values)).unwrap_or(Value::Null);
            out.insert(key.text, value);
        }
        Ok(out)
    }

    fn object<'de, A: MapAccess<'de>>(
        mut self,
        node: &Node,
        object: &Object,
        mut entries: A,
    ) -> Result<Json<String, Value>, A::Error> {
        let mut out = Json::new();
        let mut seen = vec![false; object.fields.len()];
        let (path_len, fields_len) = (self.context.path.len(), self.context.fields.len());
        let yaml = self.context.yaml;
        while let Some(key) = entries.next_key_seed(KeySeed { yaml })? {
            let name = key.text.as_str();
            let known = object.fields.binary_search_by(|field| field.name.as_ref().cmp(name)).ok();
            let child = match known {
                Some(at) => {
                    if std::mem::replace(&mut seen[at], true) {
                        self.context.duplicate(&key);
                    }
                    &object.fields[at].node
                }
                None => match extra(node, name) {
                    Some(child) => {
                        if out.contains_key(name) {
                            self.context.duplicate(&key);
                        }
                        child
                    }
                    None => {
                        self.context.complain("unknown field", name);
                        entries.next_value::<IgnoredAny>()?;
                        continue;
                    }
                },
            };
            self.enter(name);
            if fields_len > 0 {
                self.context.fields.push('.');
            }
            self.context.fields.push_str(name);
            self.context.owner = leaf::structure(self.node);
            let value = entries.next_value_seed(self.within(child))?;
            self.context.path.truncate(path_len);
            self.context.fields.truncate(fields_len);
            match value {
                Some(value) => out.insert(key.text, value),
                None => out.remove(name),
            };
        }
        if self.manner == Manner::BuiltIn {
            settle(object, &mut out);
        }
        Ok(out)
    }

    fn enter(&mut self, key: &str) {
        if !self.context.path.is_empty() {
            self.context.path.push('.');
        }
        self.context.path.push_str(key);
    }
}

/// What a field may be that the type does not describe.
fn extra<'n>(node: &'n Node, name: &str) -> Option<&'n Node> {
    match name {
        "apiVersion" | "kind" if node.embedded => Some(&leaf::TEXT),
        "metadata" if node.embedded => Some(&leaf::METADATA),
        _ => node.preserve_unknown.then_some(&leaf::ANY),
    }
}

/// Zero values come and go as Go's structures are written.
fn settle(object: &Object, out: &mut Json<String, Value>) {
    let goes = |name: &str, value: &Value| {
        let presence = || object.field(name).map(|field| field.presence);
        leaf::is_zero(value) && presence() == Some(Presence::UnlessZero)
    };
    if out.iter().any(|(name, value)| goes(name, value)) {
        out.retain(|name, value| !goes(name, value));
    }
    for field in object.fields.iter().filter(|field| field.presence == Presence::Always) {
        if !out.contains_key(&*field.name)
            && let Some(zero) = leaf::zero(&field.node)
        {
            out.insert(field.name.to_string(), zero);
        }
    }
}

/// A key, and in YAML the line it is on.
struct Key {
    text: String,
    line: Option<u64>,
}

struct KeySeed {
    yaml: bool,
}

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Key;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Key, D::Error> {
        if self.yaml {
            let key: serde_saphyr::Spanned<KeyText> =
                serde::Deserialize::deserialize(deserializer)?;
            return Ok(Key { text: key.value.0, line: Some(key.referenced.line()) });
        }
        let KeyText(text) = serde::Deserialize::deserialize(deserializer)?;
        Ok(Key { text, line: None })
    }
}

/// YAML's keys may be numbers and booleans: they are read as their text.
struct KeyText(String);

impl<'de> serde::Deserialize<'de> for KeyText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<KeyText, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = KeyText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<KeyText, E> {
                Ok(KeyText(text.into()))
            }

            fn visit_string<E: Error>(self, text: String) -> Result<KeyText, E> {
                Ok(KeyText(text))
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<KeyText, E> {
                Ok(KeyText(value.to_string()))
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<KeyText, E> {
                Ok(KeyText(value.to_string()))
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<KeyText, E> {
                Ok(KeyText(value.to_string()))
            }

            fn visit_f64<E: Error>(self, value: f64) -> Result<KeyText, E> {
                Ok(KeyText(value.to_string()))
            }
        }
        deserializer.deserialize_any(Text)
    }
}
