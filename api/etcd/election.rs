//! etcd's Election service: one leader per name, as a [`Queue`] whose first leads.

use std::pin::Pin;

use bytes::Bytes;
use futures::stream::{self, Stream};
use kontiki_storage::LeaseId;
use kontiki_storage::record::{EventKind, KeyValue};
use kontiki_storage::revision::Revision;
use kontiki_storage::watch::{Cut, Watcher};
use tonic::{Request, Response, Status};

use super::front::{Caller, Front, Service};
use super::leaderless::Led;
use super::queue::{Place, Queue};
use super::wire::v3electionpb as pb;
use super::wire::v3electionpb::election_server::Election;
use super::{status, translate};

#[derive(Clone)]
pub(crate) struct ElectionService(pub(crate) Front);

#[tonic::async_trait]
impl Election for ElectionService {
    type ObserveStream = Pin<Box<dyn Stream<Item = Result<pb::LeaderResponse, Status>> + Send>>;

    async fn campaign(
        &self,
        request: Request<pb::CampaignRequest>,
    ) -> Result<Response<pb::CampaignResponse>, Status> {
        let caller = self.0.enter(&request, Service::Voters)?;
        let pb::CampaignRequest { name, lease, value } = request.into_inner();
        let queue = Queue::new(self.0.clone(), caller, &name)?;
        let lease = queue.lease(lease).await?;
        let place = queue.enter(lease, value.clone()).await?;
        if place.found.as_ref().is_some_and(|found| *found != value) {
            queue.announce(&place, value).await?.ok_or_else(not_leader)?;
        }
        queue.wait(&place).await?;
        let leader =
            pb::LeaderKey { name, key: place.key, rev: signed(place.created), lease: lease.0 };
        let header = Some(self.0.header_at(place.revision));
        Ok(Response::new(pb::CampaignResponse { header, leader: Some(leader) }))
    }

    async fn proclaim(
        &self,
        request: Request<pb::ProclaimRequest>,
    ) -> Result<Response<pb::ProclaimResponse>, Status> {
        let caller = self.0.enter(&request, Service::Voters)?;
        let pb::ProclaimRequest { leader, value } = request.into_inner();
        let (queue, place) = self.held(caller, leader)?;
        let revision = queue.announce(&place, value).await?.ok_or_else(not_leader)?;
        let header = Some(self.0.header_at(revision));
        Ok(Response::new(pb::ProclaimResponse { header }))
    }

    async fn leader(
        &self,
        request: Request<pb::LeaderRequest>,
    ) -> Result<Response<pb::LeaderResponse>, Status> {
        let caller = self.0.enter(&request, Service::Voters)?;
        let queue = Queue::new(self.0.clone(), caller, &request.into_inner().name)?;
        let (first, revision) = queue.first().await?;
        let first = first.ok_or_else(|| Status::unknown("election: no leader"))?;
        Ok(Response::new(self.response(first, revision)))
    }

    async fn observe(
        &self,
        request: Request<pb::LeaderRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        let caller = self.0.enter(&request, Service::Voters)?;
        let led = Led::of(&self.0, request.metadata());
        let queue = Queue::new(self.0.clone(), caller, &request.into_inner().name)?;
        // Whoever may not look is told so at once, not by a stream that breaks.
        queue.first().await?;
        let observer = Observer { service: self.clone(), queue, following: None };
        Ok(Response::new(Box::pin(stream::try_unfold(
            (observer, led),
            |(mut observer, led)| async move {
                tokio::select! {
                    next = observer.next() => Ok(Some((next?, (observer, led)))),
                    lost = led.lost() => Err(lost),
                }
            },
        ))))
    }

    async fn resign(
        &self,
        request: Request<pb::ResignRequest>,
    ) -> Result<Response<pb::ResignResponse>, Status> {
        let caller = self.0.enter(&request, Service::Voters)?;
        let (queue, place) = self.held(caller, request.into_inner().leader)?;
        let revision = queue.leave(&place).await?;
        let header = Some(self.0.header_at(revision));
        Ok(Response::new(pb::ResignResponse { header }))
    }
}

impl ElectionService {
    /// What a leader's key stands for.
    fn held(
        &self,
        caller: Caller,
        leader: Option<pb::LeaderKey>,
    ) -> Result<(Queue, Place), Status> {
        let missing = || Status::unknown("\"leader\" field must be provided");
        let pb::LeaderKey { name, key, rev, lease } = leader.ok_or_else(missing)?;
        if key.is_empty() {
            return Err(status::empty_key());
        }
        let created = translate::revision(rev);
        let place = Place { key, created, lease: LeaseId(lease), revision: created, found: None };
        Ok((Queue::new(self.0.clone(), caller, &name)?, place))
    }

    fn response(&self, kv: KeyValue, revision: Revision) -> pb::LeaderResponse {
        let header = Some(self.0.header_at(revision));
        pb::LeaderResponse { header, kv: Some(translate::key_value(kv)) }
    }
}

fn not_leader() -> Status {
    Status::unknown("election: not leader")
}

fn signed(revision: Revision) -> i64 {
    translate::signed(revision.0)
}

/// The leaders of one name as they come. Not every announcement is seen, but the newest always is.
struct Observer {
    service: ElectionService,
    queue: Queue,
    /// The present leader's key.
    following: Option<Watcher>,
}

impl Observer {
    async fn next(&mut self) -> Result<pb::LeaderResponse, Status> {
        loop {
            let Some(watcher) = &mut self.following else {
                let (first, revision) = self.queue.first().await?;
                match first {
                    Some(leader) => {
                        let key: Bytes = leader.key.clone();
                        self.following = Some(self.queue.follow(key, revision.next()));
                        return Ok(self.service.response(leader, revision));
                    }
                    None => self.queue.wait_for_anyone(revision.next()).await?,
                }
                continue;
            };
            match watcher.next().await {
                Ok(delivery) => {
                    // The newest announcement of this delivery, unless the key ended after it.
                    match delivery.events.last() {
                        Some(event) if event.kind == EventKind::Put => {
                            // By the rights of now; whoever lost them is told so here.
                            self.queue.may_read(&event.kv.key)?;
                            let kv = event.kv.clone();
                            return Ok(self.service.response(kv, delivery.revision));
                        }
                        _ => self.following = None,
                    }
                }
                Err(Cut::Compacted { .. } | Cut::TooOld { .. }) => self.following = None,
                Err(Cut::Closed) => return Err(status::stopped()),
                Err(Cut::Failed(error)) => return Err(status::of_store(error)),
            }
        }
    }
}
