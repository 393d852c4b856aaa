//! The Lease service.
//!
//! Keeps: keep-alives and remaining times come from whoever leads (the replica asks it); granting and
//! revoking go through the log.
//! Keeps: who may not write what hangs on a lease may neither end it nor keep it alive.

use std::pin::Pin;

use futures::stream::{self, Stream};
use kontiki_storage::LeaseId;
use kontiki_storage::request::Command;
use tonic::{Request, Response, Status, Streaming};

use super::auth::rules::{self, Who};
use super::front::{Caller, Front, Service};
use super::leaderless::Led;
use super::status;
use super::wire::etcdserverpb as pb;
use super::wire::etcdserverpb::lease_server::Lease;

#[derive(Clone)]
pub(crate) struct LeaseService(pub(crate) Front);

type KeptAlive = Result<pb::LeaseKeepAliveResponse, Status>;

#[tonic::async_trait]
impl Lease for LeaseService {
    type LeaseKeepAliveStream = Pin<Box<dyn Stream<Item = KeptAlive> + Send>>;

    async fn lease_grant(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        let caller = self.0.enter(&request, Service::Voters)?;
        let pb::LeaseGrantRequest { ttl, id } = request.into_inner();
        let granted = self.0.grant(&caller, LeaseId(id), ttl).await?;
        Ok(Response::new(pb::LeaseGrantResponse {
            header: Some(self.0.header()),
            id: granted.id.0,
            ttl: granted.ttl_s,
            error: String::new(),
        }))
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        let caller = self.0.enter(&request, Service::Voters)?;
        let id = LeaseId(request.into_inner().id);
        let answer = self.0.write(&caller, Command::LeaseRevoke { id }).await?;
        let header = Some(self.0.header_at(answer.revision));
        Ok(Response::new(pb::LeaseRevokeResponse { header }))
    }

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let caller = self.0.enter(&request, Service::Voters)?;
        let led = Led::of(&self.0, request.metadata());
        let keeping =
            Keeping { front: self.0.clone(), caller, led, requests: request.into_inner() };
        // One after the other: a client that does not read its answers is not asked again.
        Ok(Response::new(Box::pin(stream::try_unfold(keeping, |mut keeping| async move {
            Ok(keeping.next().await?.map(|answer| (answer, keeping)))
        }))))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        let caller = self.0.enter(&request, Service::Voters)?;
        let pb::LeaseTimeToLiveRequest { id, keys } = request.into_inner();
        let lease = LeaseId(id);
        // Whoever may not read what hangs on it learns nothing of it, and that is settled first.
        let view = self.0.view(false).await?;
        let (_, who) = self.0.judge(&caller, &view)?;
        if keys {
            rules::lease(&who, lease, &view, Who::may_read)?;
        }
        let left = self.0.replica().lease_time_to_live(lease).await.map_err(status::of)?;
        let mut response = pb::LeaseTimeToLiveResponse {
            header: Some(self.0.header()),
            id,
            ttl: -1,
            ..pb::LeaseTimeToLiveResponse::default()
        };
        if let Some((granted_s, left_s)) = left {
            (response.granted_ttl, response.ttl) = (granted_s, left_s);
            if keys {
                response.keys = view.lease_keys(lease).map_err(status::of_store)?;
            }
        }
        Ok(Response::new(response))
    }

    async fn lease_leases(
        &self,
        request: Request<pb::LeaseLeasesRequest>,
    ) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        let caller = self.0.enter(&request, Service::Voters)?;
        let view = self.0.view(false).await?;
        let (_, who) = self.0.judge(&caller, &view)?;
        let mut leases = Vec::new();
        for lease in view.leases().map_err(status::of_store)? {
            rules::lease(&who, lease.id, &view, Who::may_read)?;
            leases.push(pb::LeaseStatus { id: lease.id.0 });
        }
        let header = Some(self.0.header_at(view.revision()));
        Ok(Response::new(pb::LeaseLeasesResponse { header, leases }))
    }
}

impl Front {
    /// Grants a lease to whoever is known here.
    pub(crate) async fn grant(
        &self,
        caller: &Caller,
        id: LeaseId,
        ttl_s: i64,
    ) -> Result<kontiki_raft::replica::Granted, Status> {
        let command = Command::LeaseGrant { id, ttl_s };
        command.check().map_err(status::of_store)?;
        {
            let view = self.replica().store().view();
            let (control, _) = self.judge(caller, &view)?;
            drop(view);
            self.reads(&control)?;
            self.room(&control, &command).await?;
        }
        self.replica().lease_grant(Some(id), ttl_s).await.map_err(status::of)
    }
}

/// One stream of keep-alives.
struct Keeping {
    front: Front,
    caller: Caller,
    led: Led,
    requests: Streaming<pb::LeaseKeepAliveRequest>,
}

impl Keeping {
    async fn next(&mut self) -> Result<Option<pb::LeaseKeepAliveResponse>, Status> {
        let request = tokio::select! {
            request = self.requests.message() => request?,
            lost = self.led.lost() => return Err(lost),
        };
        let Some(pb::LeaseKeepAliveRequest { id }) = request else {
            return Ok(None);
        };
        // Made before the lease is renewed: it must not show a revision at which it had ended.
        let header = Some(self.front.header());
        let view = self.front.replica().store().view();
        let (_, who) = self.front.judge(&self.caller, &view)?;
        rules::lease(&who, LeaseId(id), &view, Who::may_write)?;
        drop(view);
        let renewed = self.front.replica().lease_keep_alive(LeaseId(id)).await;
        let ttl = renewed.map_err(status::of)?.unwrap_or(0);
        Ok(Some(pb::LeaseKeepAliveResponse { header, id, ttl }))
    }
}
