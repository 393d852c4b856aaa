//! What a type looks like: one description that decoding, defaulting, pruning, validation, the patches,
//! server-side apply, OpenAPI and the protobuf codec all read.
//!
//! Built-in types are made from `k8s-openapi`'s schemas on first use, and completed by our own tables of what
//! those lack (list types, patch strategies, protobuf numbers). A CustomResourceDefinition's schema becomes the
//! same nodes at run time. Nothing here knows verbs, storage or HTTP.

mod builtin;
pub mod causes;
pub mod custom;
pub mod decode;
pub mod defaults;
pub mod validate;

use std::fmt;
use std::sync::{Arc, OnceLock};

pub(crate) use builtin::{intern, schemas};

/// A type, or a place in one.
#[derive(Clone, Debug, Default)]
pub struct Node {
    pub form: Form,
    /// `null` is a value of its own here (custom resources only; elsewhere null means absent).
    pub nullable: bool,
    /// Fields that are not described are kept (`x-kubernetes-preserve-unknown-fields`).
    pub preserve_unknown: bool,
    /// A whole object with `apiVersion`, `kind` and `metadata` (`x-kubernetes-embedded-resource`).
    pub embedded: bool,
    /// What an absent value becomes. Only what the schema itself says; defaults that depend on other fields
    /// are hooks of the kind.
    pub default: Option<serde_json::Value>,
    /// Values that are allowed, and bounds: custom resources only.
    pub rules: Option<Box<Rules>>,
}

#[derive(Clone, Debug, Default)]
pub enum Form {
    /// Another built-in type. [`Node::resolve`] follows it.
    Named(&'static TypeName),
    Object(Object),
    /// String keys, all values of one type.
    Map(Map),
    List(List),
    String(Text),
    /// 64 bits unless `bits32`.
    Integer {
        bits32: bool,
    },
    Number,
    Boolean,
    /// `intstr.IntOrString`.
    IntOrString,
    /// `resource.Quantity`: a string, or a number that is read as one.
    Quantity,
    /// Whatever JSON is there (`RawExtension`, `JSON`, `FieldsV1`).
    #[default]
    Any,
}

/// A built-in type by its upstream name (`io.k8s.api.core.v1.PodSpec`): looked up the first time, because
/// every value of it that is read asks for it again.
pub struct TypeName {
    name: &'static str,
    node: OnceLock<&'static Node>,
}

#[derive(Clone, Debug, Default)]
pub struct Object {
    /// Sorted by name.
    pub fields: Vec<Field>,
    /// The whole is one value for server-side apply (`x-kubernetes-map-type: atomic`).
    pub atomic: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Field {
    pub name: Arc<str>,
    pub node: Node,
    pub required: bool,
    /// How strategic merge treats the field (`patchStrategy`, `patchMergeKey`).
    pub patch: Patch,
    pub presence: Presence,
}

/// What becomes of a field that is absent, or at the zero value of its type (`""`, 0, false, empty): what
/// upstream writes after it read the object into a Go structure. Custom resources keep everything as sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Presence {
    /// A pointer in Go: absent and zero are different, and kept apart.
    #[default]
    AsSent,
    /// `omitempty`: zero is not written.
    UnlessZero,
    /// Absent is written as zero: `""`, 0, false, and structures as `{}` with what they in turn always have.
    /// A list or map that is absent stays absent (Go writes null), but an empty one is kept.
    Always,
}

/// What strategic merge patch does with a field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patch {
    /// Lists only: elements are merged; of objects by `merge_key`, of scalars as a set.
    pub merge: bool,
    pub merge_key: Option<Arc<str>>,
    /// Fields that the patch does not name are cleared (`retainKeys`).
    pub retain_keys: bool,
    pub replace: bool,
}

#[derive(Clone, Debug)]
pub struct Map {
    pub values: Arc<Node>,
    pub atomic: bool,
}

#[derive(Clone, Debug)]
pub struct List {
    pub items: Arc<Node>,
    pub topology: Topology,
}

/// How server-side apply sees a list (`x-kubernetes-list-type`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Topology {
    #[default]
    Atomic,
    Set,
    /// Elements are told apart by these fields.
    Map(Vec<Arc<str>>),
}

/// What a string holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Text {
    #[default]
    Plain,
    /// Base64.
    Bytes,
    /// `metav1.Time`.
    Time,
    /// `metav1.MicroTime`.
    MicroTime,
}

/// Value rules of a structural schema (OpenAPI v3 validation). Regular expressions are compiled once.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    pub allowed: Option<Vec<serde_json::Value>>,
    pub pattern: Option<(String, Arc<regex::Regex>)>,
    pub format: Option<String>,
    pub minimum: Option<f64>,
    pub exclusive_minimum: bool,
    pub maximum: Option<f64>,
    pub exclusive_maximum: bool,
    pub multiple_of: Option<f64>,
    pub length_min: Option<u64>,
    pub length_max: Option<u64>,
    pub items_min: Option<u64>,
    pub items_max: Option<u64>,
    pub properties_min: Option<u64>,
    pub properties_max: Option<u64>,
    pub all_of: Vec<Node>,
    pub any_of: Vec<Node>,
    pub one_of: Vec<Node>,
    pub not: Option<Box<Node>>,
}

impl Object {
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Field> {
        let at = self.fields.binary_search_by(|field| field.name.as_ref().cmp(name)).ok()?;
        Some(&self.fields[at])
    }
}

impl TypeName {
    pub(crate) const fn new(name: &'static str) -> TypeName {
        TypeName { name, node: OnceLock::new() }
    }

    #[must_use]
    pub fn as_str(&self) -> &'static str {
        self.name
    }

    fn resolve(&self) -> &'static Node {
        self.node.get_or_init(|| match builtin::find(self.name) {
            Some(node) => node,
            None => panic!("there is no built-in type {}", self.name),
        })
    }
}

impl fmt::Debug for TypeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Node {
    /// A built-in type by its upstream name.
    #[must_use]
    pub fn named(name: &'static str) -> Node {
        Node { form: Form::Named(builtin::type_name(name)), ..Node::default() }
    }

    /// The node itself, or the type that it names. Never a [`Form::Named`].
    ///
    /// # Panics
    /// If it names a type that there is not: names come from the program, never from a client.
    #[must_use]
    pub fn resolve(&self) -> &Node {
        match self.form {
            Form::Named(name) => name.resolve(),
            _ => self,
        }
    }

    /// The built-in type with this upstream name, resolved.
    #[must_use]
    pub fn find(name: &str) -> Option<&'static Node> {
        builtin::find(name)
    }

    /// The field of this object, or nothing where it is something else.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Field> {
        match &self.resolve().form {
            Form::Object(object) => object.field(name),
            _ => None,
        }
    }
}
