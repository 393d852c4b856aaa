//! Who may do what, decided from the rows and the request alone.
//!
//! Keeps: every key a request could read, change or attach is asked about, in every branch and at every
//! depth of a transaction, whatever its comparisons say.
//! Never: looks at anything but its arguments.

use std::collections::BTreeMap;

use kontiki_storage::LeaseId;
use kontiki_storage::request::{
    Command, Compare, Condition, Delete, KeyRange, Operation, Put, Transaction,
};
use kontiki_storage::view::View;
use tonic::Status;

use super::ranges::Ranges;
use super::{ROOT, Role, User};
use crate::etcd::status;
use crate::etcd::wire::authpb::permission::Type;

/// Everyone's rights, worked out from users and roles.
#[derive(Debug, Default)]
pub(crate) struct Permissions {
    pub(crate) users: BTreeMap<String, User>,
    pub(crate) roles: BTreeMap<String, Role>,
    granted: BTreeMap<String, Who>,
}

/// A caller, by what it may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// Authentication is off.
    Anyone,
    Root(String),
    User(std::sync::Arc<Granted>),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Granted {
    pub(crate) name: String,
    read: Ranges,
    write: Ranges,
}

impl Permissions {
    pub(crate) fn new(users: Vec<(String, User)>, roles: Vec<(String, Role)>) -> Permissions {
        let users: BTreeMap<_, _> = users.into_iter().collect();
        let roles: BTreeMap<_, _> = roles.into_iter().collect();
        let granted =
            users.iter().map(|(name, user)| (name.clone(), merged(name, user, &roles))).collect();
        Permissions { users, roles, granted }
    }

    pub(crate) fn who(&self, name: &str) -> Option<Who> {
        self.granted.get(name).cloned()
    }
}

fn merged(name: &str, user: &User, roles: &BTreeMap<String, Role>) -> Who {
    if user.roles.contains(ROOT) {
        return Who::Root(name.to_owned());
    }
    let permissions = || {
        let held = user.roles.iter().filter_map(|role| roles.get(role));
        held.flat_map(|role| role.permissions.iter())
    };
    let of = |kinds: [Type; 2]| {
        let fitting = permissions().filter(|it| kinds.contains(&it.perm_type()));
        Ranges::new(fitting.map(|it| KeyRange::from_wire(it.key.clone(), it.range_end.clone())))
    };
    Who::User(std::sync::Arc::new(Granted {
        name: name.to_owned(),
        read: of([Type::Read, Type::Readwrite]),
        write: of([Type::Write, Type::Readwrite]),
    }))
}

impl Who {
    pub(crate) fn may_read(&self, range: &KeyRange) -> Result<(), Status> {
        match self {
            Who::Anyone | Who::Root(_) => Ok(()),
            Who::User(granted) => allow(granted.read.contain(range)),
        }
    }

    pub(crate) fn may_write(&self, range: &KeyRange) -> Result<(), Status> {
        match self {
            Who::Anyone | Who::Root(_) => Ok(()),
            Who::User(granted) => allow(granted.write.contain(range)),
        }
    }

    /// Whether the caller may rule over everyone's affairs.
    pub(crate) fn may_administer(&self) -> Result<(), Status> {
        allow(matches!(self, Who::Anyone | Who::Root(_)))
    }

    pub(crate) fn name(&self) -> Option<&str> {
        match self {
            Who::Anyone => None,
            Who::Root(name) => Some(name),
            Who::User(granted) => Some(&granted.name),
        }
    }
}

fn allow(allowed: bool) -> Result<(), Status> {
    if allowed { Ok(()) } else { Err(status::permission_denied()) }
}

/// Whether a command may be carried out, by a view of the moment, and what must still hold when it is.
pub(crate) fn check(who: &Who, command: &Command, view: &View) -> Result<Vec<Condition>, Status> {
    let mut leases = Vec::new();
    match command {
        Command::Put(one) => put(who, one, &mut leases)?,
        Command::Delete(one) => delete(who, one)?,
        Command::Transaction(one) => transaction(who, one, &mut leases)?,
        Command::LeaseGrant { .. } => {}
        Command::LeaseRevoke { id } => leases.push(*id),
        Command::Compact(_)
        | Command::LeaseExpire { .. }
        | Command::LeaseCheckpoint { .. }
        | Command::Guarded(_) => who.may_administer()?,
    }
    within(who, leases, view)
}

fn put(who: &Who, put: &Put, leases: &mut Vec<LeaseId>) -> Result<(), Status> {
    let key = KeyRange::One(put.key.clone());
    who.may_write(&key)?;
    if put.previous {
        who.may_read(&key)?;
    }
    if !put.lease.is_none() {
        leases.push(put.lease);
    }
    Ok(())
}

fn delete(who: &Who, delete: &Delete) -> Result<(), Status> {
    who.may_write(&delete.range)?;
    if delete.previous { who.may_read(&delete.range) } else { Ok(()) }
}

/// Every comparison and both branches, all the way down.
pub(crate) fn transaction(
    who: &Who,
    transaction: &Transaction,
    leases: &mut Vec<LeaseId>,
) -> Result<(), Status> {
    transaction.compare.iter().try_for_each(|compare: &Compare| who.may_read(&compare.range))?;
    let operations = transaction.success.iter().chain(&transaction.failure);
    for operation in operations {
        match operation {
            Operation::Range(range) => who.may_read(&range.range)?,
            Operation::Put(one) => put(who, one, leases)?,
            Operation::Delete(one) => delete(who, one)?,
            Operation::Transaction(nested) => self::transaction(who, nested, leases)?,
        }
    }
    Ok(())
}

/// Who attaches a key to a lease, or ends one, must be allowed to write all that hangs on it: its end
/// deletes that.
fn within(who: &Who, mut leases: Vec<LeaseId>, view: &View) -> Result<Vec<Condition>, Status> {
    let Who::User(granted) = who else {
        return Ok(Vec::new());
    };
    leases.sort_unstable();
    leases.dedup();
    let mut conditions = Vec::with_capacity(leases.len() + 1);
    for id in leases {
        for key in view.lease_keys(id).map_err(status::of_store)? {
            who.may_write(&KeyRange::One(key))?;
        }
        let ranges = granted.write.as_key_ranges();
        conditions.push(Condition::LeaseWithin { id, ranges });
    }
    Ok(conditions)
}

/// Whether a caller may be told which keys hang on a lease, or keep it alive.
pub(crate) fn lease(
    who: &Who,
    id: LeaseId,
    view: &View,
    may: fn(&Who, &KeyRange) -> Result<(), Status>,
) -> Result<(), Status> {
    if !matches!(who, Who::User(_)) {
        return Ok(());
    }
    let attached = view.lease_keys(id).map_err(status::of_store)?;
    attached.into_iter().try_for_each(|key| may(who, &KeyRange::One(key)))
}
