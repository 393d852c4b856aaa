//! What a master says of itself.
//!
//! Keeps: answers at once and from what is known here, with or without a quorum: it is asked most when
//! something is wrong.

use kontiki_raft::NodeId;
use kontiki_raft::replica::{self, Role};

use super::Front;
use super::wire::{Member, Size, Status, id_of};

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
        alarms: Vec::new(),
        sync_p99_ms: None,
        settings: front.records.known_settings().ok().flatten(),
    }
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
