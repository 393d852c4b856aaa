//! One change of one object that is there: read, make, admit, check, commit, and again if it moved.
//!
//! Keeps: what is committed was made from the very state that it replaces. Anything that is refused, or found
//! to change nothing, because of what this member has is looked at again with what the cluster has.
//! Never: tries a commit again whose fate is not known, or goes on trying for ever.

use futures::future::BoxFuture;
use kontiki_storage::revision::Revision;
use serde_json::Value;

use super::Road;
use super::body;
use super::fields::{self, Track};
use super::metadata;
use super::options::WriteOptions;
use super::reply::Reply;
use super::shown::{self, Shown};
use super::target::Target;
use crate::admission::{Attempt, Operation};
use crate::error::{Cause, Status};
use crate::kinds::Kind;
use crate::object::meta;
use crate::objects::{Committed, Object, Write};
use crate::request::User;
use crate::schema::causes::invalid;

/// How often a change is made anew because the object moved.
const ATTEMPTS_MAX: usize = 16;
/// How often what must be written along is made anew.
const CHARGES_MAX: usize = 8;

/// Who writes what, and how.
pub(super) struct Writer<'a> {
    pub road: &'a Road,
    pub who: &'a User,
    pub target: &'a Target,
    pub options: &'a WriteOptions,
    pub warnings: Vec<String>,
}

/// What shall be, in the version of the URL.
pub(super) struct Made {
    pub value: Value,
    pub warnings: Vec<String>,
    /// Whether and how its managedFields are still to be brought up to date.
    pub track: Track,
}

pub(super) type Make<'a> = dyn Fn(&Value) -> BoxFuture<'a, Result<Made, Status>> + Send + Sync + 'a;

/// Which part of the object may change.
#[derive(Clone, Copy)]
pub(super) enum Scope {
    /// Everything but status.
    Whole,
    Status,
    /// What a subresource of its own lets through: what it changes, and its rules.
    Part(Part),
}

#[derive(Clone, Copy)]
pub(super) struct Part {
    /// Puts back what may not change: (new, old).
    pub prepare: fn(&mut Value, &Value),
    pub check: fn(&Value, &Value) -> Vec<Cause>,
    /// A change of it is one of the spec: the generation goes up.
    pub counts: bool,
}

/// Gives a closure the type of a [`Make`].
pub(super) fn making<'a, F>(make: F) -> F
where
    F: Fn(&Value) -> BoxFuture<'a, Result<Made, Status>> + Send + Sync + 'a,
{
    make
}

pub(super) struct Edit<'a> {
    pub make: &'a Make<'a>,
    /// What is made where nothing is there yet; `None`: that is an error.
    pub create: Option<&'a (dyn Fn() -> Result<Made, Status> + Send + Sync)>,
    pub scope: Scope,
    /// Plugins are asked. Not for what the road does on its own behalf.
    pub admits: bool,
}

enum Step {
    Done(Reply),
    /// It is so already.
    Same(Shown),
    /// Somebody else was first; this is there now.
    Outrun(Option<Object>),
    /// The commit itself failed.
    Failed(Status),
}

impl Writer<'_> {
    pub(super) async fn edit(&mut self, edit: &Edit<'_>) -> Result<Reply, Status> {
        let mut is_newest = false;
        let mut existing = self.target.stored(self.road)?;
        for _ in 0..ATTEMPTS_MAX {
            let revision = existing.as_ref().map(Object::revision);
            let told = self.warnings.len();
            let step = self.step(edit, existing.clone()).await;
            match step {
                Ok(Step::Done(reply)) => return Ok(reply),
                Ok(Step::Failed(status)) => return Err(status),
                Ok(Step::Outrun(now)) => {
                    existing = now;
                    is_newest = true;
                }
                Ok(Step::Same(_)) | Err(_) => {
                    if !is_newest {
                        self.road.objects.barrier().await?;
                        is_newest = true;
                        existing = self.target.stored(self.road)?;
                    }
                    if existing.as_ref().map(Object::revision) == revision {
                        return match step? {
                            Step::Same(shown) => Ok(self.reply(200, shown)),
                            _ => Err(Status::internal("a change came to nothing")),
                        };
                    }
                }
            }
            self.warnings.truncate(told);
        }
        Err(Status::modified(&self.target.kind.group_resource(), &self.target.name))
    }

    pub(super) fn reply(&mut self, code: u16, shown: Shown) -> Reply {
        Reply::object(code, shown, std::mem::take(&mut self.warnings))
    }

    async fn step(&mut self, edit: &Edit<'_>, existing: Option<Object>) -> Result<Step, Status> {
        let target = self.target;
        let Some(existing) = existing else {
            let create = edit.create.ok_or_else(|| target.not_found())?;
            let made = create()?;
            return Ok(match self.create(made).await {
                Ok(reply) => Step::Done(reply),
                // Somebody created it meanwhile: then it can be changed.
                Err(there) if there.is(crate::error::Reason::AlreadyExists) => {
                    Step::Outrun(target.stored(self.road)?)
                }
                Err(error) => return Err(error),
            });
        };
        let before = Shown::new(&target.kind, existing)?;
        let old = before.value()?;
        let made = (edit.make)(old).await?;
        self.warnings.extend(made.warnings);
        let mut new = made.value;
        self.check_preconditions(&new, &before)?;
        metadata::place(target, &mut new)?;
        metadata::carry_over(&mut new, old);
        self.warnings.extend(metadata::unite_owners(&mut new));
        fields::track(target, self.options, made.track, Some(old), &mut new);

        let mut attempt = self.attempt(Operation::Update, Some(old));
        attempt.object = Some(new);
        let admission = &self.road.admission;
        if edit.admits {
            admission.mutate(&mut attempt).await?;
        }
        let mut new = attempt.object.take().unwrap_or_default();
        body::default(&target.kind, &mut new);
        self.prepare(edit.scope, &mut new, old);
        attempt.warnings.extend(metadata::unite_owners(&mut new));
        self.check(edit.scope, &new, old)?;
        if let Some(warn) = target.kind.hooks.warn.filter(|_| matches!(edit.scope, Scope::Whole)) {
            attempt.warnings.extend(warn(&new));
        }
        attempt.object = Some(new);
        if edit.admits {
            admission.validate(&mut attempt).await?;
        }
        self.commit(attempt, &before).await
    }

    /// An attempt with nothing in it yet.
    pub(super) fn attempt<'b>(
        &'b self,
        operation: Operation,
        old: Option<&'b Value>,
    ) -> Attempt<'b> {
        Attempt {
            user: self.who,
            operation,
            kind: &self.target.kind,
            subresource: &self.target.sub,
            namespace: &self.target.namespace,
            name: &self.target.name,
            object: None,
            old,
            options: &self.options.value,
            dry_run: self.options.dry_run,
            warnings: Vec::new(),
            annotations: Vec::new(),
            along: Vec::new(),
            held: Vec::new(),
        }
    }

    /// What the client says of the object that it means.
    fn check_preconditions(&self, new: &Value, before: &Shown) -> Result<(), Status> {
        let kind = &self.target.kind;
        let old = before.value()?;
        let uid = meta::uid(new);
        if !uid.is_empty() && uid != meta::uid(old) {
            let why = format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                meta::uid(old)
            );
            return Err(Status::conflict(&kind.group_resource(), &self.target.name, &why));
        }
        match meta::resource_version(new) {
            "" | "0" if kind.unconditional_update => Ok(()),
            "" | "0" => {
                let why = invalid(
                    "metadata.resourceVersion",
                    &0.into(),
                    "must be specified for an update",
                );
                Err(Status::invalid(&kind.group_kind(), &self.target.name, vec![why]))
            }
            said if said == before.revision().to_string() => Ok(()),
            said => match said.parse::<u64>() {
                Ok(_) => Err(Status::modified(&kind.group_resource(), &self.target.name)),
                Err(error) => {
                    let why = invalid("metadata.resourceVersion", &said.into(), &error.to_string());
                    Err(Status::invalid(&kind.group_kind(), &self.target.name, vec![why]))
                }
            },
        }
    }

    /// What the request may not change is put back, and the generation counted.
    fn prepare(&self, scope: Scope, new: &mut Value, old: &Value) {
        let kind = &self.target.kind;
        match scope {
            Scope::Whole => {
                if kind.has_status {
                    meta::copy_field(new, old, "status");
                }
                if let Some(prepare) = kind.hooks.prepare_update {
                    prepare(new, old);
                }
            }
            Scope::Status => match kind.hooks.prepare_status {
                Some(prepare) => prepare(new, old),
                None => keep_all_but_status(kind.custom, new, old),
            },
            Scope::Part(part) => (part.prepare)(new, old),
        }
        let counts = match scope {
            Scope::Whole => true,
            Scope::Status => false,
            Scope::Part(part) => part.counts,
        };
        if kind.has_generation && counts && metadata::spec_differs(new, old) {
            meta::set(new, "generation", meta::generation(old) + 1);
        }
    }

    fn check(&self, scope: Scope, new: &Value, old: &Value) -> Result<(), Status> {
        let kind = &self.target.kind;
        let hooks = &kind.hooks;
        let mut causes = metadata::check_update(new, old);
        causes.extend(body::check_schema(kind, new));
        match scope {
            Scope::Whole => {
                causes.extend(hooks.validate.map(|it| it(new)).unwrap_or_default());
                causes.extend(hooks.validate_update.map(|it| it(new, old)).unwrap_or_default());
            }
            Scope::Status => {
                causes.extend(hooks.validate_status.map(|it| it(new, old)).unwrap_or_default());
            }
            Scope::Part(part) => causes.extend((part.check)(new, old)),
        }
        if causes.is_empty() {
            Ok(())
        } else {
            Err(Status::invalid(&kind.group_kind(), &self.target.name, causes))
        }
    }

    /// Writes what the attempt holds in the place of `before`, with all that belongs to it.
    async fn commit(&self, mut attempt: Attempt<'_>, before: &Shown) -> Result<Step, Status> {
        let Target { kind, namespace, name, .. } = self.target;
        let existing = before.stored();
        let mut new = attempt.object.take().unwrap_or_default();
        let allocation = self.road.allocate(self.target, &mut new, Some(before.value()?)).await?;
        fields::keep_times(before.value()?, &mut new);
        let goes = is_last_change(kind, &new, before.value()?);
        let rest = shown::to_rest(kind, &new);
        attempt.object = Some(new);
        let unchanged = rest == *existing.at_rest();
        let written = |revision: Revision| {
            Shown::new(kind, Object::new(existing.key().clone(), rest.clone(), revision, revision))
        };
        let warnings = attempt.warnings.clone();
        let annotations = attempt.annotations.clone();
        let done = |shown| {
            let mut all = self.warnings.clone();
            all.extend(warnings.iter().cloned());
            Step::Done(Reply::object(200, shown, all).annotated(annotations.clone()))
        };
        if unchanged && !goes {
            return Ok(if warnings.is_empty() {
                Step::Same(before.clone())
            } else {
                done(before.clone())
            });
        }
        for _ in 0..CHARGES_MAX {
            self.road.admission.charge(&mut attempt).await?;
            if self.options.dry_run {
                return Ok(done(written(existing.revision())?));
            }
            let expected = existing.revision();
            let own = if goes {
                Write::delete(&kind.stored, namespace, name, expected)
            } else {
                let bytes = rest.clone();
                let write = Write::put_encoded(&kind.stored, namespace, name, bytes, expected);
                self.road.expire(kind, write).await?
            };
            let mut writes = vec![own];
            writes.extend(allocation.iter().cloned());
            writes.append(&mut attempt.along);
            match self.road.objects.commit(&writes).await {
                Ok(Committed::At(revision)) => return Ok(done(written(revision)?)),
                Ok(Committed::Outrun(there)) => {
                    let now = there.into_iter().next().flatten();
                    let is_own = now.as_ref().map(Object::revision) != Some(expected);
                    if is_own || !allocation.is_empty() {
                        return Ok(Step::Outrun(now));
                    }
                }
                Err(status) => return Ok(Step::Failed(status)),
            }
        }
        Err(Status::modified(&kind.group_resource(), name))
    }
}

/// Whether this change ends an object that is being deleted: nothing holds it any more.
fn is_last_change(kind: &Kind, new: &Value, old: &Value) -> bool {
    let grace = meta::at(old, &["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64);
    meta::is_deleting(old)
        && meta::finalizers(new).is_empty()
        && !is_held_by_spec(kind, new)
        && grace.unwrap_or(0) == 0
}

/// What has a `finalize` subresource is held by finalizers of its spec, too.
pub(super) fn is_held_by_spec(kind: &Kind, object: &Value) -> bool {
    let there = meta::at(object, &["spec", "finalizers"]).and_then(Value::as_array);
    kind.subresource("finalize").is_some() && there.is_some_and(|list| !list.is_empty())
}

/// What an update of status leaves alone, where the row does not say otherwise.
fn keep_all_but_status(custom: bool, new: &mut Value, old: &Value) {
    let status = new.get("status").cloned();
    let metadata = new.get("metadata").cloned();
    let mut kept = old.clone();
    if let Some(fields) = kept.as_object_mut() {
        match status {
            Some(status) => fields.insert("status".into(), status),
            None => fields.remove("status"),
        };
    }
    match metadata {
        Some(metadata) if custom => {
            if let Some(managed) = metadata.get("managedFields") {
                meta::set(&mut kept, "managedFields", managed.clone());
            }
        }
        Some(metadata) => kept["metadata"] = metadata,
        None => {}
    }
    meta::unset(&mut kept, "resourceVersion");
    *new = kept;
}
