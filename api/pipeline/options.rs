//! What a request's options mean, and which do not go together.

use kontiki_storage::revision::Revision;
use serde_json::{Map, Value, json};

use super::shown::Shown;
use crate::error::{Cause, Status};
use crate::kinds::Kind;
use crate::object::GroupKind;
use crate::object::selector::{Fields, Labels};
use crate::object::time::Timestamp;
use crate::objects::scan;
use crate::request::{Options, Request};
use crate::schema::causes::{forbidden, invalid, not_supported, too_long};

/// Longest name of a field manager.
const MANAGER_MAX: usize = 128;

/// A resourceVersion that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    Unset,
    /// `0`: whatever this member has.
    Any,
    At(Revision),
}

pub(super) fn read_version(text: Option<&str>) -> Result<Version, Status> {
    match text.unwrap_or_default() {
        "" => Ok(Version::Unset),
        "0" => Ok(Version::Any),
        text => match text.parse() {
            Ok(number) => Ok(Version::At(Revision(number))),
            Err(error) => Err(Status::bad_request(format!(
                "resourceVersion: Invalid value: \"{text}\": {error}"
            ))),
        },
    }
}

/// What is done with fields that a type does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Validation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

/// What all writes have in common.
#[derive(Clone, Debug)]
pub(super) struct WriteOptions {
    pub dry_run: bool,
    pub manager: String,
    pub validation: Validation,
    /// When the write happens: the one moment that all it writes says.
    pub now: Timestamp,
    /// As admission sees them.
    pub value: Value,
}

impl WriteOptions {
    /// `kind` is `CreateOptions`, `UpdateOptions`, `PatchOptions` or `DeleteOptions`.
    pub(super) fn read(
        kind: &'static str,
        request: &Request,
        now: Timestamp,
    ) -> Result<WriteOptions, Status> {
        let options = &request.options;
        let mut causes = dry_run_causes(&options.dry_run);
        let asked = options.field_manager.as_deref().unwrap_or_default();
        if asked.chars().count() > MANAGER_MAX {
            causes.push(too_long("fieldManager", MANAGER_MAX as u64));
        }
        if let Some(bad) = asked.chars().find(|it| it.is_control()) {
            causes.push(invalid(
                "fieldManager",
                &json!(asked),
                &format!("should only contain printable characters, found {bad:?}"),
            ));
        }
        let validation = match options.field_validation.as_deref().unwrap_or_default() {
            "" | "Warn" => Validation::Warn,
            "Ignore" => Validation::Ignore,
            "Strict" => Validation::Strict,
            other => {
                causes.push(unsupported("fieldValidation", other, &["Ignore", "Strict", "Warn"]));
                Validation::Warn
            }
        };
        if !causes.is_empty() {
            return Err(Status::invalid(&of_meta(kind), "", causes));
        }
        Ok(WriteOptions {
            dry_run: !options.dry_run.is_empty(),
            manager: manager(options),
            validation,
            now,
            value: shown(kind, options),
        })
    }
}

/// How unknown fields are taken; a value that does not exist counts as the default, and is refused elsewhere.
pub(super) fn validation_of(options: &Options) -> Validation {
    match options.field_validation.as_deref() {
        Some("Strict") => Validation::Strict,
        Some("Ignore") => Validation::Ignore,
        _ => Validation::Warn,
    }
}

impl WriteOptions {
    pub(super) fn for_delete(dry_run: bool, value: &Value, now: Timestamp) -> WriteOptions {
        WriteOptions {
            dry_run,
            manager: String::new(),
            validation: Validation::Ignore,
            now,
            value: value.clone(),
        }
    }
}

/// Options of a kind, as a GroupKind for messages.
pub(super) fn of_meta(kind: &str) -> GroupKind {
    GroupKind { group: "meta.k8s.io".into(), kind: kind.into() }
}

pub(super) fn dry_run_causes(dry_run: &[String]) -> Vec<Cause> {
    let bad = dry_run.iter().filter(|it| *it != "All");
    bad.map(|it| unsupported("dryRun", it, &["All"])).collect()
}

/// Who changes fields: what was said, else what the User-Agent begins with.
fn manager(options: &Options) -> String {
    if let Some(asked) = options.field_manager.as_deref().filter(|it| !it.is_empty()) {
        return asked.to_owned();
    }
    let agent = options.user_agent.split('/').next().unwrap_or_default();
    agent.chars().filter(|it| !it.is_control()).take(MANAGER_MAX).collect()
}

fn shown(kind: &str, options: &Options) -> Value {
    let mut value = Map::new();
    value.insert("kind".into(), kind.into());
    value.insert("apiVersion".into(), "meta.k8s.io/v1".into());
    let mut put = |name: &str, it: Option<Value>| {
        if let Some(it) = it {
            value.insert(name.into(), it);
        }
    };
    put("dryRun", (!options.dry_run.is_empty()).then(|| json!(options.dry_run)));
    put("fieldManager", options.field_manager.as_ref().map(|it| json!(it)));
    put("fieldValidation", options.field_validation.as_ref().map(|it| json!(it)));
    put("force", options.force.map(Value::Bool));
    Value::Object(value)
}

/// A text that is none of those that there are.
pub(super) fn unsupported(field: &str, value: &str, supported: &[&str]) -> Cause {
    let supported: Vec<String> = supported.iter().map(|it| (*it).to_owned()).collect();
    not_supported(field, &value.into(), &supported)
}

/// Which objects of a list, a watch or a deletecollection are meant.
#[derive(Clone, Debug, Default)]
pub(super) struct Selection {
    pub labels: Labels,
    pub fields: Fields,
}

impl Selection {
    pub(super) fn read(kind: &Kind, options: &Options) -> Result<Selection, Status> {
        let labels = Labels::parse(options.label_selector.as_deref().unwrap_or_default())
            .map_err(Status::bad_request)?;
        let fields = Fields::parse(options.field_selector.as_deref().unwrap_or_default())
            .map_err(Status::bad_request)?;
        for term in fields.terms() {
            if !is_selectable(kind, &term.field) {
                return Err(Status::bad_request(not_selectable(kind, &term.field)));
            }
        }
        Ok(Selection { labels, fields })
    }

    pub(super) fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    /// Whether an object is meant, by no more of it than is asked about where that can be had.
    pub(super) fn selects(&self, shown: &Shown) -> Result<bool, Status> {
        if self.is_everything() {
            return Ok(true);
        }
        match shown.at_rest() {
            Some(rest) => Ok(self.matches(&self.narrowed(rest))),
            None => Ok(self.matches(shown.value()?)),
        }
    }

    /// What of an object at rest this asks about, and nothing else.
    fn narrowed(&self, rest: &[u8]) -> Value {
        let mut narrowed = Value::Null;
        let labels = (!self.labels.is_everything()).then_some("metadata.labels");
        for path in self.fields.paths().chain(labels) {
            let found = scan::find(rest, path.split('.'));
            let Some(found) = found.and_then(|bytes| serde_json::from_slice(bytes).ok()) else {
                continue;
            };
            let place = path.split('.').fold(&mut narrowed, |value, name| &mut value[name]);
            *place = found;
        }
        narrowed
    }

    pub(super) fn matches(&self, object: &Value) -> bool {
        self.labels.matches(crate::object::meta::labels(object)) && self.fields.matches(object)
    }
}

fn is_selectable(kind: &Kind, field: &str) -> bool {
    field == "metadata.name"
        || (field == "metadata.namespace")
        || kind.selectable.iter().any(|it| it.as_ref() == field)
}

fn not_selectable(kind: &Kind, field: &str) -> String {
    if kind.selectable.is_empty() {
        format!(
            "\"{field}\" is not a known field selector: only \"metadata.name\", \
             \"metadata.namespace\""
        )
    } else {
        format!("field label not supported: {field}")
    }
}

/// What does not go together in a list.
pub(super) fn check_list(options: &Options) -> Result<(), Status> {
    let mut causes = Vec::new();
    let version = options.resource_version.as_deref().unwrap_or_default();
    if let Some(how) = options.resource_version_match.as_deref().filter(|it| !it.is_empty()) {
        let field = "resourceVersionMatch";
        if version.is_empty() {
            causes.push(forbidden(
                field,
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
            ));
        }
        if options.go_on.as_deref().is_some_and(|it| !it.is_empty()) {
            causes.push(forbidden(
                field,
                "resourceVersionMatch is forbidden when continue is provided",
            ));
        }
        if !matches!(how, "Exact" | "NotOlderThan") {
            causes.push(unsupported(field, how, &["Exact", "NotOlderThan", ""]));
        }
        if how == "Exact" && version == "0" {
            causes.push(forbidden(
                field,
                "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            ));
        }
    }
    if options.send_initial_events.is_some() {
        causes.push(forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list"));
    }
    refuse_list(causes)
}

/// What does not go together in a watch.
pub(super) fn check_watch(options: &Options) -> Result<(), Status> {
    let mut causes = Vec::new();
    let field = "resourceVersionMatch";
    let how = options.resource_version_match.as_deref().filter(|it| !it.is_empty());
    match (options.send_initial_events, how) {
        (None, None) | (Some(_), Some("NotOlderThan")) => {}
        (None, Some(_)) => causes.push(forbidden(
            field,
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        )),
        (Some(_), None) => causes.push(forbidden(
            field,
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        )),
        (Some(_), Some(other)) => causes.push(unsupported(field, other, &["NotOlderThan"])),
    }
    refuse_list(causes)
}

fn refuse_list(causes: Vec<Cause>) -> Result<(), Status> {
    if causes.is_empty() {
        Ok(())
    } else {
        Err(Status::invalid(&of_meta("ListOptions"), "", causes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(version: &str, how: &str) -> Options {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Options {
            resource_version: some(version),
            resource_version_match: some(how),
            ..Options::default()
        }
    }

    #[test]
    fn versions_and_how_they_match_go_together_or_are_refused() {
        for (version, how, good) in [
            ("", "", true),
            ("0", "", true),
            ("5", "NotOlderThan", true),
            ("0", "NotOlderThan", true),
            ("5", "Exact", true),
            ("0", "Exact", false),
            ("", "Exact", false),
            ("5", "Near", false),
        ] {
            let checked = check_list(&options(version, how));
            assert_eq!(checked.is_ok(), good, "{version} {how}");
            assert!(checked.err().is_none_or(|it| it.code() == 422));
        }
        let watch = Options { send_initial_events: Some(true), ..options("", "NotOlderThan") };
        assert!(check_watch(&watch).is_ok());
        assert!(check_list(&watch).is_err());
        let watch = Options { send_initial_events: Some(true), ..options("", "") };
        assert_eq!(check_watch(&watch).unwrap_err().code(), 422);
        assert!(check_watch(&options("5", "NotOlderThan")).is_err());
    }

    #[test]
    fn the_user_agent_names_the_manager_where_nobody_does() {
        let mut options =
            Options { user_agent: "kubectl/v1.37 (linux)".into(), ..Options::default() };
        assert_eq!(manager(&options), "kubectl");
        options.field_manager = Some("me".into());
        assert_eq!(manager(&options), "me");
    }
}
