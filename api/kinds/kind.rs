//! The row: everything the road needs to know of one resource in one version.
//!
//! Keeps: no code anywhere asks "is this a Pod?"; it asks the row.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use crate::error::Cause;
use crate::object::time::Timestamp;
use crate::object::{
    GroupKind, GroupResource, GroupVersion, GroupVersionKind, GroupVersionResource,
};
use crate::schema::Node;

/// What can be done with a resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verbs {
    pub create: bool,
    pub delete: bool,
    pub delete_collection: bool,
    pub get: bool,
    pub list: bool,
    pub patch: bool,
    pub update: bool,
    pub watch: bool,
}

impl Verbs {
    pub const ALL: Verbs = Verbs {
        create: true,
        delete: true,
        delete_collection: true,
        get: true,
        list: true,
        patch: true,
        update: true,
        watch: true,
    };
    pub const CREATE: Verbs = Verbs { create: true, ..Verbs::NONE };
    pub const NONE: Verbs = Verbs {
        create: false,
        delete: false,
        delete_collection: false,
        get: false,
        list: false,
        patch: false,
        update: false,
        watch: false,
    };
    /// `componentstatuses`.
    pub const GET_LIST: Verbs = Verbs { get: true, list: true, ..Verbs::NONE };
    /// Of most subresources.
    pub const GET_PATCH_UPDATE: Verbs =
        Verbs { get: true, patch: true, update: true, ..Verbs::NONE };

    /// In the order in which discovery lists them.
    #[must_use]
    pub fn names(self) -> Vec<&'static str> {
        [
            ("create", self.create),
            ("delete", self.delete),
            ("deletecollection", self.delete_collection),
            ("get", self.get),
            ("list", self.list),
            ("patch", self.patch),
            ("update", self.update),
            ("watch", self.watch),
        ]
        .into_iter()
        .filter_map(|(name, can)| can.then_some(name))
        .collect()
    }
}

/// `pods/status`, `deployments/scale`, …
#[derive(Clone, Debug)]
pub struct Subresource {
    pub name: Arc<str>,
    pub verbs: Verbs,
    /// The kind of what is sent and answered, where it is not the parent's (`policy/v1 Eviction`).
    pub kind: Option<GroupVersionKind>,
}

/// What happens to dependents when a delete does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    #[default]
    Background,
    Foreground,
    Orphan,
}

/// Which names an object of the kind may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NameRule {
    /// DNS-1123 subdomain, at most 253 characters.
    #[default]
    Subdomain,
    /// DNS-1123 label, at most 63 characters.
    Label,
    /// Anything that can be one segment of a path.
    PathSegment,
}

/// Which columns a Table of the kind has.
#[derive(Clone)]
pub enum Columns {
    /// Name and Created At.
    Default,
    /// What upstream prints, made by code.
    Printer(&'static [Column], fn(&Value, Timestamp) -> Vec<Value>),
    /// What a CustomResourceDefinition asks for: each column with its JSONPath.
    Paths(Arc<[(Column, String)]>),
}

#[derive(Clone, Debug)]
pub struct Column {
    pub name: std::borrow::Cow<'static, str>,
    /// `string`, `integer`, `number`, `boolean`, `date`.
    pub kind: std::borrow::Cow<'static, str>,
    pub format: std::borrow::Cow<'static, str>,
    pub description: std::borrow::Cow<'static, str>,
    /// 0 is always shown, more only in wide output.
    pub priority: i32,
}

/// What a kind does beyond what its row says. All are pure: same objects in, same result out.
#[derive(Clone, Copy, Default)]
pub struct Hooks {
    /// Fills in what depends on other fields. Runs after decoding, and again after mutating admission.
    pub default: Option<fn(&mut Value)>,
    /// What the system decides on a create (clears status, sets phases).
    pub prepare_create: Option<fn(&mut Value)>,
    /// What an update may not change is put back: (new, old).
    pub prepare_update: Option<fn(&mut Value, &Value)>,
    /// The same for an update of `status`. Without it: everything but `status` is the old object's.
    pub prepare_status: Option<fn(&mut Value, &Value)>,
    /// Rules of an object, new or changed.
    pub validate: Option<fn(&Value) -> Vec<Cause>>,
    /// Rules of a new object alone.
    pub validate_create: Option<fn(&Value) -> Vec<Cause>>,
    /// Rules of a change alone: (new, old).
    pub validate_update: Option<fn(&Value, &Value) -> Vec<Cause>>,
    pub validate_status: Option<fn(&Value, &Value) -> Vec<Cause>>,
    /// Turns an object as it is stored into this version, and back: only where a stored object has several
    /// URLs or versions.
    pub from_stored: Option<fn(&mut Value)>,
    pub to_stored: Option<fn(&mut Value)>,
    /// Warnings for the client about an object it sends.
    pub warn: Option<fn(&Value) -> Vec<String>>,
    /// How many seconds an object is given before it goes, from what a delete asks for: (object, asked).
    /// Without it an object goes at once.
    pub grace: Option<fn(&Value, Option<i64>) -> i64>,
    /// What a delete changes in an object that stays for a while.
    pub prepare_delete: Option<fn(&mut Value)>,
    /// The schema gives defaults that a stored object may not have yet: they are filled in on every read.
    pub defaults_on_read: bool,
    /// A create may say what the status is.
    pub keeps_status: bool,
    /// Objects go by themselves after so many seconds (events).
    pub expires_after_seconds: Option<i64>,
}

/// One resource in one version.
pub struct Kind {
    pub group: Arc<str>,
    pub version: Arc<str>,
    /// Plural: `deployments`.
    pub resource: Arc<str>,
    pub singular: Arc<str>,
    pub kind: Arc<str>,
    /// Usually `kind` + `List`.
    pub list_kind: Arc<str>,
    pub namespaced: bool,
    pub short_names: Vec<Arc<str>>,
    pub categories: Vec<Arc<str>>,
    pub verbs: Verbs,
    pub subresources: Vec<Subresource>,
    /// What the stored object is: (group, resource, version, kind). Differs from the row's own where one
    /// object is served under several (events, autoscaling).
    pub stored: Stored,
    pub schema: Arc<Node>,
    /// Upstream's name of the type; empty for custom resources.
    pub type_name: Arc<str>,
    /// The `openAPIV3Schema` of a custom resource as its owner wrote it: what OpenAPI publishes.
    pub published: Option<Arc<Value>>,
    pub columns: Columns,
    /// Fields that a field selector may name, besides `metadata.name` and `metadata.namespace`.
    pub selectable: Vec<Arc<str>>,
    /// `metadata.generation` is kept, and goes up when anything but metadata and status changes.
    pub has_generation: bool,
    /// There is a `status` that the main resource may not write.
    pub has_status: bool,
    pub name_rule: NameRule,
    /// A PUT of an object that is not there creates it.
    pub create_on_update: bool,
    /// An update without a resourceVersion is allowed.
    pub unconditional_update: bool,
    pub propagation: Propagation,
    /// A delete answers with the object, not with a Status.
    pub returns_deleted: bool,
    /// What its `scale` subresource stands for.
    pub scale: Option<Arc<ScalePaths>>,
    /// From a CustomResourceDefinition.
    pub custom: bool,
    pub hooks: Hooks,
}

/// Where an object has what its Scale shows, as paths such as `.spec.replicas`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScalePaths {
    pub spec_replicas: String,
    pub status_replicas: String,
    /// A label selector, a map of labels, or the text of a selector.
    pub selector: Option<String>,
}

impl Default for ScalePaths {
    /// Of the built-in kinds.
    fn default() -> ScalePaths {
        ScalePaths {
            spec_replicas: ".spec.replicas".into(),
            status_replicas: ".status.replicas".into(),
            selector: Some(".spec.selector".into()),
        }
    }
}

/// Where an object rests, whatever URL it came by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub group: Arc<str>,
    pub resource: Arc<str>,
    pub version: Arc<str>,
    pub kind: Arc<str>,
}

impl Kind {
    #[must_use]
    pub fn group_version(&self) -> GroupVersion {
        GroupVersion::new(&self.group, &self.version)
    }

    #[must_use]
    pub fn gvk(&self) -> GroupVersionKind {
        GroupVersionKind::new(&self.group, &self.version, &self.kind)
    }

    #[must_use]
    pub fn gvr(&self) -> GroupVersionResource {
        GroupVersionResource::new(&self.group, &self.version, &self.resource)
    }

    #[must_use]
    pub fn group_kind(&self) -> GroupKind {
        GroupKind { group: self.group.to_string(), kind: self.kind.to_string() }
    }

    #[must_use]
    pub fn group_resource(&self) -> GroupResource {
        GroupResource::new(&self.group, &self.resource)
    }

    /// Whether objects are kept at all (reviews are not).
    #[must_use]
    pub fn is_stored(&self) -> bool {
        self.verbs.watch
    }

    /// Whether an object rests as it is served here: of several rows of one stored object, exactly one.
    #[must_use]
    pub fn is_stored_version(&self) -> bool {
        self.is_stored()
            && (&self.group, &self.version, &self.resource)
                == (&self.stored.group, &self.stored.version, &self.stored.resource)
    }

    #[must_use]
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|it| it.name.as_ref() == name)
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kind({})", self.gvk())
    }
}
