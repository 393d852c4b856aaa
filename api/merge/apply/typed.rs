//! Values seen through their type: what is one value, what is a field or an element, which fields a value sets.
//!
//! A list is one value unless its type says otherwise; elements of others are told apart by their keys (an
//! absent key counts as its default) or by their value. What has no type is taken as it looks: objects by
//! their fields, lists as one value.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::{Map, Value};

use super::set::{Element, Set};
use crate::schema::{Form, Node, Presence, Topology};

/// The metadata of every object, whatever its own schema says of it.
const METADATA: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// A type, or nothing where none is known.
#[derive(Clone, Copy)]
pub struct Type<'a> {
    node: Option<&'a Node>,
    is_root: bool,
}

/// What a value is for the walks below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One value: a scalar, or an atomic list or object.
    Leaf,
    /// A list whose elements are told apart.
    List,
    /// An object or a map, field by field.
    Fields,
}

impl<'a> Type<'a> {
    #[must_use]
    pub fn of_object(node: &'a Node) -> Type<'a> {
        Type { node: Some(node.resolve()), is_root: true }
    }

    fn untyped() -> Type<'a> {
        Type { node: None, is_root: false }
    }

    fn at(node: &'a Node) -> Type<'a> {
        Type { node: Some(node.resolve()), is_root: false }
    }

    fn form(self) -> Option<&'a Form> {
        self.node.map(|node| &node.form).filter(|form| !matches!(form, Form::Any))
    }

    pub fn field(self, name: &str) -> Type<'a> {
        if self.is_root
            && name == "metadata"
            && let Some(metadata) = Node::find(METADATA)
        {
            return Type::at(metadata);
        }
        match self.form() {
            Some(Form::Object(object)) => {
                object.field(name).map_or(Type::untyped(), |field| Type::at(&field.node))
            }
            Some(Form::Map(map)) => Type::at(&map.values),
            _ => Type::untyped(),
        }
    }

    /// A field of a structure, rather than a key of a map.
    pub fn declares(self, name: &str) -> bool {
        match self.form() {
            Some(Form::Object(object)) => object.field(name).is_some(),
            _ => false,
        }
    }

    /// A field that is there, if empty, wherever the structure is: no pointer in Go, but a structure.
    pub fn always_has(self, name: &str) -> bool {
        match self.form() {
            Some(Form::Object(object)) => object.field(name).is_some_and(|field| {
                field.presence == Presence::Always
                    && matches!(field.node.resolve().form, Form::Object(_))
            }),
            _ => false,
        }
    }

    pub fn items(self) -> Type<'a> {
        match self.form() {
            Some(Form::List(list)) => Type::at(&list.items),
            _ => Type::untyped(),
        }
    }

    fn topology(self) -> &'a Topology {
        match self.form() {
            Some(Form::List(list)) => &list.topology,
            _ => &Topology::Atomic,
        }
    }

    pub fn is_atomic(self) -> bool {
        match self.form() {
            Some(Form::Object(object)) => object.atomic,
            Some(Form::Map(map)) => map.atomic,
            Some(Form::List(list)) => list.topology == Topology::Atomic,
            _ => false,
        }
    }

    /// What a value of this type is. A null is what its type is; without a type, an object.
    pub fn kind(self, value: &Value) -> Kind {
        match (self.form(), value) {
            _ if self.is_atomic() => Kind::Leaf,
            (Some(Form::Object(_) | Form::Map(_)) | None, Value::Object(_) | Value::Null) => {
                Kind::Fields
            }
            (Some(Form::List(_)), Value::Array(_) | Value::Null) => Kind::List,
            _ => Kind::Leaf,
        }
    }

    /// What tells an element of this list from the others, or why nothing does.
    pub fn element(self, item: &Value) -> Result<Element, String> {
        match self.topology() {
            Topology::Atomic => Err("invalid indexing of non-associative list".into()),
            Topology::Set => match item {
                Value::Object(_) => {
                    Err("associative list without keys has an element that's a map type".into())
                }
                Value::Array(_) => {
                    Err("not supported: associative list with lists as elements".into())
                }
                Value::Null => {
                    Err("associative list without keys has an element that's an explicit null"
                        .into())
                }
                scalar => Ok(Element::value(scalar)),
            },
            Topology::Map(names) => {
                let Value::Object(fields) = item else {
                    let what = if item.is_null() { "a null element" } else { "non-map elements" };
                    return Err(format!("associative list with keys may not have {what}"));
                };
                let items = self.items();
                let mut keys = BTreeMap::new();
                for name in names {
                    let default = || items.node?.field(name)?.node.default.as_ref();
                    if let Some(value) = fields.get(name.as_ref()).or_else(default) {
                        keys.insert(name.as_ref(), value);
                    }
                }
                if keys.is_empty() {
                    let names = names.iter().map(|it| format!("{it:?}")).collect::<Vec<_>>();
                    return Err(format!(
                        "associative list with keys has an element that omits all key fields \
                         [{}] (and doesn't have default values for any key fields)",
                        names.join(" ")
                    ));
                }
                Ok(Element::key(&keys))
            }
        }
    }

    /// The elements of a list by what tells them apart, in order; those that nothing does are left out.
    pub fn elements(self, value: &Value) -> Vec<(Element, &Value)> {
        let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
        items.iter().filter_map(|item| Some((self.element(item).ok()?, item))).collect()
    }
}

/// The fields that a value sets.
#[must_use]
pub fn field_set(of: Type<'_>, value: &Value) -> Set {
    let mut set = Set::default();
    set_fields(of, value, &mut Vec::new(), &mut set);
    set
}

fn set_fields(of: Type<'_>, value: &Value, path: &mut Vec<Element>, set: &mut Set) {
    match of.kind(value) {
        Kind::Leaf => set.insert(path),
        Kind::List => {
            let elements = of.elements(value);
            let mut count: HashMap<&Element, usize> = HashMap::new();
            elements.iter().for_each(|(element, _)| *count.entry(element).or_default() += 1);
            for (element, item) in &elements {
                path.push(element.clone());
                // Of elements that cannot be told apart only the path is known.
                if count.get(element) == Some(&1) {
                    set_fields(of.items(), item, path, set);
                }
                set.insert(path);
                path.pop();
            }
        }
        Kind::Fields => {
            for (name, value) in value.as_object().into_iter().flatten() {
                path.push(Element::field(name));
                set_fields(of.field(name), value, path, set);
                let is_empty = value.as_object().is_some_and(Map::is_empty);
                if value.is_null() || is_empty || !of.declares(name) {
                    set.insert(path);
                }
                path.pop();
            }
        }
    }
}

/// What is wrong with a configuration, as upstream words it; several things as a list.
pub fn check(of: Type<'_>, value: &Value) -> Result<(), String> {
    let mut wrong = Vec::new();
    check_at(of, value, &mut Vec::new(), &mut wrong);
    match wrong.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        several => Err(format!("errors:\n  {}", several.join("\n  "))),
    }
}

fn check_at(of: Type<'_>, value: &Value, path: &mut Vec<Element>, wrong: &mut Vec<String>) {
    let say = |wrong: &mut Vec<String>, path: &[Element], what: &str| {
        let path: String = path.iter().map(Element::to_string).collect();
        wrong.push(if path.is_empty() { what.into() } else { format!("{path}: {what}") });
    };
    match (of.form(), value) {
        (_, Value::Null) => {}
        (Some(Form::Object(_)), Value::Object(map)) => {
            for (name, value) in map {
                path.push(Element::field(name));
                let is_object = of.is_root || of.node.is_some_and(|node| node.embedded);
                let is_known = of.declares(name)
                    || of.node.is_some_and(|node| node.preserve_unknown)
                    || (is_object && matches!(name.as_str(), "apiVersion" | "kind" | "metadata"));
                if is_known {
                    check_at(of.field(name), value, path, wrong);
                } else {
                    say(wrong, path, "field not declared in schema");
                }
                path.pop();
            }
        }
        (Some(Form::Map(_)), Value::Object(map)) => {
            for (name, value) in map {
                path.push(Element::field(name));
                check_at(of.field(name), value, path, wrong);
                path.pop();
            }
        }
        (Some(Form::Object(_) | Form::Map(_)), other) => {
            say(wrong, path, &format!("expected map, got {other}"));
        }
        (Some(Form::List(_)), Value::Array(items)) => {
            let mut seen = HashSet::new();
            for (at, item) in items.iter().enumerate() {
                let element = if *of.topology() == Topology::Atomic {
                    Element::Index(i64::try_from(at).unwrap_or(i64::MAX))
                } else {
                    match of.element(item) {
                        Ok(element) => element,
                        Err(why) => return say(wrong, path, &format!("element {at}: {why}")),
                    }
                };
                if !seen.insert(element.clone()) {
                    say(wrong, path, &format!("duplicate entries for key {element}"));
                }
                path.push(element);
                check_at(of.items(), item, path, wrong);
                path.pop();
            }
        }
        (Some(Form::List(_)), other) => say(wrong, path, &format!("expected list, got {other}")),
        (Some(Form::String(_)), other) if !other.is_string() => {
            say(wrong, path, &format!("expected string, got {other}"));
        }
        (Some(Form::Integer { .. } | Form::Number), other) if !other.is_number() => {
            say(wrong, path, &format!("expected numeric (int or float), got {other}"));
        }
        (Some(Form::Boolean), other) if !other.is_boolean() => {
            say(wrong, path, &format!("expected boolean, got {other}"));
        }
        (Some(Form::IntOrString | Form::Quantity), other)
            if other.is_array() || other.is_object() =>
        {
            say(wrong, path, &format!("expected any scalar, got {other}"));
        }
        _ => {}
    }
}

/// A set in which each structure that has members below is a member itself.
#[must_use]
pub fn with_structures(of: Type<'_>, set: &Set) -> Set {
    Set::from_branches(set.branches().map(|(element, member, below)| {
        let (declared, inner) = match element {
            Element::Field(name) => (of.declares(name), of.field(name)),
            _ => (false, of.items()),
        };
        let member = member || (declared && !below.is_empty());
        (element.clone(), member, with_structures(inner, below))
    }))
}

/// Of a set that was written when lists and objects were taken apart that are one value now, what it comes to.
pub fn reconcile(of: Type<'_>, set: &mut Set) {
    for (element, member, below) in set.branches_mut() {
        let inner = match element {
            Element::Field(name) => of.field(name),
            _ => of.items(),
        };
        if below.is_empty() {
            continue;
        }
        if inner.is_atomic() {
            *member = true;
            *below = Set::default();
        } else {
            reconcile(inner, below);
        }
    }
}
