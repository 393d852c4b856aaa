//! The road as a client's transport, for who is in the same process: no bytes over a wire, the same answers,
//! and the same is written down of them.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream;
use serde_json::Value;

use super::permit::asking;
use super::reply::{Answer, Reply};
use super::watch::{Event, Watch, bookmark};
use super::{Road, connect};
use crate::audit::{Facts, Record, Stage};
use crate::client::https::path;
use crate::client::{self, Events, Served, Transport};
use crate::error::Status;
use crate::request::{Request, User};

/// The road under one identity.
pub(super) struct InProcess {
    road: Arc<Road>,
    who: User,
}

impl InProcess {
    pub(super) fn new(road: Arc<Road>, who: User) -> InProcess {
        InProcess { road, who }
    }
}

impl InProcess {
    /// Begins the record of a request, where there is an audit log that wants it.
    fn begin(&self, request: &Request) -> Option<Record> {
        let audit = self.road.audit.as_ref()?;
        let (id, uri) = (uuid::Uuid::new_v4().to_string(), path(request));
        let mut record = asking(&self.who, request, request.verb.name(), |attributes| {
            let user_agent = &request.options.user_agent;
            let facts = Facts { id: &id, uri: &uri, user_agent, addresses: &[], attributes };
            let mut record = audit.begin(&facts)?;
            record.stage(Stage::RequestReceived);
            record.decided(&self.road.authorizer.decide(attributes));
            Some(record)
        })?;
        record.request(&request.body);
        Some(record)
    }
}

fn refused(record: &mut Record, status: &Status) {
    record.answered(status.code(), Some(status.to_json().to_string().as_bytes()));
}

impl Transport for InProcess {
    fn call(&self, request: Request) -> BoxFuture<'static, Result<Bytes, Status>> {
        let mut record = self.begin(&request);
        let (road, who) = (self.road.clone(), self.who.clone());
        Box::pin(async move {
            let answered = carry_out(&road, &who, request, record.as_mut()).await;
            if let (Some(record), Err(status)) = (&mut record, &answered) {
                refused(record, status);
            }
            answered
        })
    }

    fn watch(&self, request: Request) -> BoxFuture<'static, Result<Events, Status>> {
        let mut record = self.begin(&request);
        let (road, who) = (self.road.clone(), self.who.clone());
        Box::pin(async move {
            let watch = match road.watch(&who, request).await {
                Ok(watch) => watch,
                Err(status) => {
                    record.iter_mut().for_each(|record| refused(record, &status));
                    return Err(status);
                }
            };
            if let Some(record) = &mut record {
                record.answered(200, None);
                record.stage(Stage::ResponseStarted);
            }
            // The record ends with the watch.
            let begun = (watch, record);
            let events: Events = Box::pin(stream::unfold(begun, |(mut watch, record)| async {
                let event = watch.next().await?;
                let event = event.and_then(|event| told(&watch, &event));
                Some((event, (watch, record)))
            }));
            Ok(events)
        })
    }

    fn resources(&self) -> BoxFuture<'static, Result<Vec<Served>, Status>> {
        let snapshot = self.road.registry.snapshot();
        let mut served = Vec::new();
        for group in snapshot.groups() {
            for (number, version) in group.versions.iter().enumerate() {
                served.extend(version.kinds.iter().map(|kind| Served {
                    resource: kind.gvr(),
                    kind: kind.kind.to_string(),
                    namespaced: kind.namespaced,
                    verbs: kind.verbs.names().into_iter().map(str::to_owned).collect(),
                    preferred: number == 0,
                }));
            }
        }
        Box::pin(async move { Ok(served) })
    }
}

async fn carry_out(
    road: &Road,
    who: &User,
    request: Request,
    record: Option<&mut Record>,
) -> Result<Bytes, Status> {
    if connect::connects(&request) {
        return Err(Status::bad_request("a connection to a node is opened over HTTP"));
    }
    let Reply { code, answer, annotations, .. } = road.call(who, request).await?;
    let bytes = match answer {
        Answer::Object(shown) => shown.json()?,
        Answer::Value(value) => text(&value),
        Answer::List(listing) => listing.json()?,
    };
    if let Some(record) = record {
        for (key, value) in &annotations {
            record.annotate(key, value);
        }
        let shown = record.wants_answer(code).then_some(&bytes[..]);
        record.answered(code, shown);
    }
    Ok(bytes)
}

fn told(watch: &Watch, event: &Event) -> Result<client::Event, Status> {
    Ok(match event {
        Event::Object { kind, shown, .. } => client::Event { kind: *kind, object: shown.json()? },
        Event::Bookmark { revision, initial } => client::Event {
            kind: client::EventKind::Bookmark,
            object: text(&bookmark(watch.kind(), *revision, *initial)),
        },
    })
}

fn text(value: &Value) -> Bytes {
    serde_json::to_vec(value).expect("values of JSON can be written as JSON").into()
}
