//! The front's own rows, read: who may do what, and which alarms are raised.
//!
//! All of it stands under reserved keys (`keys`), so it is replicated, and restored, with the data it is
//! about. Each change rewrites the state row too; a guarded write names the version of that row by which
//! it was judged, and is refused where the row has changed since.
//!
//! Keeps: what is cached is what stands in the rows at the state row's revision.
//! Never: judges; that is `auth::rules`.

use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use kontiki_storage::Error;
use kontiki_storage::request::{Compare, Condition, KeyRange, Operand, Range, Relation};
use kontiki_storage::revision::Revision;
use kontiki_storage::view::View;
use prost::Message;

use super::auth::{self, Permissions, Role, User};
use super::keys::{self, Row};
use super::wire::etcdserverpb::AlarmType;

/// What the state row holds.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct State {
    #[prost(bool, tag = "1")]
    pub(crate) auth_enabled: bool,
    /// Counts the changes of users, roles and of whether they matter. One less than what is shown, so
    /// that an absent row means the first.
    #[prost(uint64, tag = "2")]
    pub(crate) auth_changes: u64,
    /// Signs tokens; new each time authentication is enabled.
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) token_secret: Bytes,
    #[prost(message, repeated, tag = "4")]
    pub(crate) alarms: Vec<Alarm>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, prost::Message)]
pub(crate) struct Alarm {
    #[prost(uint64, tag = "1")]
    pub(crate) member: u64,
    #[prost(enumeration = "AlarmType", tag = "2")]
    pub(crate) kind: i32,
}

/// All rows at one moment.
#[derive(Debug, Default)]
pub(crate) struct Control {
    /// At which the state row was written last; zero where there is none.
    pub(crate) revision: Revision,
    pub(crate) state: State,
    pub(crate) permissions: Permissions,
}

impl Control {
    fn load(view: &View) -> Result<Control, Error> {
        let answer = view.range(&Range::new(keys::all()))?;
        let mut control = Control::default();
        let (mut users, mut roles) = (Vec::new(), Vec::new());
        for kv in answer.kvs {
            let damaged = || Error::Damaged(format!("a row of the front's own: {:02x?}", kv.key));
            match keys::read(&kv.key).ok_or_else(damaged)? {
                Row::State => {
                    control.state = State::decode(kv.value.clone()).map_err(|_| damaged())?;
                    control.revision = kv.modified;
                }
                Row::User(name) => {
                    let user = auth::UserRow::decode(kv.value.clone()).map_err(|_| damaged())?;
                    users.push((name.to_owned(), User::from(user)));
                }
                Row::Role(name) => {
                    let role = auth::RoleRow::decode(kv.value.clone()).map_err(|_| damaged())?;
                    roles.push((name.to_owned(), Role::from(role)));
                }
            }
        }
        control.permissions = Permissions::new(users, roles);
        Ok(control)
    }

    pub(crate) fn auth_revision(&self) -> u64 {
        self.state.auth_changes + 1
    }

    /// That nothing has changed since this was read.
    pub(crate) fn unchanged(&self) -> Condition {
        Condition::Compare(Compare {
            range: KeyRange::One(keys::state()),
            relation: Relation::Equal,
            operand: Operand::Modified(self.revision),
        })
    }

    pub(crate) fn has_alarm(&self, kind: AlarmType) -> bool {
        self.state.alarms.iter().any(|alarm| alarm.kind() == kind)
    }
}

/// The newest rows that were read.
#[derive(Default)]
pub(crate) struct Cache(ArcSwap<Control>);

impl Cache {
    /// What stands in the rows at the moment of `view`.
    pub(crate) fn at(&self, view: &View) -> Result<Arc<Control>, Error> {
        let written = view.get(&keys::state())?.map_or(Revision::ZERO, |kv| kv.modified);
        let cached = self.0.load();
        if cached.revision == written {
            return Ok(cached.clone());
        }
        let loaded = Arc::new(Control::load(view)?);
        // A view of an older moment may come late; it must not push out what is newer for long, and
        // does not: the next reader loads again.
        self.0.store(loaded.clone());
        Ok(loaded)
    }
}
