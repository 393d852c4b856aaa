//! Who asked for what and what came of it, written down (`audit.k8s.io/v1`).
//!
//! `http` begins a [`Record`] when it knows who asks, tells it what it learns, and drops it at the end of the
//! answer. Keeps: a record that was begun ends with `ResponseComplete` or `Panic`, however the request ends.
//! Never: decides anything about a request.

mod log;
mod policy;

use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use serde_json::{Map, Value, json};

use crate::auth::{Attributes, Decision};
use crate::codec;
use crate::object::time::{Clock, Timestamp};
use crate::request::{Body, User};

pub use log::Place;
pub use policy::{Level, Policy, Stage};

use policy::Choice;

/// What is written, and where to.
pub struct Audit {
    policy: Policy,
    log: log::Log,
    clock: Clock,
    /// Events that were written.
    pub written: Counter,
    /// Events that could not be.
    pub failed: Counter,
}

/// What is known of a request before it is carried out.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    pub id: &'a str,
    /// Path and query, as they were sent.
    pub uri: &'a str,
    pub user_agent: &'a str,
    pub addresses: &'a [String],
    /// Of the real user, not of one whose name is used.
    pub attributes: &'a Attributes<'a>,
}

impl Audit {
    pub fn open(policy: Policy, place: Place, clock: Clock) -> std::io::Result<Audit> {
        let log = log::Log::open(place, clock.clone())?;
        Ok(Audit { policy, log, clock, written: Counter::default(), failed: Counter::default() })
    }

    /// Begins the record of a request, if the policy wants any of it.
    #[must_use]
    pub fn begin(self: &Arc<Audit>, facts: &Facts<'_>) -> Option<Record> {
        let choice = self.policy.choose(facts.attributes);
        (choice.level > Level::None)
            .then(|| Record::new(self.clone(), choice, facts, self.clock.now()))
    }

    fn write(&self, event: &Map<String, Value>) {
        let line = serde_json::to_string(event).expect("an event is plain data");
        match self.log.write(&line) {
            Ok(()) => {
                self.written.inc();
            }
            Err(error) => {
                // Once: a full disk would fill the other log, too.
                if self.failed.inc() == 0 {
                    tracing::error!(%error, "the audit log cannot be written");
                }
            }
        }
    }
}

impl std::fmt::Debug for Audit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Audit").field("policy", &self.policy).finish_non_exhaustive()
    }
}

/// One request under way.
pub struct Record {
    audit: Arc<Audit>,
    choice: Choice,
    event: Map<String, Value>,
}

impl Record {
    fn new(audit: Arc<Audit>, choice: Choice, facts: &Facts<'_>, now: Timestamp) -> Record {
        let mut event = Map::new();
        let mut put = |field: &str, value: Value| event.insert(field.into(), value);
        put("kind", "Event".into());
        put("apiVersion", "audit.k8s.io/v1".into());
        put("level", choice.level.name().into());
        put("auditID", facts.id.into());
        put("stage", Value::Null);
        put("requestURI", facts.uri.into());
        put("verb", facts.attributes.verb.into());
        put("user", told(facts.attributes.user));
        if !facts.addresses.is_empty() {
            put("sourceIPs", json!(facts.addresses));
        }
        if !facts.user_agent.is_empty() {
            put("userAgent", facts.user_agent.into());
        }
        if facts.attributes.is_resource() {
            put("objectRef", reference(facts.attributes));
        }
        put("requestReceivedTimestamp", now.rfc3339_micros().into());
        Record { audit, choice, event }
    }

    /// The request is made in another's name.
    pub fn impersonates(&mut self, user: &User) {
        self.event.insert("impersonatedUser".into(), told(user));
    }

    /// Writes what is known by now.
    pub fn stage(&mut self, stage: Stage) {
        if self.choice.omit_stages.contains(&stage) {
            return;
        }
        let now = self.audit.clock.now();
        self.event.insert("stage".into(), stage.name().into());
        self.event.insert("stageTimestamp".into(), now.rfc3339_micros().into());
        self.audit.write(&self.event);
    }

    /// Kept with the event. The first who says something is right.
    pub fn annotate(&mut self, key: &str, value: &str) {
        let all = self.event.entry("annotations").or_insert_with(|| json!({}));
        if let Some(all) = all.as_object_mut().filter(|all| !all.contains_key(key)) {
            all.insert(key.to_owned(), value.into());
        }
    }

    /// Why the request is let through or not.
    pub fn decided(&mut self, decision: &Decision) {
        let (word, why) = match decision {
            Decision::Allow(why) => ("allow", why),
            Decision::Deny(why) | Decision::NoOpinion(why) => ("forbid", why),
        };
        self.annotate("authorization.k8s.io/decision", word);
        self.annotate("authorization.k8s.io/reason", why);
    }

    /// What the client sent.
    pub fn request(&mut self, body: &Body) {
        let Some(object) = read(body) else { return };
        // A create knows only now what it is about.
        if let Some(Value::Object(reference)) = self.event.get_mut("objectRef") {
            for field in ["name", "namespace", "uid", "resourceVersion"] {
                let said = object["metadata"][field].as_str().filter(|it| !it.is_empty());
                if let Some(said) = said.filter(|_| !reference.contains_key(field)) {
                    reference.insert(field.into(), said.into());
                }
            }
        }
        if self.choice.level >= Level::Request {
            let object = self.shown(object);
            self.event.insert("requestObject".into(), object);
        }
    }

    /// Whether the answer's body is of use here.
    #[must_use]
    pub fn wants_answer(&self, code: u16) -> bool {
        self.choice.level >= Level::RequestResponse || code >= 400
    }

    /// What it came to. `body` is there where it is known as a whole.
    pub fn answered(&mut self, code: u16, body: Option<&[u8]>) {
        let object = body.and_then(parse);
        let mut status = Map::from_iter([("metadata".to_owned(), json!({}))]);
        let told = object.as_ref().filter(|it| it["kind"] == "Status");
        for field in ["status", "message", "reason", "details"] {
            if let Some(value) = told.and_then(|told| told.get(field)) {
                status.insert(field.into(), value.clone());
            }
        }
        status.insert("code".into(), code.into());
        self.event.insert("responseStatus".into(), status.into());
        if self.choice.level >= Level::RequestResponse
            && let Some(object) = object
        {
            let object = self.shown(object);
            self.event.insert("responseObject".into(), object);
        }
    }

    fn shown(&self, mut object: Value) -> Value {
        if self.choice.omit_managed_fields {
            let forget = |object: &mut Value| {
                if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
                    metadata.remove("managedFields");
                }
            };
            forget(&mut object);
            if let Some(items) = object.get_mut("items").and_then(Value::as_array_mut) {
                items.iter_mut().for_each(forget);
            }
        }
        object
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let panics = std::thread::panicking();
        if panics {
            self.answered(500, None);
        }
        self.stage(if panics { Stage::Panic } else { Stage::ResponseComplete });
    }
}

fn told(user: &User) -> Value {
    let mut told = Map::from_iter([("username".to_owned(), user.name.as_str().into())]);
    if !user.uid.is_empty() {
        told.insert("uid".into(), user.uid.as_str().into());
    }
    if !user.groups.is_empty() {
        told.insert("groups".into(), json!(user.groups));
    }
    if !user.extra.is_empty() {
        let extra: Map<String, Value> =
            user.extra.iter().map(|(key, values)| (key.clone(), json!(values))).collect();
        told.insert("extra".into(), extra.into());
    }
    told.into()
}

fn reference(of: &Attributes<'_>) -> Value {
    let fields = [
        ("resource", of.resource),
        ("namespace", of.namespace),
        ("name", of.name),
        ("apiGroup", of.group),
        ("apiVersion", of.version),
        ("subresource", of.subresource),
    ];
    let said = fields.into_iter().filter(|(_, value)| !value.is_empty());
    said.map(|(field, value)| (field.to_owned(), Value::from(value))).collect::<Map<_, _>>().into()
}

/// The body as a value, whatever it is written in.
fn read(body: &Body) -> Option<Value> {
    match body {
        Body::None => None,
        Body::Object(value) => Some(value.clone()),
        Body::Bytes { bytes, .. } => parse(bytes).or_else(|| serde_saphyr::from_slice(bytes).ok()),
    }
}

fn parse(bytes: &[u8]) -> Option<Value> {
    if codec::is_enveloped(bytes) {
        return codec::decode(bytes, None).ok().map(|decoded| decoded.value);
    }
    serde_json::from_slice(bytes).ok()
}
