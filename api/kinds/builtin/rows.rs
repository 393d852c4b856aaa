//! How the tables of the built-in groups are written: a row says only what is unusual about its kind.

use std::sync::Arc;

use super::behaviour;
use crate::kinds::{Kind, NameRule, Propagation, Stored, Subresource, Verbs};
use crate::object::GroupVersionKind;
use crate::schema::Node;

/// The kinds of one group in one version.
pub(super) struct Table {
    pub group: &'static str,
    pub version: &'static str,
    /// Upstream's name of the types' package.
    pub package: &'static str,
    /// Where the group stands in discovery: the highest first.
    pub priority: u32,
    pub rows: &'static [Row],
}

#[derive(Clone, Copy)]
pub(super) struct Row {
    kind: &'static str,
    resource: &'static str,
    namespaced: bool,
    short_names: &'static [&'static str],
    category: Option<&'static str>,
    verbs: Verbs,
    subresources: &'static [Sub],
    stored: Option<(&'static str, &'static str)>,
    selectable: &'static [&'static str],
    generation: bool,
    name_rule: NameRule,
    create_on_update: bool,
    unconditional_update: bool,
    propagation: Propagation,
    returns_deleted: bool,
}

/// A subresource; its kind as (group, version, kind) where that is not the parent's.
#[derive(Clone, Copy)]
pub(super) struct Sub {
    pub name: &'static str,
    pub verbs: Verbs,
    pub kind: Option<(&'static str, &'static str, &'static str)>,
}

pub(super) const STATUS: Sub = Sub::of("status");
pub(super) const SCALE: Sub = Sub::of("scale").kind("autoscaling", "v1", "Scale");

impl Sub {
    pub const fn of(name: &'static str) -> Sub {
        Sub { name, verbs: Verbs::GET_PATCH_UPDATE, kind: None }
    }

    pub const fn verbs(self, verbs: Verbs) -> Sub {
        Sub { verbs, ..self }
    }

    pub const fn kind(self, group: &'static str, version: &'static str, kind: &'static str) -> Sub {
        Sub { kind: Some((group, version, kind)), ..self }
    }
}

impl Row {
    const fn new(kind: &'static str, resource: &'static str, namespaced: bool) -> Row {
        Row {
            kind,
            resource,
            namespaced,
            short_names: &[],
            category: None,
            verbs: Verbs::ALL,
            subresources: &[],
            stored: None,
            selectable: &[],
            generation: false,
            name_rule: NameRule::Subdomain,
            create_on_update: false,
            unconditional_update: true,
            propagation: Propagation::Background,
            returns_deleted: false,
        }
    }

    pub const fn namespaced(kind: &'static str, resource: &'static str) -> Row {
        Row::new(kind, resource, true)
    }

    pub const fn cluster(kind: &'static str, resource: &'static str) -> Row {
        Row::new(kind, resource, false)
    }

    pub const fn short(self, short_names: &'static [&'static str]) -> Row {
        Row { short_names, ..self }
    }

    /// Listed by `kubectl get all`.
    pub const fn in_all(self) -> Row {
        Row { category: Some("all"), ..self }
    }

    pub const fn in_api_extensions(self) -> Row {
        Row { category: Some("api-extensions"), ..self }
    }

    pub const fn verbs(self, verbs: Verbs) -> Row {
        Row { verbs, ..self }
    }

    /// With `status` among them, the main resource may not write `status`.
    pub const fn subresources(self, subresources: &'static [Sub]) -> Row {
        Row { subresources, ..self }
    }

    /// The object rests in another group or version, under the same resource and kind.
    pub const fn stored_as(self, group: &'static str, version: &'static str) -> Row {
        Row { stored: Some((group, version)), ..self }
    }

    pub const fn selectable(self, selectable: &'static [&'static str]) -> Row {
        Row { selectable, ..self }
    }

    /// `metadata.generation` is kept.
    pub const fn generation(self) -> Row {
        Row { generation: true, ..self }
    }

    pub const fn names(self, name_rule: NameRule) -> Row {
        Row { name_rule, ..self }
    }

    /// A PUT of an object that is not there creates it.
    pub const fn create_on_update(self) -> Row {
        Row { create_on_update: true, ..self }
    }

    /// An update must say which resourceVersion it saw.
    pub const fn conditional_update(self) -> Row {
        Row { unconditional_update: false, ..self }
    }

    /// A delete that does not say otherwise leaves dependents alone.
    pub const fn orphans(self) -> Row {
        Row { propagation: Propagation::Orphan, ..self }
    }

    pub const fn returns_deleted(self) -> Row {
        Row { returns_deleted: true, ..self }
    }
}

impl Table {
    pub fn kinds(&self) -> impl Iterator<Item = Kind> {
        self.rows.iter().map(|row| self.kind(row))
    }

    fn kind(&self, row: &Row) -> Kind {
        let texts = |list: &[&str]| list.iter().map(|text| Arc::from(*text)).collect();
        let (stored_group, stored_version) = row.stored.unwrap_or((self.group, self.version));
        let type_name: &'static str = type_name(self.package, row.kind);
        Kind {
            group: self.group.into(),
            version: self.version.into(),
            resource: row.resource.into(),
            singular: row.kind.to_ascii_lowercase().into(),
            kind: row.kind.into(),
            list_kind: format!("{}List", row.kind).into(),
            namespaced: row.namespaced,
            short_names: texts(row.short_names),
            categories: row.category.into_iter().map(Arc::from).collect(),
            verbs: row.verbs,
            subresources: row.subresources.iter().map(subresource).collect(),
            stored: Stored {
                group: stored_group.into(),
                resource: row.resource.into(),
                version: stored_version.into(),
                kind: row.kind.into(),
            },
            schema: Arc::new(Node::named(type_name)),
            type_name: type_name.into(),
            published: None,
            columns: behaviour::columns(self.group, self.version, row.kind),
            selectable: texts(row.selectable),
            has_generation: row.generation,
            has_status: row.subresources.iter().any(|sub| sub.name == "status"),
            name_rule: row.name_rule,
            create_on_update: row.create_on_update,
            unconditional_update: row.unconditional_update,
            propagation: row.propagation,
            returns_deleted: row.returns_deleted,
            scale: row.subresources.iter().any(|sub| sub.name == "scale").then(Arc::default),
            custom: false,
            hooks: behaviour::hooks(self.group, self.version, row.kind),
        }
    }
}

fn subresource(sub: &Sub) -> Subresource {
    Subresource {
        name: sub.name.into(),
        verbs: sub.verbs,
        kind: sub.kind.map(|(group, version, kind)| GroupVersionKind::new(group, version, kind)),
    }
}

fn type_name(package: &str, kind: &str) -> &'static str {
    crate::schema::intern(&format!("{package}.{kind}"))
}
