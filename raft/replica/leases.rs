//! Leases, as clients ask for them on any member.

use kontiki_storage::LeaseId;
use kontiki_storage::request::{Answer, Command, Outcome};

use crate::error::Error;
use crate::membership::ask_leader;
use crate::network::{Forward, Forwarded};
use crate::replica::Replica;

/// A lease that was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    pub id: LeaseId,
    pub ttl_s: i64,
}

impl Replica {
    /// Grants a lease. Without an id a random one is chosen. The time is raised to the shortest that
    /// outlives a change of leader.
    pub async fn lease_grant(&self, id: Option<LeaseId>, ttl_s: i64) -> Result<Granted, Error> {
        let ttl_s = ttl_s.max(self.0.config.lease_ttl_min_s());
        loop {
            let chosen = id.filter(|id| !id.is_none()).unwrap_or_else(random_id);
            let granted = self.propose(Command::LeaseGrant { id: chosen, ttl_s }).await;
            match granted {
                Ok(Answer { outcome: Outcome::LeaseGranted { id, ttl_s }, .. }) => {
                    return Ok(Granted { id, ttl_s });
                }
                Ok(other) => unreachable!("a grant is answered by a grant, not by {other:?}"),
                // Certainly not granted, and nobody asked for this id.
                Err(Error::Store(kontiki_storage::Error::LeaseExists(_)))
                    if id.is_none_or(LeaseId::is_none) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Ends a lease, and with it the keys that hang on it.
    pub async fn lease_revoke(&self, id: LeaseId) -> Result<Answer, Error> {
        self.propose(Command::LeaseRevoke { id }).await
    }

    /// Renews a lease. The seconds it is now good for; `None` where there is no such lease.
    pub async fn lease_keep_alive(&self, id: LeaseId) -> Result<Option<i64>, Error> {
        let answer = ask_leader(&self.0, Forward::LeaseKeepAlive(id.0)).await?;
        Ok(lease(answer)?.map(|(_, left_s)| left_s))
    }

    /// Seconds granted and seconds left; `None` where there is no such lease.
    pub async fn lease_time_to_live(&self, id: LeaseId) -> Result<Option<(i64, i64)>, Error> {
        lease(ask_leader(&self.0, Forward::LeaseTimeToLive(id.0)).await?)
    }
}

fn lease(answer: Forwarded) -> Result<Option<(i64, i64)>, Error> {
    match answer {
        Forwarded::Lease { ttl_s: -1, .. } => Ok(None),
        Forwarded::Lease { ttl_s, granted_s } => Ok(Some((granted_s, ttl_s))),
        other => Err(Error::Unknown(format!("an answer that does not fit: {other:?}"))),
    }
}

fn random_id() -> LeaseId {
    // Positive, as etcd's are; zero is "no lease".
    LeaseId(rand::random_range(1..=i64::MAX))
}
