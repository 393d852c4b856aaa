//! Users, roles, and what they may do.
//!
//! [`rules`] decides, [`ranges`] is sets of keys, [`tokens`] tells who a token stands for, [`passwords`]
//! hashes, [`service`] is etcd's Auth service over the rows.
//!
//! Keeps: passwords are hashed before anything is proposed; neither the log nor a row holds one.
//! Never: a decision anywhere but in [`rules`].

pub(crate) mod passwords;
pub(crate) mod ranges;
pub(crate) mod rules;
pub(crate) mod service;
pub(crate) mod tokens;

use std::collections::BTreeSet;

use super::wire::authpb::Permission;

pub(crate) use passwords::Passwords;
pub(crate) use rules::Permissions;
pub(crate) use tokens::Tokens;
pub use tokens::{Clock, Jwt, TokenKind};

/// The user and the role that may do everything.
pub(crate) const ROOT: &str = "root";

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct User {
    /// As a PHC string. `None` for one that is known by its certificate alone.
    pub(crate) password: Option<String>,
    pub(crate) roles: BTreeSet<String>,
    /// The auth revision at which the password was set; tokens from before it are void.
    pub(crate) since: u64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Role {
    /// By key.
    pub(crate) permissions: Vec<Permission>,
}

/// A user's row.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct UserRow {
    #[prost(string, optional, tag = "1")]
    password: Option<String>,
    #[prost(string, repeated, tag = "2")]
    roles: Vec<String>,
    #[prost(uint64, tag = "3")]
    since: u64,
}

/// A role's row.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct RoleRow {
    #[prost(message, repeated, tag = "1")]
    permissions: Vec<Permission>,
}

impl From<UserRow> for User {
    fn from(row: UserRow) -> User {
        let UserRow { password, roles, since } = row;
        User { password, roles: roles.into_iter().collect(), since }
    }
}

impl From<User> for UserRow {
    fn from(user: User) -> UserRow {
        let User { password, roles, since } = user;
        UserRow { password, roles: roles.into_iter().collect(), since }
    }
}

impl From<RoleRow> for Role {
    fn from(row: RoleRow) -> Role {
        Role { permissions: row.permissions }
    }
}

impl From<Role> for RoleRow {
    fn from(role: Role) -> RoleRow {
        RoleRow { permissions: role.permissions }
    }
}
