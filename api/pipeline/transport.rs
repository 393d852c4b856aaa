//! The road as a client's transport, for who is in the same process: no bytes over a wire, the same answers.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream;
use serde_json::Value;

use super::reply::{Answer, Reply};
use super::watch::{Event, Watch, bookmark};
use super::{Road, connect};
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

impl Transport for InProcess {
    fn call(&self, request: Request) -> BoxFuture<'static, Result<Bytes, Status>> {
        let (road, who) = (self.road.clone(), self.who.clone());
        Box::pin(async move {
            if connect::connects(&request) {
                return Err(Status::bad_request("a connection to a node is opened over HTTP"));
            }
            let Reply { answer, .. } = road.call(&who, request).await?;
            match answer {
                Answer::Object(shown) => shown.json(),
                Answer::Value(value) => Ok(text(&value)),
                Answer::List(listing) => listing.json(),
            }
        })
    }

    fn watch(&self, request: Request) -> BoxFuture<'static, Result<Events, Status>> {
        let (road, who) = (self.road.clone(), self.who.clone());
        Box::pin(async move {
            let watch = road.watch(&who, request).await?;
            let events: Events = Box::pin(stream::unfold(watch, |mut watch| async {
                let event = watch.next().await?;
                let event = event.and_then(|event| told(&watch, &event));
                Some((event, watch))
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
