//! The Watch service: many watches over one stream.
//!
//! [`session`] is one stream: what its client asks for, and what it is told, in one order. [`watches`]
//! holds its watches, [`bells`] says which of them has something to tell. [`fragment`] splits what is too
//! large.
//!
//! Keeps: `created` comes before anything else of a watch; events in order, once, and the events of one
//! revision in one response unless it is split; a progress response never overtakes an event.
//! Keeps: what each event looks like on the wire is worked out once, however many watch it.
//! Never: holds more than one response that was not sent. Whoever does not read costs nothing but a place
//! in the store's own ring (`docs/watch.md`).

mod bells;
mod fragment;
mod session;
mod watches;

use std::pin::Pin;

use futures::stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::front::{Front, Service};
use super::leaderless::Led;
use super::wire::etcdserverpb as pb;
use super::wire::etcdserverpb::watch_server::Watch;
use session::Session;

#[derive(Clone)]
pub(crate) struct WatchService(pub(crate) Front);

#[tonic::async_trait]
impl Watch for WatchService {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<pb::WatchResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<Streaming<pb::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let caller = self.0.enter(&request, Service::Voters)?;
        let led = Led::of(&self.0, request.metadata());
        let session = Session::new(self.0.clone(), caller, led, request.into_inner());
        Ok(Response::new(Box::pin(session.run())))
    }
}
