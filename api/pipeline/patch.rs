//! PATCH: four ways to say what should be different.
//!
//! A patch is made on the object as the URL's version shows it, and made again if the object moved meanwhile:
//! so a patch without a resourceVersion does not lose against another writer.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::{Value, json};

use super::Road;
use super::body;
use super::change::{Edit, Made, Scope, Writer, making};
use super::fields::{self, Track};
use super::options::{WriteOptions, of_meta};
use super::reply::Reply;
use super::target::Target;
use crate::client::PatchKind;
use crate::error::{Reason, Status};
use crate::kinds::Kind;
use crate::merge;
use crate::object::{GroupKind, meta};
use crate::request::{Body, Request, User};
use crate::schema::causes::{forbidden, invalid, required};

const KINDS: [PatchKind; 4] =
    [PatchKind::Json, PatchKind::Merge, PatchKind::Strategic, PatchKind::Apply];

/// A patch as it was sent.
pub(super) struct Patch {
    pub kind: PatchKind,
    bytes: bytes::Bytes,
    /// Read already, where it is an object.
    value: Value,
    /// What reading it gave to warn of.
    warnings: Vec<String>,
}

impl Patch {
    pub(super) fn read(target: &Target, request: &Request) -> Result<Patch, Status> {
        let Body::Bytes { content_type, bytes } = &request.body else {
            return Err(unknown_format(&target.kind, ""));
        };
        let plain = content_type.split(';').next().unwrap_or_default().trim();
        let kind = KINDS
            .into_iter()
            .find(|kind| kind.content_type() == plain)
            .filter(|kind| !(target.kind.custom && *kind == PatchKind::Strategic))
            .ok_or_else(|| unknown_format(&target.kind, plain))?;
        let mut warnings = Vec::new();
        let value = match kind {
            PatchKind::Json => Value::Null,
            PatchKind::Merge | PatchKind::Strategic => body::read_object(bytes)?,
            PatchKind::Apply => {
                let validation = super::options::validation_of(&request.options);
                let (value, found) = body::read_applied(bytes, validation)?;
                warnings = found;
                value
            }
        };
        Ok(Patch { kind, bytes: bytes.clone(), value, warnings })
    }

    /// The object that the patch makes of `old`, before anything else is done to it.
    pub(super) fn on(&self, schema: &crate::schema::Node, old: &Value) -> Result<Value, Status> {
        match self.kind {
            PatchKind::Json => merge::json::apply(old, &self.bytes),
            PatchKind::Merge => Ok(merge::merge(old.clone(), &self.value)),
            PatchKind::Strategic => merge::strategic::apply(schema, old, &self.value),
            PatchKind::Apply => Err(Status::internal("an apply is no patch of one object alone")),
        }
    }

    /// What a JSON patch finds: its paths lead through a status even where nothing has been said of it yet.
    fn seen<'v>(&self, kind: &Kind, old: &'v Value) -> Cow<'v, Value> {
        let missing = kind.has_status && !kind.custom && old.get("status").is_none();
        if self.kind != PatchKind::Json || !missing || !old.is_object() {
            return Cow::Borrowed(old);
        }
        let mut seen = old.clone();
        seen["status"] = json!({});
        Cow::Owned(seen)
    }

    /// The result is no object of the kind: it is the patch that is at fault.
    fn refused(&self, kind: &Kind, old: &Value, error: &Status) -> Status {
        if !error.is(Reason::BadRequest) {
            return error.clone();
        }
        let shown = match self.kind {
            PatchKind::Strategic => self.value.clone(),
            _ => self.on(&kind.schema, old).unwrap_or_default(),
        };
        let why = error.message();
        let why = why.split_once(&format!("as a {}: ", kind.kind)).map_or(why, |(_, why)| why);
        let cause = invalid("patch", &shown.to_string().into(), why);
        Status::invalid(&GroupKind::default(), "", vec![cause])
    }

    pub(super) fn value(&self) -> &Value {
        &self.value
    }
}

fn unknown_format(kind: &Kind, _given: &str) -> Status {
    let known = KINDS.into_iter().filter(|it| !(kind.custom && *it == PatchKind::Strategic));
    let known: Vec<_> = known.map(PatchKind::content_type).collect();
    Status::new(
        Reason::UnsupportedMediaType,
        format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            known.join(", ")
        ),
    )
}

/// What does not go together.
pub(super) fn check_options(patch: PatchKind, request: &Request) -> Result<(), Status> {
    let options = &request.options;
    let mut causes = Vec::new();
    if patch == PatchKind::Apply {
        if options.field_manager.as_deref().unwrap_or_default().is_empty() {
            causes.push(required("fieldManager", "is required for apply patch"));
        }
    } else if options.force.is_some() {
        causes.push(forbidden("force", "may not be specified for non-apply patch"));
    }
    if causes.is_empty() {
        Ok(())
    } else {
        Err(Status::invalid(&of_meta("PatchOptions"), "", causes))
    }
}

impl Road {
    pub(super) async fn patch(
        &self,
        who: &User,
        target: Target,
        request: Request,
    ) -> Result<Reply, Status> {
        self.patch_part(who, target, request, Scope::Whole).await
    }

    pub(super) async fn patch_part(
        &self,
        who: &User,
        target: Target,
        request: Request,
        scope: Scope,
    ) -> Result<Reply, Status> {
        let patch = Patch::read(&target, &request)?;
        check_options(patch.kind, &request)?;
        let options = WriteOptions::read("PatchOptions", &request, self.clock.now())?;
        let mut writer =
            Writer { road: self, who, target: &target, options: &options, warnings: Vec::new() };
        if patch.kind == PatchKind::Apply {
            let creates = matches!(scope, Scope::Whole);
            return self.apply(&mut writer, &request, Arc::new(patch), scope, creates).await;
        }
        let kind = target.kind.clone();
        let validation = options.validation;
        let make = making(|old| {
            let made = patch.on(&kind.schema, &patch.seen(&kind, old)).and_then(|value| {
                let checked = body::check(&kind, value, validation);
                let body::Decoded { value, warnings } =
                    checked.map_err(|error| patch.refused(&kind, old, &error))?;
                Ok(Made { value, warnings, track: Track::Update })
            });
            Box::pin(std::future::ready(made))
        });
        let edit = Edit { make: &make, create: None, scope, admits: true };
        writer.edit(&edit).await
    }

    /// Server-side apply: what a manager wants, merged by who owns which field.
    pub(super) async fn apply(
        &self,
        writer: &mut Writer<'_>,
        request: &Request,
        patch: Arc<Patch>,
        scope: Scope,
        creates: bool,
    ) -> Result<Reply, Status> {
        let (target, options) = (writer.target, writer.options);
        check_applied(target, patch.value())?;
        let force = request.options.force.unwrap_or(false);
        let apply = |live: Option<&Value>| -> Result<Made, Status> {
            let mut warnings = patch.warnings.clone();
            let applied = body::check_applied(&target.kind, patch.value(), options.validation)?;
            warnings.extend(applied.warnings);
            let value = fields::apply(target, options, live, &applied.value, force)?;
            let body::Decoded { value, warnings: _ } =
                body::check(&target.kind, value, super::options::Validation::Ignore)?;
            Ok(Made { value, warnings, track: Track::Done })
        };
        let make = making(|old| {
            let made = apply(Some(old));
            Box::pin(std::future::ready(made))
        });
        let create = || {
            self.permit_verb(writer.who, request, "create")?;
            let uid = meta::uid(patch.value());
            if !uid.is_empty() {
                let why = format!(
                    "uid mismatch: the provided object specified uid {uid}, \
                        and no existing object was found"
                );
                return Err(Status::conflict(&target.kind.group_resource(), &target.name, &why));
            }
            apply(None)
        };
        let edit = Edit {
            make: &make,
            create: if creates { Some(&create) } else { None },
            scope,
            admits: true,
        };
        let mut own = Writer {
            road: self,
            who: writer.who,
            target,
            options,
            warnings: std::mem::take(&mut writer.warnings),
        };
        own.edit(&edit).await
    }
}

/// What an applied object has to say of itself.
fn check_applied(target: &Target, object: &Value) -> Result<(), Status> {
    let kind = &target.kind;
    let (version, name) = (meta::text(object, &["apiVersion"]), meta::text(object, &["kind"]));
    if name.is_empty() {
        return Err(Status::bad_request("Object 'Kind' is missing in applied object"));
    }
    if version.is_empty() {
        return Err(Status::bad_request("Object 'apiVersion' is missing in applied object"));
    }
    let expected = kind.group_version().to_string();
    if version != expected || name != kind.kind.as_ref() {
        return Err(Status::bad_request(format!(
            "the object provided is unrecognized \
                (must be of type {}): it is {version}, Kind={name}",
            kind.kind
        )));
    }
    let named = meta::name(object);
    if !named.is_empty() && named != target.name {
        return Err(Status::bad_request(format!(
            "the name of the object ({named}) does not match the name on the URL ({})",
            target.name
        )));
    }
    let managed = meta::at(object, &["metadata", "managedFields"]);
    if managed.is_some_and(|it| !it.is_null()) {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    Ok(())
}
