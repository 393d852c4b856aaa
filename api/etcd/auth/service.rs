//! etcd's Auth service: changes of users and roles, and tokens for those who prove who they are.
//!
//! Keeps: each change is an edit of rows that holds only if nothing else has changed since it was thought
//! out, and raises the auth revision.

use std::collections::BTreeSet;

use kontiki_storage::request::{Delete, KeyRange, Operation, Put};
use kontiki_storage::revision::Revision;
use prost::Message;
use tonic::{Request, Response, Status};

use super::{ROOT, Role, RoleRow, User, UserRow};
use crate::etcd::control::{Control, State};
use crate::etcd::front::{Caller, Front, Service};
use crate::etcd::wire::authpb::Permission;
use crate::etcd::wire::etcdserverpb as pb;
use crate::etcd::wire::etcdserverpb::auth_server::Auth;
use crate::etcd::{keys, status};

/// Users that are changed by one edit. What is over goes into another; each only takes rights away.
const USERS_PER_EDIT_MAX: usize = 100;

#[derive(Clone)]
pub(crate) struct AuthService(pub(crate) Front);

/// Answers with nothing but the header, after a change that only an administrator may make.
macro_rules! change {
    (
        $service:ident, $request:ident, $response:ident,
        |$fields:pat_param, $control:pat_param| $edit:expr
    ) => {{
        let caller = $service.0.enter(&$request, Service::Voters)?;
        let $fields = $request.into_inner();
        let changed = $service.administer(&caller, |$control| $edit).await?;
        Ok(Response::new(pb::$response { header: Some($service.0.header_at(changed)) }))
    }};
}

#[tonic::async_trait]
impl Auth for AuthService {
    async fn auth_enable(
        &self,
        request: Request<pb::AuthEnableRequest>,
    ) -> Result<Response<pb::AuthEnableResponse>, Status> {
        let secret = bytes::Bytes::from(rand::random::<[u8; 32]>().to_vec());
        change!(self, request, AuthEnableResponse, |_, control| {
            let mut state = control.state.clone();
            if state.auth_enabled {
                return Ok((state, Vec::new()));
            }
            let root = control.permissions.users.get(ROOT);
            let root = root.ok_or_else(status::root_user_missing)?;
            if !root.roles.contains(ROOT) {
                return Err(status::root_role_missing());
            }
            state.auth_enabled = true;
            state.token_secret = secret.clone();
            Ok((state, Vec::new()))
        })
    }

    async fn auth_disable(
        &self,
        request: Request<pb::AuthDisableRequest>,
    ) -> Result<Response<pb::AuthDisableResponse>, Status> {
        change!(self, request, AuthDisableResponse, |_, control| {
            let mut state = control.state.clone();
            if state.auth_enabled {
                state.auth_enabled = false;
                state.token_secret = bytes::Bytes::new();
                state.auth_changes += 1;
            }
            Ok((state, Vec::new()))
        })
    }

    async fn auth_status(
        &self,
        request: Request<pb::AuthStatusRequest>,
    ) -> Result<Response<pb::AuthStatusResponse>, Status> {
        self.0.enter(&request, Service::Voters)?;
        let view = self.0.view(false).await?;
        let control = self.0.control(&view)?;
        Ok(Response::new(pb::AuthStatusResponse {
            header: Some(self.0.header_at(view.revision())),
            enabled: control.state.auth_enabled,
            auth_revision: control.auth_revision(),
        }))
    }

    async fn authenticate(
        &self,
        request: Request<pb::AuthenticateRequest>,
    ) -> Result<Response<pb::AuthenticateResponse>, Status> {
        self.0.enter(&request, Service::Voters)?;
        let pb::AuthenticateRequest { name, password } = request.into_inner();
        let control = self.0.control(&self.0.view(false).await?)?;
        if !control.state.auth_enabled {
            return Err(status::auth_not_enabled());
        }
        let user = control.permissions.users.get(&name);
        let hashed = user.and_then(|user| user.password.clone());
        if !self.0.passwords().verify(password, hashed).await? {
            return Err(status::auth_failed());
        }
        let token = self.0.tokens().issue(&name, &control)?;
        Ok(Response::new(pb::AuthenticateResponse { header: Some(self.0.header()), token }))
    }

    async fn user_add(
        &self,
        request: Request<pb::AuthUserAddRequest>,
    ) -> Result<Response<pb::AuthUserAddResponse>, Status> {
        let caller = self.0.enter(&request, Service::Voters)?;
        let pb::AuthUserAddRequest { name, password, options, .. } = request.into_inner();
        if name.is_empty() {
            return Err(status::user_empty());
        }
        self.may_administer(&caller).await?;
        let password = match options {
            Some(options) if options.no_password => None,
            _ => Some(self.0.passwords().hash(password).await?),
        };
        let changed = self
            .administer(&caller, |control| {
                if control.permissions.users.contains_key(&name) {
                    return Err(status::user_exists());
                }
                let state = raised(control);
                let since = state.auth_changes;
                let user = User { password: password.clone(), roles: BTreeSet::new(), since };
                Ok((state, vec![put_user(&name, user)]))
            })
            .await?;
        Ok(Response::new(pb::AuthUserAddResponse { header: Some(self.0.header_at(changed)) }))
    }

    async fn user_get(
        &self,
        request: Request<pb::AuthUserGetRequest>,
    ) -> Result<Response<pb::AuthUserGetResponse>, Status> {
        let caller = self.0.enter(&request, Service::Voters)?;
        let view = self.0.view(false).await?;
        let (control, who) = self.0.judge(&caller, &view)?;
        let name = request.into_inner().name;
        if who.name() != Some(&name) {
            who.may_administer()?;
        }
        let user = control.permissions.users.get(&name).ok_or_else(status::user_not_found)?;
        Ok(Response::new(pb::AuthUserGetResponse {
            header: Some(self.0.header_at(view.revision())),
            roles: user.roles.iter().cloned().collect(),
        }))
    }

    async fn user_list(
        &self,
        request: Request<pb::AuthUserListRequest>,
    ) -> Result<Response<pb::AuthUserListResponse>, Status> {
        let caller = self.0.enter(&request, Service::Voters)?;
        let view = self.0.view(false).await?;
        let (control, who) = self.0.judge(&caller, &view)?;
        who.may_administer()?;
        Ok(Response::new(pb::AuthUserListResponse {
            header: Some(self.0.header_at(view.revision())),
            users: control.permissions.users.keys().cloned().collect(),
        }))
    }

    async fn user_delete(
        &self,
        request: Request<pb::AuthUserDeleteRequest>,
    ) -> Result<Response<pb::AuthUserDeleteResponse>, Status> {
        change!(
            self,
            request,
            AuthUserDeleteResponse,
            |pb::AuthUserDeleteRequest { name }, control| {
                if control.state.auth_enabled && name == ROOT {
                    return Err(status::invalid_auth_management());
                }
                user_of(control, &name)?;
                Ok((raised(control), vec![delete(keys::user(&name))]))
            }
        )
    }

    async fn user_change_password(
        &self,
        request: Request<pb::AuthUserChangePasswordRequest>,
    ) -> Result<Response<pb::AuthUserChangePasswordResponse>, Status> {
        let caller = self.0.enter(&request, Service::Voters)?;
        let pb::AuthUserChangePasswordRequest { name, password, .. } = request.into_inner();
        self.may_administer(&caller).await?;
        let hashed = self.0.passwords().hash(password).await?;
        let changed = self
            .administer(&caller, |control| {
                let state = raised(control);
                let mut user = user_of(control, &name)?;
                // One that is known by its certificate alone stays so.
                user.password = user.password.and(Some(hashed.clone()));
                user.since = state.auth_changes;
                Ok((state, vec![put_user(&name, user)]))
            })
            .await?;
        let header = Some(self.0.header_at(changed));
        Ok(Response::new(pb::AuthUserChangePasswordResponse { header }))
    }

    async fn user_grant_role(
        &self,
        request: Request<pb::AuthUserGrantRoleRequest>,
    ) -> Result<Response<pb::AuthUserGrantRoleResponse>, Status> {
        type Fields = pb::AuthUserGrantRoleRequest;
        change!(self, request, AuthUserGrantRoleResponse, |Fields { user: name, role }, control| {
            let mut user = user_of(control, &name)?;
            if role != ROOT {
                role_of(control, &role)?;
            }
            if !user.roles.insert(role.clone()) {
                return Ok((control.state.clone(), Vec::new()));
            }
            Ok((raised(control), vec![put_user(&name, user)]))
        })
    }

    async fn user_revoke_role(
        &self,
        request: Request<pb::AuthUserRevokeRoleRequest>,
    ) -> Result<Response<pb::AuthUserRevokeRoleResponse>, Status> {
        type Fields = pb::AuthUserRevokeRoleRequest;
        change!(self, request, AuthUserRevokeRoleResponse, |Fields { name, role }, control| {
            if control.state.auth_enabled && name == ROOT && role == ROOT {
                return Err(status::invalid_auth_management());
            }
            let mut user = user_of(control, &name)?;
            if !user.roles.remove(&role) {
                return Err(status::role_not_granted());
            }
            Ok((raised(control), vec![put_user(&name, user)]))
        })
    }

    async fn role_add(
        &self,
        request: Request<pb::AuthRoleAddRequest>,
    ) -> Result<Response<pb::AuthRoleAddResponse>, Status> {
        change!(self, request, AuthRoleAddResponse, |pb::AuthRoleAddRequest { name }, control| {
            if name.is_empty() {
                return Err(status::role_empty());
            }
            if control.permissions.roles.contains_key(&name) {
                return Err(status::role_exists());
            }
            Ok((raised(control), vec![put_role(&name, Role::default())]))
        })
    }

    async fn role_get(
        &self,
        request: Request<pb::AuthRoleGetRequest>,
    ) -> Result<Response<pb::AuthRoleGetResponse>, Status> {
        let caller = self.0.enter(&request, Service::Voters)?;
        let view = self.0.view(false).await?;
        let (control, who) = self.0.judge(&caller, &view)?;
        let name = request.into_inner().role;
        let own = who.name().and_then(|name| control.permissions.users.get(name));
        if !own.is_some_and(|user| user.roles.contains(&name)) {
            who.may_administer()?;
        }
        let perm = match role_of(&control, &name)? {
            _ if name == ROOT => vec![everything()],
            role => role.permissions,
        };
        let header = Some(self.0.header_at(view.revision()));
        Ok(Response::new(pb::AuthRoleGetResponse { header, perm }))
    }

    async fn role_list(
        &self,
        request: Request<pb::AuthRoleListRequest>,
    ) -> Result<Response<pb::AuthRoleListResponse>, Status> {
        let caller = self.0.enter(&request, Service::Voters)?;
        let view = self.0.view(false).await?;
        let (control, who) = self.0.judge(&caller, &view)?;
        who.may_administer()?;
        Ok(Response::new(pb::AuthRoleListResponse {
            header: Some(self.0.header_at(view.revision())),
            roles: control.permissions.roles.keys().cloned().collect(),
        }))
    }

    async fn role_delete(
        &self,
        request: Request<pb::AuthRoleDeleteRequest>,
    ) -> Result<Response<pb::AuthRoleDeleteResponse>, Status> {
        let caller = self.0.enter(&request, Service::Voters)?;
        let name = request.into_inner().role;
        let mut over = true;
        while over {
            self.administer(&caller, |control| {
                let (state, operations, more) = without_role(control, &name)?;
                over = more;
                Ok((state, operations))
            })
            .await?;
        }
        Ok(Response::new(pb::AuthRoleDeleteResponse { header: Some(self.0.header()) }))
    }

    async fn role_grant_permission(
        &self,
        request: Request<pb::AuthRoleGrantPermissionRequest>,
    ) -> Result<Response<pb::AuthRoleGrantPermissionResponse>, Status> {
        type Fields = pb::AuthRoleGrantPermissionRequest;
        change!(self, request, AuthRoleGrantPermissionResponse, |Fields { name, perm }, control| {
            let given = perm.clone().ok_or_else(status::permission_not_given)?;
            if !is_range(&given) {
                return Err(status::invalid_auth_management());
            }
            let mut role = role_of(control, &name)?;
            role.permissions.retain(|it| !is_of(it, &given.key, &given.range_end));
            role.permissions.push(given);
            role.permissions.sort_by(|a, b| a.key.cmp(&b.key));
            Ok((raised(control), vec![put_role(&name, role)]))
        })
    }

    async fn role_revoke_permission(
        &self,
        request: Request<pb::AuthRoleRevokePermissionRequest>,
    ) -> Result<Response<pb::AuthRoleRevokePermissionResponse>, Status> {
        type Fields = pb::AuthRoleRevokePermissionRequest;
        change!(
            self,
            request,
            AuthRoleRevokePermissionResponse,
            |Fields { role: name, key, range_end }, control| {
                let mut role = role_of(control, &name)?;
                let before = role.permissions.len();
                role.permissions.retain(|it| !is_of(it, &key, &range_end));
                if role.permissions.len() == before {
                    return Err(status::permission_not_granted());
                }
                Ok((raised(control), vec![put_role(&name, role)]))
            }
        )
    }
}

impl AuthService {
    async fn may_administer(&self, caller: &Caller) -> Result<(), Status> {
        let control = self.0.control(&self.0.view(false).await?)?;
        self.0.who(caller, &control)?.may_administer()
    }

    /// An edit of the rows by one who may, at the moment it is made.
    async fn administer(
        &self,
        caller: &Caller,
        mut edit: impl FnMut(&Control) -> Result<(State, Vec<Operation>), Status>,
    ) -> Result<Revision, Status> {
        let front = &self.0;
        front
            .edit(|control| {
                front.who(caller, control)?.may_administer()?;
                edit(control)
            })
            .await
    }
}

/// The state after one more change.
fn raised(control: &Control) -> State {
    let mut state = control.state.clone();
    state.auth_changes += 1;
    state
}

fn user_of(control: &Control, name: &str) -> Result<User, Status> {
    control.permissions.users.get(name).cloned().ok_or_else(status::user_not_found)
}

fn role_of(control: &Control, name: &str) -> Result<Role, Status> {
    control.permissions.roles.get(name).cloned().ok_or_else(status::role_not_found)
}

fn put_user(name: &str, user: User) -> Operation {
    put(keys::user(name), UserRow::from(user).encode_to_vec())
}

fn put_role(name: &str, role: Role) -> Operation {
    put(keys::role(name), RoleRow::from(role).encode_to_vec())
}

fn put(key: bytes::Bytes, value: Vec<u8>) -> Operation {
    Operation::Put(Put { key, value: value.into(), ..Put::default() })
}

fn delete(key: bytes::Bytes) -> Operation {
    Operation::Delete(Delete { range: KeyRange::One(key), previous: false })
}

/// Takes a role from those who have it, and away when nobody has it any more.
fn without_role(control: &Control, name: &str) -> Result<(State, Vec<Operation>, bool), Status> {
    if control.state.auth_enabled && name == ROOT {
        return Err(status::invalid_auth_management());
    }
    role_of(control, name)?;
    let mut holders =
        control.permissions.users.iter().filter(|(_, user)| user.roles.contains(name));
    let mut operations: Vec<Operation> = holders
        .by_ref()
        .take(USERS_PER_EDIT_MAX)
        .map(|(holder, user)| {
            let mut user = user.clone();
            user.roles.remove(name);
            put_user(holder, user)
        })
        .collect();
    let more = holders.next().is_some();
    if !more {
        operations.push(delete(keys::role(name)));
    }
    Ok((raised(control), operations, more))
}

fn everything() -> Permission {
    use crate::etcd::wire::authpb::permission::Type;
    Permission {
        perm_type: Type::Readwrite.into(),
        key: bytes::Bytes::new(),
        range_end: bytes::Bytes::from_static(b"\0"),
    }
}

fn is_of(permission: &Permission, key: &[u8], range_end: &[u8]) -> bool {
    permission.key == key && permission.range_end == range_end
}

fn is_range(permission: &Permission) -> bool {
    let Permission { key, range_end, .. } = permission;
    let open = matches!(range_end.as_ref(), [] | [0]);
    !key.is_empty() && (open || key < range_end)
}
