//! A new object.

use super::Road;
use super::allocation;
use super::body;
use super::change::{Made, Writer};
use super::fields::{self, Track};
use super::metadata;
use super::options::WriteOptions;
use super::reply::Reply;
use super::shown::{self, Shown};
use super::target::Target;
use crate::admission::Operation;
use crate::error::{Reason, Status};
use crate::kinds::Kind;
use crate::object::meta;
use crate::objects::{Committed, Object, Write};
use crate::request::{Request, User};
use kontiki_storage::revision::Revision;

/// How many names are tried before a generated one is said to be taken.
const NAMES_MAX: usize = 8;
/// How often what must be written along is made anew.
const CHARGES_MAX: usize = 16;

impl Road {
    pub(super) async fn create(
        &self,
        who: &User,
        target: Target,
        request: Request,
    ) -> Result<Reply, Status> {
        let options = WriteOptions::read("CreateOptions", &request, self.clock.now())?;
        let decoded = body::decode(&target.kind, &request.body, options.validation)?;
        if target.kind.kind.as_ref() == "Binding" && target.kind.group.is_empty() {
            return self.bind(who, &target, &request).await;
        }
        if !is_kept(&target) {
            return self.review(who, &target, decoded).await;
        }
        let mut writer =
            Writer { road: self, who, target: &target, options: &options, warnings: Vec::new() };
        let body::Decoded { value, warnings } = decoded;
        writer.create(Made { value, warnings, track: Track::Update }).await
    }

    /// What is asked and never stored.
    async fn review(
        &self,
        who: &User,
        target: &Target,
        decoded: body::Decoded,
    ) -> Result<Reply, Status> {
        let body::Decoded { mut value, warnings } = decoded;
        metadata::place(target, &mut value)?;
        let answered = self.reviewer.review(who, &target.kind, &target.namespace, value).await?;
        Ok(Reply::value(201, answered, warnings))
    }
}

impl Road {
    /// Objects of some kinds go by themselves.
    pub(super) async fn expire(&self, kind: &Kind, write: Write) -> Result<Write, Status> {
        match kind.hooks.expires_after_seconds {
            Some(seconds) => Ok(write.with_lease(self.objects.expiring(seconds).await?)),
            None => Ok(write),
        }
    }
}

/// Kinds that can be created and nothing else are questions.
fn is_kept(target: &Target) -> bool {
    let verbs = target.kind.verbs;
    verbs.get || verbs.list || verbs.delete
}

impl Writer<'_> {
    /// Creates what was made, under its own name or a generated one.
    pub(super) async fn create(&mut self, made: Made) -> Result<Reply, Status> {
        let target = self.target;
        let kind = &target.kind;
        self.warnings.extend(made.warnings);
        let mut object = made.value;
        metadata::place(target, &mut object)?;
        self.warnings.extend(metadata::unite_owners(&mut object));
        if !matches!(meta::resource_version(&object), "" | "0") {
            return Err(Status::new(
                Reason::Unknown,
                "resourceVersion should not be set on objects to be created",
            ));
        }
        fields::track(target, self.options, made.track, None, &mut object);

        let named = Target { name: meta::name(&object).to_owned(), ..target.clone() };
        let warned = std::mem::take(&mut self.warnings);
        let inner = Writer {
            road: self.road,
            who: self.who,
            target: &named,
            options: self.options,
            warnings: Vec::new(),
        };
        let mut attempt = inner.attempt(Operation::Create, None);
        attempt.warnings = warned;
        attempt.object = Some(object);
        let admission = &self.road.admission;
        admission.mutate(&mut attempt).await?;
        let mut object = attempt.object.take().unwrap_or_default();
        attempt.warnings.extend(metadata::unite_owners(&mut object));
        body::default(kind, &mut object);
        metadata::begin(kind, &mut object, self.options.now);
        if kind.has_status
            && !kind.hooks.keeps_status
            && let Some(fields) = object.as_object_mut()
        {
            fields.remove("status");
        }
        if let Some(prepare) = kind.hooks.prepare_create {
            prepare(&mut object);
        }
        let generated = meta::name(&object).is_empty();
        let base = meta::text(&object, &["metadata", "generateName"]).to_owned();
        for tried in 1.. {
            if generated && !base.is_empty() {
                meta::set(&mut object, "name", metadata::generate_name(&base));
            }
            if tried == 1 {
                let mut causes = metadata::check(kind, &object);
                causes.extend(body::check_schema(kind, &object));
                for rules in [kind.hooks.validate, kind.hooks.validate_create] {
                    causes.extend(rules.map(|it| it(&object)).unwrap_or_default());
                }
                if !causes.is_empty() {
                    let name = meta::name(&object);
                    return Err(Status::invalid(&kind.group_kind(), name, causes));
                }
                attempt.warnings.extend(kind.hooks.warn.map(|it| it(&object)).unwrap_or_default());
            }
            // Only a name that was made up is tried again.
            attempt.object =
                Some(if generated { object.clone() } else { std::mem::take(&mut object) });
            if tried == 1 {
                admission.validate(&mut attempt).await?;
            }
            let taken = match inner.insert(&mut attempt).await? {
                Inserted::Done(shown) => {
                    let reply = Reply::object(201, shown, attempt.warnings);
                    return Ok(reply.annotated(attempt.annotations));
                }
                Inserted::Taken(status) => status,
            };
            if !generated || tried == NAMES_MAX {
                return Err(if generated { taken.with_retry_after(1) } else { taken });
            }
        }
        Err(Status::internal("no name was found"))
    }

    /// Commits what the attempt holds as a new object.
    async fn insert(
        &self,
        attempt: &mut crate::admission::Attempt<'_>,
    ) -> Result<Inserted, Status> {
        let Target { kind, namespace, .. } = self.target;
        let mut object = attempt.object.take().unwrap_or_default();
        let name = meta::name(&object).to_owned();
        let target = Target { name: name.clone(), ..self.target.clone() };
        for _ in 0..CHARGES_MAX {
            // What is allocated this time is not asked for the next time.
            let bare = allocation::concerns(kind).then(|| object.clone());
            let allocation = self.road.allocate(&target, &mut object, None).await?;
            attempt.object = Some(object);
            self.road.admission.charge(attempt).await?;
            let charged = attempt.object.take().unwrap_or_default();
            let rest = shown::to_rest(kind, &charged);
            object = bare.unwrap_or(charged);
            if self.options.dry_run {
                if target.stored(self.road)?.is_some() {
                    let resource = kind.group_resource();
                    return Ok(Inserted::Taken(Status::already_exists(&resource, &name)));
                }
                let shown = Object::new(target.key(), rest, Revision::ZERO, Revision::ZERO);
                return Ok(Inserted::Done(Shown::new(kind, shown)?));
            }
            let bytes = rest.clone();
            let write = Write::put_encoded(&kind.stored, namespace, &name, bytes, Revision::ZERO);
            let mut writes = vec![self.road.expire(kind, write).await?];
            writes.extend(allocation);
            writes.append(&mut attempt.along);
            match self.road.objects.commit(&writes).await? {
                Committed::At(revision) => {
                    let object = Object::new(target.key(), rest, revision, revision);
                    return Ok(Inserted::Done(Shown::new(kind, object)?));
                }
                Committed::Outrun(there) if there.first().is_some_and(Option::is_some) => {
                    let resource = kind.group_resource();
                    return Ok(Inserted::Taken(Status::already_exists(&resource, &name)));
                }
                Committed::Outrun(_) => {}
            }
        }
        Err(Status::too_many_requests(
            format!(
                "what has to be written with {} \"{name}\" keeps changing",
                kind.group_resource()
            ),
            1,
        ))
    }
}

enum Inserted {
    Done(Shown),
    Taken(Status),
}
