//! `scale`: how many there should be, of whatever can be counted, in one form for all.

use std::sync::Arc;

use serde_json::{Value, json};

use super::super::Road;
use super::super::body;
use super::super::change::{Edit, Made, Part, Scope, Writer, making};
use super::super::fields::Track;
use super::super::options::WriteOptions;
use super::super::patch::{Patch, check_options};
use super::super::reply::{Answer, Reply};
use super::super::target::{Target, unknown_path};
use super::parts::not_negative;
use crate::admission::Operation;
use crate::client::PatchKind;
use crate::error::Status;
use crate::kinds::kind::ScalePaths;
use crate::object::selector::Labels;
use crate::object::{GroupKind, meta};
use crate::request::{Request, User, Verb};

const PART: Part = Part { prepare: |_, _| {}, check: |_, _| Vec::new(), counts: true };

/// The value at a path such as `.spec.replicas`.
fn at<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').filter(|it| !it.is_empty()).try_fold(object, |value, name| value.get(name))
}

fn set(object: &mut Value, path: &str, to: Value) {
    let mut place = object;
    for name in path.split('.').filter(|it| !it.is_empty()) {
        if !place.is_object() {
            *place = json!({});
        }
        place = &mut place[name];
    }
    *place = to;
}

/// The Scale of an object.
fn scale_of(paths: &ScalePaths, object: &Value) -> Value {
    let replicas = |path: &str| at(object, path).and_then(Value::as_i64).unwrap_or(0);
    let mut metadata = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(there) = meta::at(object, &["metadata", field]) {
            metadata[field] = there.clone();
        }
    }
    let mut status = json!({"replicas": replicas(&paths.status_replicas)});
    let selector = paths.selector.as_deref().and_then(|path| at(object, path));
    let selector = match selector {
        Some(Value::String(text)) => text.clone(),
        Some(map) if map.get("matchLabels").is_some() || map.get("matchExpressions").is_some() => {
            let read = Labels::from_object(Some(map)).ok().flatten();
            read.map(|it| it.to_string()).unwrap_or_default()
        }
        Some(map) => Labels::from_map(Some(map)).to_string(),
        None => String::new(),
    };
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    let wanted = replicas(&paths.spec_replicas);
    let spec = if wanted == 0 { json!({}) } else { json!({"replicas": wanted}) };
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
        "spec": spec, "status": status})
}

fn scale_kind() -> GroupKind {
    GroupKind { group: "autoscaling".into(), kind: "Scale".into() }
}

/// What the client wants, made of the Scale that is there.
enum Wish {
    Put(Value),
    Patch(Patch),
}

impl Road {
    pub(super) async fn scale(
        &self,
        who: &User,
        target: Target,
        request: Request,
    ) -> Result<Reply, Status> {
        let paths = target.kind.scale.clone().ok_or_else(unknown_path)?;
        let (wish, kind) = match request.verb {
            Verb::Get => {
                let reply = self.get(&target, &request).await?;
                return shown(&paths, reply);
            }
            Verb::Update => {
                let value = body::SCALE.decode(&request.body)?;
                if meta::name(&value) != target.name {
                    return Err(Status::bad_request(format!(
                        "the name of the object ({}) does not match the name on the URL ({})",
                        meta::name(&value),
                        target.name
                    )));
                }
                (Wish::Put(value), "UpdateOptions")
            }
            _ => {
                let patch = Patch::read(&target, &request)?;
                check_options(patch.kind, &request)?;
                (Wish::Patch(patch), "PatchOptions")
            }
        };
        let options = WriteOptions::read(kind, &request, self.clock.now())?;
        let mut writer =
            Writer { road: self, who, target: &target, options: &options, warnings: Vec::new() };
        let rescale = Rescale {
            road: self,
            who,
            target: &target,
            options: &options,
            paths: &paths,
            wish: Arc::new(wish),
        };
        let make = making(move |old| {
            let (rescale, old) = (rescale.clone(), old.clone());
            Box::pin(async move { rescale.of(&old).await })
        });
        let edit = Edit { make: &make, create: None, scope: Scope::Part(PART), admits: false };
        let reply = writer.edit(&edit).await?;
        shown(&paths, reply)
    }
}

/// How the object is made that has the scale that is wished for.
#[derive(Clone)]
struct Rescale<'a> {
    road: &'a Road,
    who: &'a User,
    target: &'a Target,
    options: &'a WriteOptions,
    paths: &'a ScalePaths,
    wish: Arc<Wish>,
}

impl Rescale<'_> {
    async fn of(&self, old: &Value) -> Result<Made, Status> {
        let Rescale { road, who, target, options, paths, wish } = self;
        let before = scale_of(paths, old);
        let scale = wish.on(&before)?;
        let asking = Writer { road, who, target, options, warnings: Vec::new() };
        let mut attempt = asking.attempt(Operation::Update, Some(&before));
        attempt.object = Some(scale);
        road.admission.mutate(&mut attempt).await?;
        let scale = attempt.object.clone().unwrap_or_default();
        check(target, &scale)?;
        road.admission.validate(&mut attempt).await?;
        let mut value = old.clone();
        let replicas = at(&scale, "spec.replicas").and_then(Value::as_i64).unwrap_or(0);
        set(&mut value, &paths.spec_replicas, replicas.into());
        meta::set(&mut value, "uid", meta::uid(&scale));
        let said = meta::resource_version(&scale);
        if !said.is_empty() {
            meta::set(&mut value, "resourceVersion", said);
        }
        let warnings = std::mem::take(&mut attempt.warnings);
        Ok(Made { value, warnings, track: Track::Update })
    }
}

impl Wish {
    /// The Scale that is wanted in the place of the one that is there.
    fn on(&self, before: &Value) -> Result<Value, Status> {
        match self {
            Wish::Put(value) => Ok(value.clone()),
            // Its one field has one owner: what is applied is what is wanted.
            Wish::Patch(patch) if patch.kind == PatchKind::Apply => {
                Ok(crate::merge::merge(before.clone(), patch.value()))
            }
            Wish::Patch(patch) => patch.on(&body::SCALE.schema(), before),
        }
    }
}

fn check(target: &Target, scale: &Value) -> Result<(), Status> {
    let replicas = match at(scale, "spec.replicas") {
        None | Some(Value::Null) => 0,
        Some(number) => number.as_i64().ok_or_else(|| {
            Status::bad_request(format!(
                "Scale in version \"v1\" cannot be handled as a Scale: spec.replicas is {number}"
            ))
        })?,
    };
    match not_negative("spec.replicas", replicas) {
        Some(cause) => Err(Status::invalid(&scale_kind(), &target.name, vec![cause])),
        None => Ok(()),
    }
}

fn shown(paths: &ScalePaths, reply: Reply) -> Result<Reply, Status> {
    let Reply { code, answer, warnings, .. } = reply;
    let Answer::Object(shown) = answer else {
        return Err(Status::internal("a scale was asked of what is no object"));
    };
    Ok(Reply::value(code, scale_of(paths, shown.value()?), warnings))
}
