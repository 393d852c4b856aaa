//! The built-in types: nodes by upstream's name, made on first use and kept for good.
//!
//! Keeps: each type is made once, and its description (most of a schema) is dropped right away. A type that
//! nobody asks for costs nothing.

mod convert;
mod facts;
mod roots;

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use schemars::SchemaGenerator;
use serde_json::Value;

pub(crate) use convert::{intern, type_name};

use super::{Field, Form, List, Node, Object, Presence, Topology};

type Nodes = HashMap<&'static str, &'static Node>;

/// What was made so far. Replaced whole when more is made, so that reading never waits.
static NODES: LazyLock<ArcSwap<Nodes>> = LazyLock::new(ArcSwap::default);

/// Makes schemas. Holds the names of the types it made, so that none is made twice, but not their schemas.
static GENERATOR: LazyLock<Mutex<SchemaGenerator>> = LazyLock::new(Mutex::default);

/// The node of a built-in type, never itself a [`Form::Named`].
pub(super) fn find(name: &str) -> Option<&'static Node> {
    if let Some(node) = NODES.load().get(name) {
        return Some(node);
    }
    let (package, short) = name.rsplit_once('.')?;
    let package = roots::PACKAGES.iter().find(|it| it.name == package)?;
    let mut generator = GENERATOR.lock();
    // What cannot be had by its own name is within one of its package's other types.
    let by_name = package.types.iter().filter(|(root, _)| *root == short);
    let others = package.types.iter().filter(|(root, _)| *root != short);
    for (_, describe) in by_name.chain(others) {
        describe(&mut generator);
        keep_new(&mut generator);
        if let Some(node) = NODES.load().get(name) {
            return Some(node);
        }
    }
    let item = name.strip_suffix("List")?;
    drop(generator);
    find(item)?;
    Some(keep(vec![(name.to_owned(), list_of(item))])[0])
}

/// Calls `each` with the whole schema, descriptions included, of every type that can be reached from those
/// packages: for OpenAPI, which makes them anew each time it is built.
pub(crate) fn schemas(wanted: impl Fn(&str) -> bool, mut each: impl FnMut(&str, Value)) {
    let mut generator = SchemaGenerator::default();
    for package in roots::PACKAGES.iter().filter(|package| wanted(package.name)) {
        for (_, describe) in package.types {
            describe(&mut generator);
        }
    }
    for (name, schema) in generator.definitions_mut().iter_mut() {
        each(name, std::mem::take(schema));
    }
}

/// Whether a schema was taken out: `true` stands in its place.
fn taken(schema: &Value) -> bool {
    *schema == Value::Bool(true)
}

/// Turns what the generator made since the last time into nodes.
fn keep_new(generator: &mut SchemaGenerator) {
    let mut made = Vec::new();
    for (name, schema) in generator.definitions_mut().iter_mut().filter(|(_, it)| !taken(it)) {
        made.push((name.clone(), convert::node(name, schema)));
        *schema = Value::Bool(true);
    }
    keep(made);
}

fn keep(made: Vec<(String, Node)>) -> Vec<&'static Node> {
    let mut nodes = Nodes::clone(&NODES.load());
    let made: Vec<(&'static str, &'static Node)> = made
        .into_iter()
        .map(|(name, node)| (convert::intern(&name), &*Box::leak(Box::new(node))))
        .collect();
    nodes.extend(made.iter().copied());
    NODES.store(Arc::new(nodes));
    made.into_iter().map(|(_, node)| node).collect()
}

/// `PodList` and the like, which have no schema of their own.
fn list_of(item: &str) -> Node {
    let text = || Node { form: Form::String(super::Text::Plain), ..Node::default() };
    let items =
        List { items: Arc::new(Node::named(convert::intern(item))), topology: Topology::Atomic };
    let meta = Node::named("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta");
    let field = |name: &str, node, presence, required| Field {
        name: Arc::from(name),
        node,
        required,
        presence,
        ..Field::default()
    };
    let list = Node { form: Form::List(items), ..Node::default() };
    let fields = vec![
        field("apiVersion", text(), Presence::UnlessZero, false),
        field("items", list, Presence::Always, true),
        field("kind", text(), Presence::UnlessZero, false),
        field("metadata", meta, Presence::Always, false),
    ];
    Node { form: Form::Object(Object { fields, atomic: false }), ..Node::default() }
}

#[cfg(test)]
mod tests;
