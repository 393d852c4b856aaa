//! etcd's Lock service: a lock per name, as a [`Queue`].

use bytes::Bytes;
use kontiki_storage::request::{Command, Delete};
use tonic::{Request, Response, Status};

use super::front::{Front, Service};
use super::keys;
use super::queue::Queue;
use super::status;
use super::wire::v3lockpb as pb;
use super::wire::v3lockpb::lock_server::Lock;

#[derive(Clone)]
pub(crate) struct LockService(pub(crate) Front);

#[tonic::async_trait]
impl Lock for LockService {
    async fn lock(
        &self,
        request: Request<pb::LockRequest>,
    ) -> Result<Response<pb::LockResponse>, Status> {
        let caller = self.0.enter(&request, Service::Voters)?;
        let pb::LockRequest { name, lease } = request.into_inner();
        let queue = Queue::new(self.0.clone(), caller, &name)?;
        let lease = queue.lease(lease).await?;
        let place = queue.enter(lease, Bytes::new()).await?;
        queue.wait(&place).await?;
        if !queue.still_there(&place).await? {
            return Err(Status::unknown("mutex: session is expired"));
        }
        let header = Some(self.0.header());
        Ok(Response::new(pb::LockResponse { header, key: place.key }))
    }

    async fn unlock(
        &self,
        request: Request<pb::UnlockRequest>,
    ) -> Result<Response<pb::UnlockResponse>, Status> {
        let caller = self.0.enter(&request, Service::Voters)?;
        let key = request.into_inner().key;
        if key.is_empty() {
            return Err(status::empty_key());
        }
        let range = keys::clipped(key, Bytes::new());
        let command = Command::Delete(Delete { range, previous: false });
        let answer = self.0.write(&caller, command).await?;
        let header = Some(self.0.header_at(answer.revision));
        Ok(Response::new(pb::UnlockResponse { header }))
    }
}
