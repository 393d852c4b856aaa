//! What a master says of itself.
//!
//! Keeps: answers at once and from what is known here, with or without a quorum: it is asked most when
//! something is wrong.

use kontiki_raft::NodeId;
use kontiki_raft::log::{Histogram, SYNC_SECONDS_BOUNDS};
use kontiki_raft::replica::{self, Replica, Role};

use super::wire::{Member, Size, Status, id_of};
use super::{Front, Records};

pub(super) fn of(front: &Front) -> Status {
    let replica = &front.replica;
    let now = replica.status().borrow().clone();
    let store = replica.store();
    let size = store.size();
    let (role, reason) = role_of(&now.role);
    Status {
        release: front.me.release.clone(),
        cluster: replica.cluster().to_string(),
        id: id_of(replica.id()),
        name: front.me.name.clone(),
        role,
        reason,
        ready: now.ready,
        leader: now.leader.map(id_of),
        term: now.term,
        last: now.last.0,
        committed: now.committed.0,
        applied: now.applied.0,
        durable: now.durable.0,
        revision: store.revision().0,
        compacted: store.compacted().0,
        size: Size { disk_bytes: size.disk, memory_bytes: size.memory },
        uptime_s: front.started.elapsed().as_secs(),
        members: members_in(front, &now),
        certificates: front.pki.certificates(),
        alarms: alarms(replica),
        sync_p99_ms: percentile_ms(&replica.log_syncs(), 0.99),
        archives: front.archives.shown(),
        settings: Records::settings_in(store).ok().flatten(),
    }
}

fn alarms(replica: &Replica) -> Vec<String> {
    let damaged = replica.damage().map(|reason| {
        let remedy = match replica.members().iter().filter(|member| member.voter).count() {
            0 | 1 => "restore a snapshot (kontiki snapshot restore)",
            _ => "start it again while the others are up, and it comes back with a whole copy",
        };
        format!("its copy of the data is damaged ({reason}): {remedy}")
    });
    replica.room().err().map(|error| error.to_string()).into_iter().chain(damaged).collect()
}

pub(super) fn members(front: &Front) -> Vec<Member> {
    members_in(front, &front.replica.status().borrow().clone())
}

fn members_in(front: &Front, status: &replica::Status) -> Vec<Member> {
    let masters = front.records.masters().unwrap_or_default();
    let behind = |id: NodeId| match status.role {
        Role::Leader if id == front.replica.id() => Some(0),
        _ => status.behind.get(&id).copied(),
    };
    let members = front.replica.members().into_iter();
    members
        .map(|member| {
            let id = id_of(member.id);
            Member {
                name: member.peer.name,
                address: member.peer.address,
                voter: member.voter,
                leader: status.leader == Some(member.id),
                behind: behind(member.id),
                api: masters.iter().find(|master| master.id == id).map(|it| it.api.clone()),
                id,
            }
        })
        .collect()
}

/// The bound of the bucket in which a percentile lies, in milliseconds; twice the last bound where it lies
/// beyond all of them. `None` before the first sync. Of fewer than a hundred syncs the slowest is left out: one
/// that waited says nothing of a disk yet.
fn percentile_ms(syncs: &Histogram, percentile: f64) -> Option<f64> {
    let wanted = ((syncs.count as f64 * percentile).floor() as u64).max(1);
    if syncs.count == 0 {
        return None;
    }
    let mut below = 0;
    let buckets = syncs.buckets.iter().zip(SYNC_SECONDS_BOUNDS);
    for (count, bound) in buckets {
        below += count;
        if below >= wanted {
            return Some(bound * 1000.0);
        }
    }
    Some(SYNC_SECONDS_BOUNDS[SYNC_SECONDS_BOUNDS.len() - 1] * 2000.0)
}

fn role_of(role: &Role) -> (String, Option<String>) {
    let (name, reason) = match role {
        Role::Leader => ("leader", None),
        Role::Follower => ("follower", None),
        Role::Learner => ("learner", None),
        Role::Candidate => ("candidate", None),
        Role::Removed => ("removed", None),
        Role::Stopped(reason) => ("stopped", Some(reason.clone())),
    };
    (name.to_owned(), reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn syncs(buckets: &[u64]) -> Histogram {
        let mut all = vec![0; SYNC_SECONDS_BOUNDS.len() + 1];
        all[..buckets.len()].copy_from_slice(buckets);
        Histogram { count: buckets.iter().sum(), buckets: all, sum: 0.0 }
    }

    #[test]
    fn a_percentile_is_the_bound_of_its_bucket() {
        assert_eq!(percentile_ms(&syncs(&[]), 0.99), None);
        assert_eq!(percentile_ms(&syncs(&[1]), 0.99), Some(1.0));
        assert_eq!(percentile_ms(&syncs(&[99, 0, 1]), 0.99), Some(1.0));
        assert_eq!(percentile_ms(&syncs(&[98, 0, 2]), 0.99), Some(4.0));
        assert_eq!(percentile_ms(&syncs(&[20, 0, 0, 0, 1]), 0.99), Some(1.0));
        assert_eq!(percentile_ms(&syncs(&[20, 0, 0, 0, 2]), 0.99), Some(16.0));
        let mut beyond = [0; 15];
        beyond[14] = 1;
        assert_eq!(percentile_ms(&syncs(&beyond), 0.99), Some(16_384.0));
    }
}
