//! What masters must agree on, below `/kontiki/` in the replicated store.
//!
//! ```text
//! /kontiki/settings         what is alike on all masters (ClusterSettings)
//! /kontiki/next-node        the id of the next member, hexadecimal
//! /kontiki/tokens/<id>      a token's hash, role and uses; on a lease that ends with the token
//! /kontiki/masters/<id>     where a master serves (MasterRecord)
//! ```
//!
//! Keeps: every change says which version it saw, so that two masters who act at once never give one id,
//! or one use of a token, twice. Nobody's clock is asked: a token ends with its lease.

use bytes::Bytes;
use kontiki_raft::replica::Freshness;
use kontiki_raft::storage::LeaseId;
use kontiki_raft::storage::request::{
    Answer, Command, Compare, Delete, KeyRange, Operand, Operation, Outcome, Put, Range, Relation,
    Transaction,
};
use kontiki_raft::storage::{self, KeyValue, Revision, Store};
use kontiki_raft::{NodeId, Replica};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::wire::{ClusterSettings, MasterRecord, Role, TokenInfo, TokenRequest, id_of};

const SETTINGS: &str = "/kontiki/settings";
const NEXT_NODE: &str = "/kontiki/next-node";
const TOKENS: &str = "/kontiki/tokens/";
const MASTERS: &str = "/kontiki/masters/";

/// Tokens that can be there at a time.
pub const TOKENS_MAX: usize = 1000;
/// How often a change is tried again when another master came first.
const ATTEMPTS_MAX: usize = 16;

#[derive(Clone)]
pub struct Records {
    replica: Replica,
    /// No id below it is given.
    ids_from: NodeId,
}

/// A token as the store has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct StoredToken {
    role: Role,
    hash: String,
    uses_left: Option<u64>,
}

/// Why a token opens nothing.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// One answer for all that is wrong with it: a guesser learns nothing.
    #[error(
        "the token is not accepted: it is unknown, has run out, was used up, or is for another \
         role; `kontiki token list` on a master shows those that are valid"
    )]
    Refused,
    #[error(transparent)]
    Raft(#[from] kontiki_raft::Error),
}

type Result<T, E = kontiki_raft::Error> = std::result::Result<T, E>;

impl Records {
    #[must_use]
    pub fn new(replica: Replica) -> Records {
        Records { replica, ids_from: NodeId(0) }
    }

    /// As they are where the newest of them may be lost: no id below `ids_from` is given, because one may
    /// have been given that nothing is known of.
    #[must_use]
    pub fn with_ids_from(self, ids_from: NodeId) -> Records {
        Records { ids_from, ..self }
    }

    /// Enters the settings of a new cluster and its first member. What is there already stays.
    pub async fn found(&self, settings: &ClusterSettings, first: NodeId) -> Result<()> {
        self.create(SETTINGS, encode(settings), LeaseId::NONE).await?;
        let next = NodeId(first.0 + 1).to_string();
        self.create(NEXT_NODE, next.into(), LeaseId::NONE).await?;
        Ok(())
    }

    /// A member id that was never given before.
    pub async fn next_node(&self) -> Result<NodeId> {
        for _ in 0..ATTEMPTS_MAX {
            let found = self.get(NEXT_NODE).await?;
            let written = found.as_ref().and_then(node_in).map(|id| id.0);
            let members = self.replica.members();
            let highest = members.iter().map(|member| member.id.0).max().unwrap_or_default();
            let id = written.unwrap_or_default().max(highest + 1).max(self.ids_from.0);
            let seen = found.map_or(Revision::ZERO, |kv| kv.modified);
            let next = NodeId(id + 1).to_string();
            let change = vec![put(NEXT_NODE, next.into(), LeaseId::NONE)];
            if self.change_if(NEXT_NODE, seen, change).await? {
                return Ok(NodeId(id));
            }
        }
        Err(crowded())
    }

    /// Keeps a token's hash until it runs out.
    pub async fn add_token(&self, id: &str, hash: String, request: &TokenRequest) -> Result<i64> {
        if self.list(TOKENS).await?.len() >= TOKENS_MAX {
            return Err(kontiki_raft::Error::Overloaded { waiting: TOKENS_MAX, max: TOKENS_MAX });
        }
        let lease = self.replica.lease_grant(None, request.ttl_s).await?;
        let stored = StoredToken { role: request.role, hash, uses_left: request.uses };
        self.create(&format!("{TOKENS}{id}"), encode(&stored), lease.id).await?;
        Ok(lease.ttl_s)
    }

    pub async fn tokens(&self) -> Result<Vec<TokenInfo>> {
        let mut tokens = Vec::new();
        for kv in self.list(TOKENS).await? {
            let Some(stored) = decode::<StoredToken>(&kv) else { continue };
            let left = self.replica.lease_time_to_live(kv.lease).await?;
            tokens.push(TokenInfo {
                id: name_of(&kv, TOKENS),
                role: stored.role,
                uses_left: stored.uses_left,
                expires_in_s: left.map_or(0, |(_, left_s)| left_s),
            });
        }
        Ok(tokens)
    }

    /// Takes a token back; false where there is none.
    pub async fn revoke_token(&self, id: &str) -> Result<bool> {
        let Some(kv) = self.get(&format!("{TOKENS}{id}")).await? else { return Ok(false) };
        match self.replica.lease_revoke(kv.lease).await {
            Ok(_) => Ok(true),
            Err(kontiki_raft::Error::Store(kontiki_raft::storage::Error::LeaseNotFound(_))) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether a token could be used now.
    pub async fn check_token(&self, id: &str, secret: &str, role: Role) -> Result<(), TokenError> {
        self.valid_token(id, secret, role).await.map(|_| ())
    }

    /// Checks a token and counts one use of it.
    pub async fn use_token(&self, id: &str, secret: &str, role: Role) -> Result<(), TokenError> {
        let key = format!("{TOKENS}{id}");
        for _ in 0..ATTEMPTS_MAX {
            let (kv, stored) = self.valid_token(id, secret, role).await?;
            let Some(left) = stored.uses_left else { return Ok(()) };
            let left = left.checked_sub(1).ok_or(TokenError::Refused)?;
            let used = StoredToken { uses_left: Some(left), ..stored };
            let change = vec![put(&key, encode(&used), kv.lease)];
            if self.change_if(&key, kv.modified, change).await? {
                return Ok(());
            }
        }
        Err(TokenError::Raft(crowded()))
    }

    async fn valid_token(
        &self,
        id: &str,
        secret: &str,
        role: Role,
    ) -> Result<(KeyValue, StoredToken), TokenError> {
        let kv = self.get(&format!("{TOKENS}{id}")).await?.ok_or(TokenError::Refused)?;
        let stored = decode::<StoredToken>(&kv).ok_or(TokenError::Refused)?;
        let known = super::token::same(&stored.hash, &super::token::hash(secret));
        if !known || stored.role != role || stored.uses_left == Some(0) {
            return Err(TokenError::Refused);
        }
        Ok((kv, stored))
    }

    /// Enters a master for others to find. Writes nothing when it is entered already.
    pub async fn enter_master(&self, record: &MasterRecord) -> Result<()> {
        let key = format!("{MASTERS}{}", record.id);
        let value = encode(record);
        if self.get(&key).await?.is_some_and(|kv| kv.value == value) {
            return Ok(());
        }
        self.replica
            .propose(Command::Put(Put { key: key.into(), value, ..Put::default() }))
            .await?;
        // Those that are no members any more are nowhere. Read in this order: whoever was entered by then
        // had been a member before.
        let entered = self.masters()?;
        self.replica.read_barrier().await?;
        let members = self.replica.members();
        for former in entered {
            if members.iter().all(|member| id_of(member.id) != former.id) {
                let range = KeyRange::One(format!("{MASTERS}{}", former.id).into());
                self.replica.propose(Command::Delete(Delete { range, previous: false })).await?;
            }
        }
        Ok(())
    }

    pub async fn strike_master(&self, id: NodeId) -> Result<()> {
        let range = KeyRange::One(format!("{MASTERS}{id}").into());
        self.replica.propose(Command::Delete(Delete { range, previous: false })).await?;
        Ok(())
    }

    /// The masters that have entered themselves, as this member knows them.
    pub fn masters(&self) -> Result<Vec<MasterRecord>> {
        let range = Range::new(KeyRange::prefix(MASTERS));
        let (answer, _) = self.replica.store().range(&range)?;
        Ok(answer.kvs.iter().filter_map(decode).collect())
    }

    /// The settings as a store has them, without asking anybody.
    pub fn settings_in(store: &Store) -> Result<Option<ClusterSettings>, storage::Error> {
        let range = Range::new(KeyRange::One(SETTINGS.into()));
        let (answer, _) = store.range(&range)?;
        Ok(answer.kvs.first().and_then(decode))
    }

    /// The id of the next member as a store has it, without asking anybody.
    pub fn next_node_in(store: &Store) -> Result<Option<NodeId>, storage::Error> {
        let range = Range::new(KeyRange::One(NEXT_NODE.into()));
        let (answer, _) = store.range(&range)?;
        Ok(answer.kvs.first().and_then(node_in))
    }

    async fn get(&self, key: &str) -> Result<Option<KeyValue>> {
        let range = Range::new(KeyRange::One(Bytes::copy_from_slice(key.as_bytes())));
        let (mut answer, _) = self.replica.range(&range, Freshness::Linearizable).await?;
        Ok(answer.kvs.pop())
    }

    async fn list(&self, prefix: &'static str) -> Result<Vec<KeyValue>> {
        let range = Range::new(KeyRange::prefix(prefix));
        let (answer, _) = self.replica.range(&range, Freshness::Linearizable).await?;
        Ok(answer.kvs)
    }

    /// Writes a key that is not there; false where it is.
    async fn create(&self, key: &str, value: Bytes, lease: LeaseId) -> Result<bool> {
        self.change_if(key, Revision::ZERO, vec![put(key, value, lease)]).await
    }

    /// Changes something if `key` is still as it was at `seen`; zero means that it was not there.
    async fn change_if(&self, key: &str, seen: Revision, change: Vec<Operation>) -> Result<bool> {
        let unchanged = Compare {
            range: KeyRange::One(Bytes::copy_from_slice(key.as_bytes())),
            relation: Relation::Equal,
            operand: Operand::Modified(seen),
        };
        let transaction =
            Transaction { compare: vec![unchanged], success: change, failure: Vec::new() };
        match self.replica.propose(Command::Transaction(transaction)).await? {
            Answer { outcome: Outcome::Transaction(answer), .. } => Ok(answer.succeeded),
            other => unreachable!("a transaction is answered by a transaction, not by {other:?}"),
        }
    }
}

fn put(key: &str, value: Bytes, lease: LeaseId) -> Operation {
    let key = Bytes::copy_from_slice(key.as_bytes());
    Operation::Put(Put { key, value, lease, ..Put::default() })
}

fn node_in(kv: &KeyValue) -> Option<NodeId> {
    u64::from_str_radix(std::str::from_utf8(&kv.value).ok()?, 16).ok().map(NodeId)
}

fn crowded() -> kontiki_raft::Error {
    kontiki_raft::Error::Overloaded { waiting: ATTEMPTS_MAX, max: ATTEMPTS_MAX }
}

fn name_of(kv: &KeyValue, prefix: &str) -> String {
    String::from_utf8_lossy(&kv.key[prefix.len()..]).into_owned()
}

fn encode(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).expect("plain structs of text and numbers become JSON").into()
}

/// A record that another release wrote in a way that is not understood is as good as absent.
fn decode<T: DeserializeOwned>(kv: &KeyValue) -> Option<T> {
    serde_json::from_slice(&kv.value)
        .inspect_err(|error| {
            let key = String::from_utf8_lossy(&kv.key);
            tracing::warn!(%key, %error, "a record is unreadable");
        })
        .ok()
}
