//! The Maintenance service: status, alarms, hashes, snapshots, leadership.

use std::pin::Pin;

use futures::stream::Stream;
use kontiki_raft::NodeId;
use kontiki_raft::replica::Role;
use kontiki_storage::revision::Revision;
use tonic::{Request, Response, Status};

use super::control::Alarm;
use super::front::{Front, Service};
use super::wire::etcdserverpb as pb;
use super::wire::etcdserverpb::AlarmType;
use super::wire::etcdserverpb::alarm_request::AlarmAction;
use super::wire::etcdserverpb::downgrade_request::DowngradeAction;
use super::wire::etcdserverpb::maintenance_server::Maintenance;
use super::{VERSION, kv, snapshot, status, translate};

/// The level of the data, as etcd writes it: the version without its last part.
const STORAGE_VERSION: &str = "3.6.0";

#[derive(Clone)]
pub(crate) struct MaintenanceService(pub(crate) Front);

#[tonic::async_trait]
impl Maintenance for MaintenanceService {
    type SnapshotStream = Pin<Box<dyn Stream<Item = Result<pb::SnapshotResponse, Status>> + Send>>;

    async fn alarm(
        &self,
        request: Request<pb::AlarmRequest>,
    ) -> Result<Response<pb::AlarmResponse>, Status> {
        let caller = self.0.enter(&request, Service::Voters)?;
        let pb::AlarmRequest { action, member_id, alarm } = request.into_inner();
        let action = AlarmAction::try_from(action)
            .map_err(|_| Status::invalid_argument("etcdserver: unknown alarm action"))?;
        let kind = AlarmType::try_from(alarm)
            .map_err(|_| Status::invalid_argument("etcdserver: unknown alarm"))?;
        let alarms = match action {
            AlarmAction::Get => {
                let view = self.0.view(false).await?;
                let (control, _) = self.0.judge(&caller, &view)?;
                matching(&control.state.alarms, member_id, kind)
            }
            AlarmAction::Activate => {
                self.0.administrator(&caller).await?;
                let alarm = Alarm { member: member_id, kind: kind.into() };
                if kind == AlarmType::None {
                    Vec::new()
                } else {
                    self.0.raise(alarm).await?;
                    vec![alarm]
                }
            }
            AlarmAction::Deactivate => {
                self.0.administrator(&caller).await?;
                let mut gone = Vec::new();
                self.0
                    .change(|state| {
                        gone = matching(&state.alarms, member_id, kind);
                        state.alarms.retain(|alarm| !gone.contains(alarm));
                        Ok(())
                    })
                    .await?;
                gone
            }
        };
        let alarms =
            alarms.into_iter().map(|it| pb::AlarmMember { member_id: it.member, alarm: it.kind });
        let header = Some(self.0.header());
        Ok(Response::new(pb::AlarmResponse { header, alarms: alarms.collect() }))
    }

    async fn status(
        &self,
        request: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusResponse>, Status> {
        let caller = self.0.enter(&request, Service::Anyone)?;
        let view = self.0.replica().store().view();
        let (control, _) = self.0.judge(&caller, &view)?;
        let now = self.0.replica().status().borrow().clone();
        let mut errors = Vec::new();
        if now.leader.is_none() {
            errors.push("etcdserver: no leader".to_owned());
        }
        errors.extend(control.state.alarms.iter().map(|alarm| {
            format!("memberID:{} alarm:{}", alarm.member, alarm.kind().as_str_name())
        }));
        let bytes = translate::signed(self.0.bytes_kept());
        Ok(Response::new(pb::StatusResponse {
            header: Some(self.0.header_at(view.revision())),
            version: VERSION.to_owned(),
            db_size: bytes,
            leader: now.leader.map_or(0, |leader| leader.0),
            raft_index: now.committed.0.max(now.applied.0),
            raft_term: now.term,
            raft_applied_index: now.applied.0,
            errors,
            // Nothing lies fallow: what is forgotten is given back in the background.
            db_size_in_use: bytes,
            is_learner: now.role == Role::Learner,
            storage_version: STORAGE_VERSION.to_owned(),
            db_size_quota: translate::signed(self.0.config().quota_bytes.unwrap_or(0)),
            downgrade_info: Some(pb::DowngradeInfo::default()),
        }))
    }

    async fn defragment(
        &self,
        request: Request<pb::DefragmentRequest>,
    ) -> Result<Response<pb::DefragmentResponse>, Status> {
        let caller = self.0.enter(&request, Service::Voters)?;
        self.0.administrator(&caller).await?;
        Ok(Response::new(pb::DefragmentResponse { header: Some(self.0.header()) }))
    }

    async fn hash(
        &self,
        request: Request<pb::HashRequest>,
    ) -> Result<Response<pb::HashResponse>, Status> {
        let caller = self.0.enter(&request, Service::Voters)?;
        self.0.administrator(&caller).await?;
        let digest = self.0.replica().store().digest();
        let header = Some(self.0.header_at(digest.revision));
        let hash = folded((digest.value >> 64) as u64 ^ digest.value as u64);
        Ok(Response::new(pb::HashResponse { header, hash }))
    }

    async fn hash_kv(
        &self,
        request: Request<pb::HashKvRequest>,
    ) -> Result<Response<pb::HashKvResponse>, Status> {
        let caller = self.0.enter(&request, Service::Voters)?;
        self.0.administrator(&caller).await?;
        let revision = translate::revision(request.into_inner().revision);
        let store = self.0.replica().store();
        let hashed = kv::aside(false, || store.hash_at(revision)).map_err(status::of_store)?;
        // etcd says -1 where nothing was ever compacted.
        let compacted = match hashed.compacted {
            Revision::ZERO => -1,
            compacted => translate::signed(compacted.0),
        };
        Ok(Response::new(pb::HashKvResponse {
            header: Some(self.0.header()),
            hash: folded(hashed.hash),
            compact_revision: compacted,
            hash_revision: translate::signed(hashed.revision.0),
        }))
    }

    async fn snapshot(
        &self,
        request: Request<pb::SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        let caller = self.0.enter(&request, Service::Anyone)?;
        // Of this member as it is: a learner, or one that is cut off, can be saved too.
        let view = self.0.replica().store().view();
        let (_, who) = self.0.judge(&caller, &view)?;
        who.may_administer()?;
        drop(view);
        Ok(Response::new(Box::pin(snapshot::stream(&self.0).await?)))
    }

    async fn move_leader(
        &self,
        request: Request<pb::MoveLeaderRequest>,
    ) -> Result<Response<pb::MoveLeaderResponse>, Status> {
        let caller = self.0.enter(&request, Service::Voters)?;
        self.0.administrator(&caller).await?;
        if self.0.status().role != Role::Leader {
            return Err(status::not_leader());
        }
        let to = NodeId(request.into_inner().target_id);
        self.0.replica().transfer_leader(to).await.map_err(status::of)?;
        Ok(Response::new(pb::MoveLeaderResponse { header: Some(self.0.header()) }))
    }

    async fn downgrade(
        &self,
        request: Request<pb::DowngradeRequest>,
    ) -> Result<Response<pb::DowngradeResponse>, Status> {
        let caller = self.0.enter(&request, Service::Voters)?;
        self.0.administrator(&caller).await?;
        let pb::DowngradeRequest { action, version } = request.into_inner();
        match DowngradeAction::try_from(action) {
            Ok(DowngradeAction::Cancel) => Err(status::no_downgrade()),
            Ok(DowngradeAction::Validate | DowngradeAction::Enable) => {
                let parts: Vec<_> = version.split('.').map(str::parse::<u64>).collect();
                let formed = (2..=3).contains(&parts.len()) && parts.iter().all(Result::is_ok);
                // There is one level of the data, and no older one to go back to.
                match formed {
                    true => Err(status::invalid_downgrade_target()),
                    false => Err(status::wrong_downgrade_format()),
                }
            }
            Err(_) => Err(Status::unknown("etcdserver: unknown downgrade action")),
        }
    }
}

/// The alarms a request means: 0 stands for every member, none for every kind.
fn matching(alarms: &[Alarm], member: u64, kind: AlarmType) -> Vec<Alarm> {
    let of_member = alarms.iter().filter(|alarm| member == 0 || alarm.member == member);
    of_member.filter(|alarm| kind == AlarmType::None || alarm.kind() == kind).copied().collect()
}

/// etcd's hashes have 32 bits.
fn folded(hash: u64) -> u32 {
    (hash >> 32) as u32 ^ hash as u32
}
