//! The end of an object, at once or by and by.
//!
//! Keeps: an object with finalizers stays until the last is gone; grace may only become shorter; what a
//! precondition names is what is deleted.

use serde_json::{Map, Value, json};

use super::Road;
use super::body;
use super::change::{Writer, is_held_by_spec};
use super::metadata::{self, FOREGROUND, ORPHAN};
use super::options::{WriteOptions, dry_run_causes, of_meta, unsupported};
use super::reply::Reply;
use super::shown::{self, Shown};
use super::target::Target;
use crate::admission::Operation;
use crate::error::Status;
use crate::kinds::Kind;
use crate::kinds::kind::Propagation;
use crate::object::meta;
use crate::object::time::Timestamp;
use crate::objects::{Committed, Object, Write, object};
use crate::request::{Body, Request, User};
use crate::schema::causes::invalid;

/// How often a delete is looked at anew because the object moved.
const ATTEMPTS_MAX: usize = 16;

/// What a delete asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct DeleteOptions {
    pub grace_seconds: Option<i64>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub orphan_dependents: Option<bool>,
    pub propagation: Option<Propagation>,
    pub dry_run: bool,
    /// As admission sees it.
    pub value: Value,
}

impl DeleteOptions {
    /// The body says it, or else the query.
    pub(super) fn of(request: &Request) -> Result<DeleteOptions, Status> {
        let value = match &request.body {
            Body::None => None,
            Body::Bytes { bytes, .. } if bytes.is_empty() => None,
            body => Some(body::decode_options(body)?),
        };
        let value = value.unwrap_or_else(|| from_query(request));
        let options = DeleteOptions::read(value)?;
        // A dry run is one wherever it was asked for: nobody who did wants the object gone.
        let causes = dry_run_causes(&request.options.dry_run);
        refuse(causes)?;
        Ok(DeleteOptions {
            dry_run: options.dry_run || !request.options.dry_run.is_empty(),
            ..options
        })
    }

    pub(super) fn read(value: Value) -> Result<DeleteOptions, Status> {
        let mut causes = Vec::new();
        let text = |path: &[&str]| {
            let there = meta::text(&value, path);
            (!there.is_empty()).then(|| there.to_owned())
        };
        let propagation = match meta::text(&value, &["propagationPolicy"]) {
            "" => None,
            "Background" => Some(Propagation::Background),
            "Foreground" => Some(Propagation::Foreground),
            "Orphan" => Some(Propagation::Orphan),
            other => {
                let supported = ["Foreground", "Background", "Orphan", "nil"];
                causes.push(unsupported("propagationPolicy", other, &supported));
                None
            }
        };
        let orphan_dependents = value.get("orphanDependents").and_then(Value::as_bool);
        if orphan_dependents.is_some() && propagation.is_some() {
            causes.push(invalid(
                "propagationPolicy",
                &value["propagationPolicy"],
                "orphanDependents and deletionPropagation cannot be both set",
            ));
        }
        let dry_run = value.get("dryRun").and_then(Value::as_array);
        let dry_run: Vec<String> =
            dry_run.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
        causes.extend(dry_run_causes(&dry_run));
        refuse(causes)?;
        let grace_seconds = value.get("gracePeriodSeconds").and_then(Value::as_i64);
        Ok(DeleteOptions {
            // Negative means: as soon as it can be done in an orderly way.
            grace_seconds: grace_seconds.map(|it| if it < 0 { 1 } else { it }),
            uid: text(&["preconditions", "uid"]),
            resource_version: text(&["preconditions", "resourceVersion"]),
            orphan_dependents,
            propagation,
            dry_run: !dry_run.is_empty(),
            value,
        })
    }

    /// Whether the object is the one that was meant.
    pub(super) fn check(&self, target: &Target, object: &Object) -> Result<(), Status> {
        let conflict =
            |why: String| Err(Status::conflict(&target.kind.group_resource(), &target.name, &why));
        if let Some(uid) = &self.uid {
            let there = meta::uid(object.value()?);
            if uid != there {
                return conflict(format!(
                    "the UID in the precondition ({uid}) does not match the UID in record \
                     ({there}). The object might have been deleted and then recreated"
                ));
            }
        }
        if let Some(version) = &self.resource_version {
            let there = object.revision().to_string();
            if *version != there {
                return conflict(format!(
                    "the ResourceVersion in the precondition ({version}) does not match the \
                     ResourceVersion in record ({there}). The object might have been modified"
                ));
            }
        }
        Ok(())
    }
}

fn refuse(causes: Vec<crate::error::Cause>) -> Result<(), Status> {
    if causes.is_empty() {
        Ok(())
    } else {
        Err(Status::invalid(&of_meta("DeleteOptions"), "", causes))
    }
}

fn from_query(request: &Request) -> Value {
    let options = &request.options;
    let mut value = Map::new();
    value.insert("kind".into(), "DeleteOptions".into());
    value.insert("apiVersion".into(), "meta.k8s.io/v1".into());
    let mut put = |name: &str, it: Option<Value>| {
        if let Some(it) = it {
            value.insert(name.into(), it);
        }
    };
    put("gracePeriodSeconds", options.grace_period_seconds.map(Value::from));
    put("propagationPolicy", options.propagation_policy.clone().map(Value::from));
    put("orphanDependents", options.orphan_dependents.map(Value::from));
    put("dryRun", (!options.dry_run.is_empty()).then(|| json!(options.dry_run)));
    Value::Object(value)
}

/// What a delete does to an object.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    /// It is on its way already.
    Pending,
    /// It stays for a while, marked.
    Mark(Value),
    Remove,
}

/// Pure: the same object and options at the same moment come to the same end.
pub(super) fn decide(kind: &Kind, old: &Value, options: &DeleteOptions, now: Timestamp) -> Verdict {
    if kind.subresource("finalize").is_some() && !meta::is_deleting(old) {
        let mut new = old.clone();
        metadata::mark_deleting(&mut new, now, None);
        meta::set_finalizers(&mut new, &finalizers(kind, old, options));
        if let Some(prepare) = kind.hooks.prepare_delete {
            prepare(&mut new);
        }
        return Verdict::Mark(new);
    }
    if is_held_by_spec(kind, old) {
        return Verdict::Pending;
    }
    let grace = match grace(kind, old, options, now) {
        Grace::Pending => return Verdict::Pending,
        Grace::Shorter { when, seconds } => Some((when, seconds)),
        Grace::None => None,
    };
    let mut new = old.clone();
    let finalizers = finalizers(kind, old, options);
    meta::set_finalizers(&mut new, &finalizers);
    match grace {
        Some((when, seconds)) if seconds > 0 || !finalizers.is_empty() => {
            metadata::mark_deleting(&mut new, when, Some(seconds));
            Verdict::Mark(new)
        }
        None if !finalizers.is_empty() => {
            let when = meta::deletion_timestamp(old).unwrap_or(now);
            metadata::mark_deleting(&mut new, when, Some(0));
            if new == *old { Verdict::Pending } else { Verdict::Mark(new) }
        }
        Some(_) | None => Verdict::Remove,
    }
}

enum Grace {
    /// The kind knows none, or has none left.
    None,
    Shorter {
        when: Timestamp,
        seconds: i64,
    },
    /// What is asked for is not shorter than what is under way.
    Pending,
}

fn grace(kind: &Kind, old: &Value, options: &DeleteOptions, now: Timestamp) -> Grace {
    let Some(rule) = kind.hooks.grace else { return Grace::None };
    let Some(when) = meta::deletion_timestamp(old) else {
        let seconds = rule(old, options.grace_seconds);
        let seconds = if seconds < 0 { 1 } else { seconds };
        return Grace::Shorter { when: now.plus_seconds(seconds), seconds };
    };
    let under_way =
        meta::at(old, &["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64);
    match (under_way, options.grace_seconds) {
        (None, _) => Grace::None,
        (Some(under_way), Some(seconds)) if seconds < under_way => {
            Grace::Shorter { when: when.plus_seconds(seconds - under_way), seconds }
        }
        (Some(_), _) => Grace::Pending,
    }
}

/// The finalizers that the garbage collector is to have, and the object's own.
fn finalizers<'a>(kind: &Kind, old: &'a Value, options: &DeleteOptions) -> Vec<&'a str> {
    let before = meta::finalizers(old);
    let there = |name: &str| before.contains(&name);
    let policy = match (options.orphan_dependents, options.propagation) {
        (Some(true), _) => Propagation::Orphan,
        (Some(false), _) => Propagation::Background,
        (None, Some(policy)) => policy,
        (None, None) if there(ORPHAN) => Propagation::Orphan,
        (None, None) if there(FOREGROUND) => Propagation::Foreground,
        (None, None) => kind.propagation,
    };
    let own = before.iter().copied().filter(|it| *it != ORPHAN && *it != FOREGROUND);
    let added = match policy {
        Propagation::Orphan => Some(ORPHAN),
        Propagation::Foreground => Some(FOREGROUND),
        Propagation::Background => None,
    };
    let wanted: Vec<&str> = own.chain(added).collect();
    // The same ones in another order are left as they are.
    let same = wanted.len() == before.len() && wanted.iter().all(|it| before.contains(it));
    if same { before } else { wanted }
}

impl Road {
    pub(super) async fn delete(
        &self,
        who: &User,
        target: Target,
        request: Request,
    ) -> Result<Reply, Status> {
        let options = DeleteOptions::of(&request)?;
        self.delete_one(who, &target, &options).await
    }

    /// Deletes one object, with everything that is asked of a delete.
    pub(super) async fn delete_one(
        &self,
        who: &User,
        target: &Target,
        options: &DeleteOptions,
    ) -> Result<Reply, Status> {
        let write = WriteOptions::for_delete(options.dry_run, &options.value, self.clock.now());
        let mut writer = Writer { road: self, who, target, options: &write, warnings: Vec::new() };
        let mut existing = target.stored(self)?;
        let mut is_newest = false;
        for _ in 0..ATTEMPTS_MAX {
            let revision = existing.as_ref().map(Object::revision);
            let step = match &existing {
                Some(existing) => writer.delete_step(existing, options).await,
                None => Err(target.not_found()),
            };
            match step {
                Ok(Step::Done(reply)) => return Ok(reply),
                Ok(Step::Failed(status)) => return Err(status),
                Ok(Step::Outrun(now)) => {
                    existing = now;
                    is_newest = true;
                }
                Err(status) => {
                    if !is_newest {
                        self.objects.barrier().await?;
                        is_newest = true;
                        existing = target.stored(self)?;
                    }
                    if existing.as_ref().map(Object::revision) == revision {
                        return Err(status);
                    }
                }
            }
        }
        Err(Status::modified(&target.kind.group_resource(), &target.name))
    }
}

enum Step {
    Done(Reply),
    Outrun(Option<Object>),
    Failed(Status),
}

impl Writer<'_> {
    async fn delete_step(
        &mut self,
        existing: &Object,
        options: &DeleteOptions,
    ) -> Result<Step, Status> {
        let target = self.target;
        let kind = &target.kind;
        options.check(target, existing)?;
        let before = Shown::new(kind, existing.clone())?;
        let old = before.value()?;
        let mut attempt = self.attempt(Operation::Delete, Some(old));
        self.road.admission.mutate(&mut attempt).await?;
        self.road.admission.validate(&mut attempt).await?;
        let warnings = std::mem::take(&mut attempt.warnings);
        let (writes, gone, rest) = match decide(kind, old, options, self.options.now) {
            Verdict::Pending => {
                return Ok(Step::Done(Reply::object(200, before.clone(), warnings)));
            }
            Verdict::Mark(new) => {
                let stored = shown::to_stored(kind, new);
                let write = Write::put(
                    &kind.stored,
                    &target.namespace,
                    &target.name,
                    &stored,
                    existing.revision(),
                );
                (vec![write], false, object::encode(&stored))
            }
            Verdict::Remove => {
                let own = Write::delete(
                    &kind.stored,
                    &target.namespace,
                    &target.name,
                    existing.revision(),
                );
                let mut writes = vec![own];
                writes.extend(self.road.release(target, old)?);
                (writes, true, existing.at_rest().clone())
            }
        };
        let revision = if options.dry_run {
            existing.revision()
        } else {
            match self.road.objects.commit(&writes).await {
                Ok(Committed::At(revision)) => revision,
                Ok(Committed::Outrun(there)) => {
                    return Ok(Step::Outrun(there.into_iter().next().flatten()));
                }
                Err(status) => return Ok(Step::Failed(status)),
            }
        };
        let object = Object::new(existing.key().clone(), rest, revision, revision);
        if gone && !kind.returns_deleted {
            return Ok(Step::Done(Reply::value(200, success(target, old), warnings)));
        }
        let code = if !gone && options.orphan_dependents == Some(false) { 202 } else { 200 };
        Ok(Step::Done(Reply::object(code, Shown::new(kind, object)?, warnings)))
    }
}

/// What is answered for an object that is gone.
fn success(target: &Target, old: &Value) -> Value {
    let mut details = json!({
        "name": target.name, "kind": target.kind.resource.as_ref(), "uid": meta::uid(old),
    });
    if !target.kind.group.is_empty() {
        details["group"] = target.kind.group.as_ref().into();
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": details})
}
