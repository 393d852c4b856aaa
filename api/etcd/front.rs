//! What every service of this front shares: who asks, whether they may, and the way to the replica.
//!
//! Keeps: a write is judged by the rows it finds in this member's store, and carried out only if these
//! rows are the same when it is applied (`control`). So a change of permissions is never overtaken by
//! what it forbids, on whatever member.
//! Keeps: a read is judged by the same view it is answered from.

use std::sync::Arc;

use http::Extensions;
use kontiki_raft::Replica;
use kontiki_raft::error::Error;
use kontiki_raft::replica::{Header, Role, Status as ReplicaStatus};
use kontiki_storage::Error as StoreError;
use kontiki_storage::request::{Answer, Command, Guarded, Operation, Put, Transaction};
use kontiki_storage::revision::Revision;
use kontiki_storage::view::View;
use prost::Message;
use tokio::sync::watch;
use tonic::Status;
use tonic::metadata::MetadataMap;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::Config;
use super::auth::rules::{self, Who};
use super::auth::{Passwords, Tokens};
use super::control::{Alarm, Cache, Control, State};
use super::keys;
use super::leaderless::Leadership;
use super::metrics::Metrics;
use super::status;
use super::wire::etcdserverpb::{self as pb, AlarmType};
use crate::listener::Peer;

/// How often a write is judged anew when the rows it was judged by have changed meanwhile.
const ATTEMPTS_MAX: usize = 8;

/// Clones are the same front.
#[derive(Clone)]
pub(crate) struct Front(Arc<Inner>);

struct Inner {
    replica: Replica,
    config: Config,
    control: Cache,
    tokens: Tokens,
    passwords: Passwords,
    metrics: Metrics,
    leadership: Leadership,
    status: watch::Receiver<ReplicaStatus>,
}

/// Who sent a request, as far as it says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Caller {
    pub(crate) token: Option<String>,
    /// The other end of the connection, where a listener said who it is.
    pub(crate) peer: Option<Peer>,
}

impl Caller {
    /// The user a client certificate stands for: its common name, as in etcd.
    fn certificate_name(&self) -> Option<String> {
        let leaf = self.peer.as_ref()?.certificates.first()?;
        let (_, leaf) = X509Certificate::from_der(leaf).ok()?;
        let name = leaf.subject().iter_common_name().next()?.as_str().ok()?;
        Some(name.to_owned())
    }
}

/// What a member may be asked while it is a learner.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    Voters,
    Anyone,
}

impl Front {
    pub(crate) fn new(replica: Replica, config: Config) -> Front {
        let tokens = Tokens::new(config.tokens.clone(), config.clock.clone());
        let status = replica.status();
        Front(Arc::new(Inner {
            metrics: Metrics::default(),
            leadership: Leadership::default(),
            replica,
            config,
            control: Cache::default(),
            tokens,
            passwords: Passwords::default(),
            status,
        }))
    }

    pub(crate) fn replica(&self) -> &Replica {
        &self.0.replica
    }

    pub(crate) fn config(&self) -> &Config {
        &self.0.config
    }

    pub(crate) fn tokens(&self) -> &Tokens {
        &self.0.tokens
    }

    pub(crate) fn passwords(&self) -> &Passwords {
        &self.0.passwords
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Role and leader are those of now; for how far this member is, ask [`Replica::status`].
    pub(crate) fn status(&self) -> watch::Ref<'_, ReplicaStatus> {
        self.0.status.borrow()
    }

    pub(crate) fn leadership(&self) -> &Leadership {
        &self.0.leadership
    }

    /// Lets a request in, and says who sent it.
    pub(crate) fn enter<T>(
        &self,
        request: &tonic::Request<T>,
        service: Service,
    ) -> Result<Caller, Status> {
        let metadata = request.metadata();
        {
            let status = self.status();
            if service == Service::Voters && status.role == Role::Learner {
                return Err(status::not_for_learners());
            }
            if wants_leader(metadata) && status.leader.is_none() {
                return Err(status::no_leader());
            }
        }
        Ok(caller(metadata, request.extensions()))
    }

    /// The rows at the moment of `view`, and who the caller is by them.
    pub(crate) fn judge(
        &self,
        caller: &Caller,
        view: &View,
    ) -> Result<(Arc<Control>, Who), Status> {
        let control = self.control(view)?;
        let who = self.who(caller, &control)?;
        Ok((control, who))
    }

    pub(crate) fn control(&self, view: &View) -> Result<Arc<Control>, Status> {
        self.0.control.at(view).map_err(status::of_store)
    }

    pub(crate) fn who(&self, caller: &Caller, control: &Control) -> Result<Who, Status> {
        if !control.state.auth_enabled {
            return Ok(Who::Anyone);
        }
        let name = match &caller.token {
            Some(token) => self.tokens().user(token, control)?,
            None => caller.certificate_name().ok_or_else(status::user_empty)?,
        };
        control.permissions.who(&name).ok_or_else(status::permission_denied)
    }

    /// The newest view, once this member has applied all that was agreed on before the call.
    pub(crate) async fn view(&self, serializable: bool) -> Result<View, Status> {
        if !serializable {
            self.replica().read_barrier().await.map_err(status::of)?;
        }
        Ok(self.replica().store().view())
    }

    /// Whether alarms let a read through.
    pub(crate) fn reads(&self, control: &Control) -> Result<(), Status> {
        if control.has_alarm(AlarmType::Corrupt) { Err(status::corrupt()) } else { Ok(()) }
    }

    /// Carries out a change, if the caller may.
    pub(crate) async fn write(&self, caller: &Caller, command: Command) -> Result<Answer, Status> {
        for _ in 0..ATTEMPTS_MAX {
            let view = self.replica().store().view();
            let (control, who) = self.judge(caller, &view)?;
            self.reads(&control)?;
            let mut conditions = rules::check(&who, &command, &view)?;
            drop(view);
            self.room(&control, &command).await?;
            conditions.push(control.unchanged());
            let guarded = Guarded { conditions, command: Box::new(command.clone()) };
            match self.replica().propose(Command::Guarded(guarded)).await {
                Err(Error::Store(StoreError::ConditionFailed)) => {}
                Err(error) => return Err(status::of(error)),
                Ok(answer) => return Ok(answer),
            }
        }
        Err(status::auth_old_revision())
    }

    /// Whether there is room for what the command adds. What the disk itself has left is the replica's
    /// affair; this is about the quota, and about the alarm that stays until somebody takes it back.
    pub(crate) async fn room(&self, control: &Control, command: &Command) -> Result<(), Status> {
        if !command.adds_data() {
            return Ok(());
        }
        if control.has_alarm(AlarmType::Nospace) {
            return Err(status::no_space());
        }
        let Some(quota) = self.0.config.quota_bytes else {
            return Ok(());
        };
        if self.bytes_kept() + command.weight() as u64 <= quota {
            return Ok(());
        }
        let member = self.replica().id().0;
        self.raise(Alarm { member, kind: AlarmType::Nospace.into() }).await?;
        Err(status::no_space())
    }

    /// What the store takes, on disk and in memory that is not written out yet.
    pub(crate) fn bytes_kept(&self) -> u64 {
        let size = self.replica().store().size();
        size.disk + size.memory
    }

    pub(crate) async fn raise(&self, alarm: Alarm) -> Result<Revision, Status> {
        self.change(|state| {
            if !state.alarms.contains(&alarm) {
                state.alarms.push(alarm);
                state.alarms.sort_unstable();
            }
            Ok(())
        })
        .await
    }

    /// Changes the state row alone.
    pub(crate) async fn change(
        &self,
        mut edit: impl FnMut(&mut State) -> Result<(), Status>,
    ) -> Result<Revision, Status> {
        self.edit(|control| {
            let mut state = control.state.clone();
            edit(&mut state)?;
            Ok((state, Vec::new()))
        })
        .await
    }

    /// Changes rows of the front's own: what `edit` makes of them, if they are still so when it is
    /// applied. The state row is written with them; an edit that leaves everything as it is writes
    /// nothing. Returns the revision at which it was so.
    pub(crate) async fn edit(
        &self,
        mut edit: impl FnMut(&Control) -> Result<(State, Vec<Operation>), Status>,
    ) -> Result<Revision, Status> {
        for _ in 0..ATTEMPTS_MAX {
            // What was agreed on before must be seen, or a lagging member would edit in vain.
            let view = self.view(false).await?;
            let control = self.control(&view)?;
            let (state, mut operations) = edit(&control)?;
            if operations.is_empty() && state == control.state {
                return Ok(view.revision());
            }
            drop(view);
            operations.push(Operation::Put(Put {
                key: keys::state(),
                value: state.encode_to_vec().into(),
                ..Put::default()
            }));
            let transaction = Transaction { success: operations, ..Transaction::default() };
            let command = Box::new(Command::Transaction(transaction));
            let guarded = Guarded { conditions: vec![control.unchanged()], command };
            match self.replica().propose(Command::Guarded(guarded)).await {
                Err(Error::Store(StoreError::ConditionFailed)) => {}
                Err(error) => return Err(status::of(error)),
                Ok(answer) => return Ok(answer.revision),
            }
        }
        Err(status::auth_old_revision())
    }

    pub(crate) fn header(&self) -> pb::ResponseHeader {
        super::translate::header(self.replica().header())
    }

    pub(crate) fn header_at(&self, revision: Revision) -> pb::ResponseHeader {
        super::translate::header(Header { revision, ..self.replica().header() })
    }
}

/// `hasleader: true`: the caller would rather be refused than wait for a leader.
pub(crate) fn wants_leader(metadata: &MetadataMap) -> bool {
    metadata.get("hasleader").is_some_and(|value| value == "true")
}

fn caller(metadata: &MetadataMap, extensions: &Extensions) -> Caller {
    let token = metadata.get("token").or_else(|| metadata.get("authorization"));
    let token = token.and_then(|token| token.to_str().ok());
    let token = token.map(|token| token.strip_prefix("Bearer ").unwrap_or(token).to_owned());
    Caller { token, peer: extensions.get::<Peer>().cloned() }
}
