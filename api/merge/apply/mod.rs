//! Server-side apply, and the bookkeeping of who set which field for all other writes.
//!
//! An applier says which fields it wants, and has them until it applies without them: then they go, unless
//! another has them too. To change a field that another has is a conflict, which `force` settles. Every other
//! write (create, update, patch) takes what it changes, without conflicts.
//!
//! Keeps: applying the same twice is applying it once, times included; fields of the system (names, uid,
//! resourceVersion, …) are never anybody's. Never: a default or a rule of a kind — the road defaults and
//! validates what comes out.

mod compare;
mod managers;
mod reshape;
mod set;
mod typed;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use self::compare::{Comparison, compare, same};
use self::managers::{Entry, Identity, Managers, Operation};
use self::set::{Element, Path, Set};
use self::typed::{Type, field_set, reconcile, with_structures};
use crate::error::{Cause, Details, Reason, Status};
use crate::object::time::Timestamp;
use crate::schema::Node;

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// What the system decides: never managed by anybody.
static SYSTEM_FIELDS: LazyLock<Set> = LazyLock::new(|| {
    let mut set = Set::default();
    for path in [
        "apiVersion",
        "kind",
        "metadata",
        "metadata.name",
        "metadata.namespace",
        "metadata.creationTimestamp",
        "metadata.selfLink",
        "metadata.uid",
        "metadata.clusterName",
        "metadata.generation",
        "metadata.managedFields",
        "metadata.resourceVersion",
    ] {
        set.insert(&elements(path));
    }
    set
});

/// An object, whose `apiVersion` says what it is in, in another version or its own, and that version's type.
/// `None`: the version is no longer there.
pub type Convert<'a> = dyn Fn(&Value, &str) -> Option<(Value, &'a Node)> + 'a;

/// The type of an object, in the version of the request and in those of other managers' entries.
#[derive(Clone, Copy)]
pub struct Types<'a> {
    pub node: &'a Node,
    /// Without it all versions look alike.
    pub convert: Option<&'a Convert<'a>>,
}

impl<'a> From<&'a Node> for Types<'a> {
    fn from(node: &'a Node) -> Types<'a> {
        Types { node, convert: None }
    }
}

/// Who writes, and through what.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manager<'a> {
    pub name: &'a str,
    /// Of the request.
    pub api_version: &'a str,
    /// Empty for the resource itself.
    pub subresource: &'a str,
    /// Paths that this endpoint does not write, whatever is sent: `["status"]` of the resource itself,
    /// `["spec", "metadata.labels"]` of its status.
    pub ignored: &'a [&'a str],
}

/// Another manager has a field that was to be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// As messages name it: `"m" using apps/v1`.
    pub manager: String,
    /// `.spec.replicas`.
    pub field: String,
}

/// Applies a configuration. `live` is the object in the version of the request; what comes out is to be
/// defaulted and validated, and compared with [`keep_times`] before it is written.
pub fn apply<'a>(
    types: impl Into<Types<'a>>,
    live: Option<&Value>,
    config: &Value,
    manager: &Manager<'_>,
    force: bool,
    now: Timestamp,
) -> Result<Value, Status> {
    let scene = Scene { types: types.into(), manager, now };
    scene.check(config)?;
    let empty = empty_like(config);
    let live = live.unwrap_or(&empty);
    let mut managers = managers::read(live)
        .map_err(|why| Status::internal(format!("failed to decode managed fields: {why}")))?;
    if managers.is_empty() {
        // Whatever was there before anybody was tracked belongs to one that may be forced away.
        let before = Manager { name: "before-first-apply", ..*manager };
        Scene { manager: &before, ..scene }.update(&empty, live, &mut managers);
    }
    let (mut object, managers) = match scene.apply(live, config, &managers, force) {
        Err(conflicts) if manager.name == "kubectl" => {
            // What kubectl applied on the client's side before is its own.
            let own = scene.last_applied(live).unwrap_or_default();
            let foreign: Vec<_> =
                conflicts.into_iter().filter(|(_, path)| !own.has(&path.0)).collect();
            if !foreign.is_empty() {
                return Err(conflict_status(&told(&foreign)));
            }
            scene.apply(live, config, &managers, true)
        }
        other => other,
    }
    .map_err(|conflicts| conflict_status(&told(&conflicts)))?;
    if manager.name == "kubectl" {
        refresh_last_applied(&mut object, config);
    }
    managers::write(&mut object, &managers);
    Ok(object)
}

/// Keeps the books of a create (`old` is `None`), update or patch: `new` is what is to be written, still with
/// the managedFields that the client sent.
pub fn updated<'a>(
    types: impl Into<Types<'a>>,
    old: Option<&Value>,
    new: &mut Value,
    manager: &Manager<'_>,
    now: Timestamp,
) {
    let scene = Scene { types: types.into(), manager, now };
    let live = || old.and_then(|old| managers::read(old).ok()).unwrap_or_default();
    let mut managers = if !manager.subresource.is_empty() {
        live()
    } else if managers::is_reset(new) {
        Managers::new()
    } else {
        match managers::read(new) {
            Ok(sent) if !sent.is_empty() => sent,
            _ => live(),
        }
    };
    managers::clear(new);
    // An object that nobody is tracked of is tracked from its creation or from its first apply on.
    if !managers.is_empty() || old.is_none() {
        let empty = empty_like(new);
        scene.update(old.unwrap_or(&empty), new, &mut managers);
        managers::cap_updates(&mut managers);
    }
    managers::write(new, &managers);
}

/// Where a write changes nothing but the times of managers, the old times are kept: then it is no write.
pub fn keep_times(old: &Value, new: &mut Value) {
    // Few writes change nothing, and those that do need not be looked at closer.
    if !same_but_for_the_books(old, new) {
        return;
    }
    let (Ok(before), Ok(after)) = (managers::read(old), managers::read(new)) else { return };
    let entries = |managers: &Managers| {
        let timeless = |(identity, entry): (&Identity, &Entry)| {
            (identity.clone(), entry.api_version.clone(), entry.set.clone())
        };
        managers.iter().map(timeless).collect::<Vec<_>>()
    };
    if entries(&before) == entries(&after) {
        managers::write(new, &before);
    }
}

/// Equal in all but managedFields.
fn same_but_for_the_books(one: &Value, other: &Value) -> bool {
    fn alike(one: &Map<String, Value>, other: &Map<String, Value>, but: &str) -> bool {
        let others = |map: &Map<String, Value>| map.len() - usize::from(map.contains_key(but));
        let mut rest = one.iter().filter(|(name, _)| *name != but);
        others(one) == others(other)
            && rest.all(|(name, value)| other.get(name).is_some_and(|it| same(value, it)))
    }
    fn metadata(map: &Map<String, Value>) -> Option<&Map<String, Value>> {
        map.get("metadata").and_then(Value::as_object)
    }
    let (Some(a), Some(b)) = (one.as_object(), other.as_object()) else { return false };
    let metadata_alike = match (metadata(a), metadata(b)) {
        (Some(a), Some(b)) => alike(a, b, "managedFields"),
        (None, None) => true,
        _ => false,
    };
    metadata_alike && alike(a, b, "metadata")
}

/// The answer to an apply with conflicts.
#[must_use]
pub fn conflict_status(conflicts: &[Conflict]) -> Status {
    let message = match conflicts {
        [one] => format!("1 conflict: conflict with {}: {}", one.manager, one.field),
        several => {
            let mut lines: Vec<String> = Vec::new();
            let mut by_manager: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
            for conflict in several {
                by_manager.entry(&conflict.manager).or_default().push(&conflict.field);
            }
            for (manager, fields) in by_manager {
                lines.push(format!("conflicts with {manager}:"));
                lines.extend(fields.iter().map(|field| format!("- {field}")));
            }
            format!("{} conflicts: {}", several.len(), lines.join("\n"))
        }
    };
    let causes = conflicts.iter().map(|conflict| Cause {
        reason: "FieldManagerConflict".into(),
        message: format!("conflict with {}", conflict.manager),
        field: conflict.field.clone(),
    });
    Status::new(Reason::Conflict, format!("Apply failed with {message}"))
        .with_details(Details { causes: causes.collect(), ..Details::default() })
}

type Conflicts = Vec<(Identity, Path)>;

fn told(conflicts: &Conflicts) -> Vec<Conflict> {
    let told = |(manager, path): &(Identity, Path)| Conflict {
        manager: manager.to_string(),
        field: path.to_string(),
    };
    conflicts.iter().map(told).collect()
}

#[derive(Clone, Copy)]
struct Scene<'a, 'b> {
    types: Types<'a>,
    manager: &'b Manager<'b>,
    now: Timestamp,
}

impl<'a> Scene<'a, '_> {
    fn of(&self) -> Type<'a> {
        Type::of_object(self.types.node)
    }

    /// An object, in whatever version it is, as another version has it.
    fn at<'v>(&self, version: &str, object: &'v Value) -> Option<(Cow<'v, Value>, Type<'a>)> {
        let is_own = version == self.manager.api_version && object["apiVersion"] == version;
        match self.types.convert {
            Some(convert) if !is_own => {
                let (converted, node) = convert(object, version)?;
                Some((Cow::Owned(converted), Type::of_object(node)))
            }
            _ => Some((Cow::Borrowed(object), self.of())),
        }
    }

    fn check(&self, config: &Value) -> Result<(), Status> {
        let version = config["apiVersion"].as_str().unwrap_or_default();
        if version != self.manager.api_version {
            return Err(Status::bad_request(format!(
                "Incorrect version specified in apply patch. Specified patch version: {version}, \
                 expected: {}",
                self.manager.api_version
            )));
        }
        if !config["metadata"]["managedFields"].is_null() {
            return Err(Status::bad_request("metadata.managedFields must be nil"));
        }
        typed::check(self.of(), config).map_err(|why| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let metadata = &config["metadata"];
            Status::new(
                Reason::Unknown,
                format!(
                    "failed to create typed patch object ({}/{}; {version}, Kind={}): {why}",
                    text(&metadata["namespace"]),
                    text(&metadata["name"]),
                    text(&config["kind"]),
                ),
            )
        })
    }

    fn apply(
        &self,
        live: &Value,
        config: &Value,
        managers: &Managers,
        force: bool,
    ) -> Result<(Value, Managers), Conflicts> {
        let mut managers = self.reconciled(live, managers.clone());
        let of = self.of();
        let who = self.identity(Operation::Apply);
        let last = managers.remove(&who);
        let set = self.without_ignored(field_set(of, config));
        let entry = Entry {
            api_version: self.manager.api_version.into(),
            time: last.as_ref().and_then(|last| last.time),
            set: set.clone(),
        };
        managers.insert(who.clone(), entry);
        let mut bare = live.clone();
        managers::clear(&mut bare);
        let merged = reshape::merge(of, Some(&bare), Some(config)).unwrap_or_else(|| bare.clone());
        let object = match &last {
            Some(last) if !last.set.is_empty() => self.prune(merged, &managers, last),
            _ => merged,
        };
        self.settle(&bare, &object, &mut managers, Some(&who), force)?;
        if let Some(entry) = managers.get_mut(&who) {
            entry.set.subtract(&SYSTEM_FIELDS);
            let before = last.as_ref().map(|last| &last.set);
            if !same(&bare, &object) || before != Some(&entry.set) {
                entry.time = Some(self.now);
            }
            if entry.set.is_empty() {
                managers.remove(&who);
            }
        }
        Ok((object, managers))
    }

    /// Takes out what the manager applied the last time, not this time, and nobody else has.
    fn prune(&self, merged: Value, managers: &Managers, last: &Entry) -> Value {
        let Some((then, of)) = self.at(&last.api_version, &merged) else { return merged };
        let mut pruned = reshape::remove(of, &then, &with_structures(of, &last.set));
        // What others have, and the manager itself still, comes back; the last version first.
        let mut by_version: BTreeMap<(bool, &str), Set> = BTreeMap::new();
        for entry in managers.values() {
            let key = (entry.api_version != last.api_version, entry.api_version.as_str());
            by_version.entry(key).or_default().add(entry.set.clone());
        }
        let (mut whole, mut version, mut of) = (then.into_owned(), last.api_version.as_str(), of);
        for ((_, other), owned) in &by_version {
            if *other != version {
                let both = (self.at(other, &whole), self.at(other, &pruned));
                let (Some((there, of_there)), Some((left, _))) = both else { continue };
                (whole, pruned) = (there.into_owned(), left.into_owned());
                (version, of) = (*other, of_there);
            }
            let all = with_structures(of, &field_set(of, &whole));
            let left = with_structures(of, &field_set(of, &pruned));
            let kept = left.union(&with_structures(of, owned));
            pruned = reshape::remove(of, &whole, &all.difference(&kept));
        }
        // What was not the manager's own, and only lost what it was in, comes back as well.
        let both = (self.at(&last.api_version, &whole), self.at(&last.api_version, &pruned));
        let (Some((whole, of)), Some((left, _))) = both else { return merged };
        let all = with_structures(of, &field_set(of, &whole));
        let left = with_structures(of, &field_set(of, &left));
        let gone = all.difference(&left).intersection(&with_structures(of, &last.set));
        let result = reshape::remove(of, &whole, &gone);
        match self.at(self.manager.api_version, &result) {
            Some((object, _)) => object.into_owned(),
            None => merged,
        }
    }

    fn update(&self, old: &Value, new: &Value, managers: &mut Managers) {
        let mut kept = self.reconciled(old, std::mem::take(managers));
        // Whoever forces is not refused.
        if let Ok(changes) = self.settle(old, new, &mut kept, None, true) {
            let mut taken = changes.added;
            taken.add(changes.modified);
            let mut taken = self.without_ignored(taken);
            taken.subtract(&SYSTEM_FIELDS);
            if !taken.is_empty() {
                let who = self.identity(Operation::Update);
                let mut set = kept.remove(&who).map(|before| before.set).unwrap_or_default();
                set.add(taken);
                let api_version = self.manager.api_version.into();
                kept.insert(who, Entry { api_version, time: Some(self.now), set });
            }
        }
        *managers = kept;
    }

    /// Takes from the managers other than `who` what changed between two objects; without `force` a field of
    /// theirs that would change is a conflict.
    fn settle(
        &self,
        old: &Value,
        new: &Value,
        managers: &mut Managers,
        who: Option<&Identity>,
        force: bool,
    ) -> Result<Comparison, Conflicts> {
        let mut by_version: BTreeMap<String, Option<(Comparison, Set)>> = BTreeMap::new();
        let mut kept = Managers::new();
        let mut conflicts = Conflicts::new();
        for (identity, mut entry) in std::mem::take(managers) {
            if Some(&identity) == who {
                kept.insert(identity, entry);
                continue;
            }
            let changes = by_version.entry(entry.api_version.clone()).or_insert_with(|| {
                let changes = self.changes(&entry.api_version, old, new)?;
                let set = changes.modified.union(&changes.added);
                Some((changes, set))
            });
            // Entries of a version that is gone go with it.
            let Some((changes, set)) = changes else { continue };
            if !force {
                let disputed = entry.set.intersection(set).paths();
                conflicts.extend(disputed.into_iter().map(|path| (identity.clone(), path)));
            }
            entry.set.subtract(set);
            entry.set.subtract(&changes.removed);
            if !entry.set.is_empty() {
                kept.insert(identity, entry);
            }
        }
        if !conflicts.is_empty() {
            return Err(conflicts);
        }
        *managers = kept;
        let own = by_version.remove(self.manager.api_version).flatten();
        Ok(own.map_or_else(|| compare(self.of(), old, new), |(changes, _)| changes))
    }

    fn changes(&self, version: &str, old: &Value, new: &Value) -> Option<Comparison> {
        let ((old, of), (new, _)) = (self.at(version, old)?, self.at(version, new)?);
        let changes = compare(of, &old, &new);
        Some(Comparison {
            removed: self.without_ignored(changes.removed),
            modified: self.without_ignored(changes.modified),
            added: self.without_ignored(changes.added),
        })
    }

    fn reconciled(&self, live: &Value, managers: Managers) -> Managers {
        let of_version = |entry: &Entry| Some(self.at(&entry.api_version, live)?.1);
        let reconciled = |(identity, mut entry): (Identity, Entry)| {
            reconcile(of_version(&entry)?, &mut entry.set);
            Some((identity, entry))
        };
        managers.into_iter().filter_map(reconciled).collect()
    }

    fn without_ignored(&self, mut set: Set) -> Set {
        self.manager.ignored.iter().for_each(|path| set.remove_tree(&elements(path)));
        set
    }

    fn identity(&self, operation: Operation) -> Identity {
        let name = if self.manager.name.is_empty() { "unknown" } else { self.manager.name };
        Identity::new(name, operation, self.manager.api_version, self.manager.subresource)
    }

    /// The fields that kubectl's annotation claims, and that are still as it applied them.
    fn last_applied(&self, live: &Value) -> Option<Set> {
        let text = live["metadata"]["annotations"][LAST_APPLIED].as_str()?;
        let applied: Value = serde_json::from_str(text).ok()?;
        if applied["apiVersion"] != self.manager.api_version {
            return None;
        }
        let changed = compare(self.of(), &applied, live);
        let set = field_set(self.of(), &applied);
        Some(
            set.difference(&changed.modified)
                .difference(&changed.added)
                .difference(&changed.removed),
        )
    }
}

/// What an object is before it is created.
fn empty_like(object: &Value) -> Value {
    json!({"apiVersion": object["apiVersion"], "kind": object["kind"], "metadata": {}})
}

fn elements(path: &str) -> Vec<Element> {
    path.split('.').map(Element::field).collect()
}

/// Where kubectl's annotation is, it says what kubectl applied last, on either side.
fn refresh_last_applied(object: &mut Value, config: &Value) {
    let Some(annotations) = object
        .get_mut("metadata")
        .and_then(|metadata| metadata.get_mut("annotations"))
        .and_then(Value::as_object_mut)
    else {
        return;
    };
    if annotations.get(LAST_APPLIED).is_none_or(|text| text.as_str() == Some("")) {
        return;
    }
    let mut applied = config.clone();
    let own = applied.get_mut("metadata").and_then(|metadata| metadata.get_mut("annotations"));
    if let Some(own) = own.and_then(Value::as_object_mut) {
        own.remove(LAST_APPLIED);
    }
    annotations.insert(LAST_APPLIED.into(), format!("{applied}\n").into());
}

#[cfg(test)]
mod tests;
