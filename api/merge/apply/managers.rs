//! `metadata.managedFields`: who set which fields, by what operation, when.
//!
//! Keeps: one entry per manager, operation, version and subresource (an applier has one whatever the
//! version), sorted as upstream sorts them; at most [`UPDATES_MAX`] entries of updates, the oldest drawn
//! together as `ancient-changes`.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value, json};

use super::set::Set;
use crate::object::time::Timestamp;

pub const UPDATES_MAX: usize = 10;
const ANCIENT: &str = "ancient-changes";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Apply,
    Update,
}

/// What makes an entry the same entry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    pub manager: String,
    pub operation: Operation,
    /// Empty for appliers.
    pub api_version: String,
    pub subresource: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub api_version: String,
    pub time: Option<Timestamp>,
    pub set: Set,
}

/// All entries of an object.
pub type Managers = BTreeMap<Identity, Entry>;

impl Identity {
    #[must_use]
    pub fn new(
        manager: &str,
        operation: Operation,
        api_version: &str,
        subresource: &str,
    ) -> Identity {
        let api_version = if operation == Operation::Apply { "" } else { api_version };
        Identity {
            manager: manager.into(),
            operation,
            api_version: api_version.into(),
            subresource: subresource.into(),
        }
    }
}

/// As messages about conflicts name a manager.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.manager)?;
        if !self.subresource.is_empty() {
            write!(f, " with subresource {:?}", self.subresource)?;
        }
        if self.operation == Operation::Update {
            write!(f, " using {}", self.api_version)?;
        }
        Ok(())
    }
}

/// The entries of an object; none where it has none.
pub fn read(object: &Value) -> Result<Managers, String> {
    let entries = match &object["metadata"]["managedFields"] {
        Value::Null => return Ok(Managers::new()),
        Value::Array(entries) => entries,
        _ => return Err("managedFields is not a list".into()),
    };
    let mut managers = Managers::new();
    for (at, entry) in entries.iter().enumerate() {
        let text = |name: &str| entry[name].as_str().unwrap_or_default();
        let operation = match text("operation") {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return Err("operation must be `Apply` or `Update`".into()),
        };
        let api_version = text("apiVersion");
        if api_version.is_empty() {
            return Err("apiVersion must not be empty".into());
        }
        match text("fieldsType") {
            "FieldsV1" => {}
            "" => return Err(format!("missing fieldsType in managed fields entry {at}")),
            other => {
                return Err(format!("invalid fieldsType {other:?} in managed fields entry {at}"));
            }
        }
        let set = match &entry["fieldsV1"] {
            Value::Null => Set::default(),
            fields => Set::from_fields(fields)?,
        };
        let identity = Identity::new(text("manager"), operation, api_version, text("subresource"));
        let time = Timestamp::parse(text("time"));
        managers.insert(identity, Entry { api_version: api_version.into(), time, set });
    }
    Ok(managers)
}

/// Whether a client asks for all entries to be forgotten: `[]` or `[{}]`.
#[must_use]
pub fn is_reset(object: &Value) -> bool {
    match object["metadata"]["managedFields"].as_array().map(Vec::as_slice) {
        Some([]) => true,
        Some([entry]) => entry.as_object().is_some_and(Map::is_empty),
        _ => false,
    }
}

/// Takes the entries away.
pub fn clear(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
}

pub fn write(object: &mut Value, managers: &Managers) {
    clear(object);
    if managers.is_empty() {
        return;
    }
    let mut sorted: Vec<_> = managers.iter().collect();
    sorted.sort_by_key(|(identity, entry)| {
        (
            identity.operation,
            seconds(entry),
            identity.manager.clone(),
            entry.api_version.clone(),
            identity.subresource.clone(),
        )
    });
    let entries: Value =
        sorted.into_iter().map(|(identity, entry)| encoded(identity, entry)).collect();
    if let Some(object) = object.as_object_mut() {
        let metadata = object.entry("metadata").or_insert_with(|| json!({}));
        if let Some(metadata) = metadata.as_object_mut() {
            metadata.insert("managedFields".into(), entries);
        }
    }
}

fn encoded(identity: &Identity, entry: &Entry) -> Value {
    let mut encoded = Map::new();
    let mut put = |name: &str, value: Value| drop(encoded.insert(name.into(), value));
    put("apiVersion", entry.api_version.clone().into());
    put("fieldsType", "FieldsV1".into());
    put("fieldsV1", entry.set.to_fields());
    if !identity.manager.is_empty() {
        put("manager", identity.manager.clone().into());
    }
    put(
        "operation",
        if identity.operation == Operation::Apply { "Apply" } else { "Update" }.into(),
    );
    if !identity.subresource.is_empty() {
        put("subresource", identity.subresource.clone().into());
    }
    if let Some(time) = entry.time {
        put("time", time.rfc3339().into());
    }
    Value::Object(encoded)
}

fn seconds(entry: &Entry) -> i64 {
    entry.time.map_or(0, Timestamp::as_seconds)
}

/// Draws the oldest updates together, one bucket a version, until there are few enough.
pub fn cap_updates(managers: &mut Managers) {
    let mut updates: Vec<(i64, Identity)> = managers
        .iter()
        .filter(|(identity, _)| identity.operation == Operation::Update)
        .map(|(identity, entry)| (seconds(entry), identity.clone()))
        .collect();
    let mut left = updates.len();
    updates.sort();
    let mut first_of: BTreeMap<String, Identity> = BTreeMap::new();
    for (_, identity) in updates {
        if left <= UPDATES_MAX {
            return;
        }
        let version = identity.api_version.clone();
        let Some(first) = first_of.get(&version) else {
            first_of.insert(version, identity);
            continue;
        };
        let bucket = Identity::new(ANCIENT, Operation::Update, &version, "");
        if !managers.contains_key(&bucket)
            && let Some(entry) = managers.remove(first)
        {
            managers.insert(bucket.clone(), entry);
        }
        if identity == bucket {
            continue;
        }
        if let Some(entry) = managers.remove(&identity)
            && let Some(into) = managers.get_mut(&bucket)
        {
            into.set = into.set.union(&entry.set);
            into.time = entry.time;
            left -= 1;
        }
    }
}
