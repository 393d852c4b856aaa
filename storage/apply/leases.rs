//! What becomes of leases, and of the keys attached to them.
//!
//! Keeps: every key whose newest version names a lease has a row under that lease, and there are no other
//! such rows. The end of a lease deletes its keys at one revision of its own.

use super::Group;
use super::pending::Overlay;
use crate::engine::Table;
use crate::error::Error;
use crate::keys;
use crate::lease::{Lease, LeaseChange};
use crate::record::LeaseId;
use crate::request::Outcome;
use crate::row;
use crate::view::lease_keys;

impl Group<'_> {
    pub(super) fn lease_grant(&mut self, id: LeaseId, ttl_s: i64) -> Result<Outcome, Error> {
        if self.pending.lease(self.base, id)?.is_some() {
            return Err(Error::LeaseExists(id));
        }
        self.write_lease(Lease { id, ttl_s, remaining_ms: None });
        self.lease_changes.push(LeaseChange::Granted { id, ttl_s });
        Ok(Outcome::LeaseGranted { id, ttl_s })
    }

    pub(super) fn lease_revoke(&mut self, id: LeaseId) -> Result<Outcome, Error> {
        if self.pending.lease(self.base, id)?.is_none() {
            return Err(Error::LeaseNotFound(id));
        }
        self.end_lease(id)?;
        Ok(Outcome::LeaseRevoked)
    }

    /// Those of the leases that are still there end, each at its own revision.
    pub(super) fn lease_expire(&mut self, ids: &[LeaseId]) -> Result<Outcome, Error> {
        let mut ended = 0;
        for id in ids {
            if self.pending.lease(self.base, *id)?.is_some() {
                self.end_lease(*id)?;
                self.close();
                ended += 1;
            }
        }
        Ok(Outcome::LeasesExpired(ended))
    }

    pub(super) fn lease_checkpoint(
        &mut self,
        remaining_ms: &[(LeaseId, u64)],
    ) -> Result<Outcome, Error> {
        for (id, remaining_ms) in remaining_ms.iter().copied() {
            if let Some(lease) = self.pending.lease(self.base, id)? {
                self.write_lease(Lease { remaining_ms: Some(remaining_ms), ..lease });
                self.lease_changes.push(LeaseChange::Checkpointed { id, remaining_ms });
            }
        }
        Ok(Outcome::Checkpointed)
    }

    fn write_lease(&mut self, lease: Lease) {
        self.batch.put(Table::Leases, &[&keys::lease(lease.id)], &[&row::lease(&lease)]);
        self.pending.set_lease(lease.id, Some(lease));
    }

    fn end_lease(&mut self, id: LeaseId) -> Result<(), Error> {
        let overlay = Overlay { base: self.base, pending: &self.pending };
        for key in lease_keys(&overlay, id)? {
            let slot = self.pending.slot(self.base, &key)?;
            let Some(victim) = slot.now().filter(|kv| kv.lease == id) else {
                return Err(Error::Damaged(format!(
                    "key {key:02x?} stands under lease {id}, but does not have it"
                )));
            };
            self.delete_key(victim);
        }
        self.batch.delete(Table::Leases, &[&keys::lease(id)]);
        self.pending.set_lease(id, None);
        self.lease_changes.push(LeaseChange::Revoked { id });
        Ok(())
    }
}
