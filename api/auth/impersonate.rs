//! Asking in another's name: what the headers of a request want, what must be allowed for it, who comes out.
//!
//! Pure. The front lets the authorizer decide each check for the real user, refuses if one is not allowed,
//! and goes on as the new one.

use http::HeaderMap;

use super::authenticate::{ANONYMOUS, GROUP_UNAUTHENTICATED};
use super::tokens::claims;
use super::{Attributes, GROUP_AUTHENTICATED};
use crate::error::Status;
use crate::request::User;

const USER: &str = "impersonate-user";
const UID: &str = "impersonate-uid";
const GROUP: &str = "impersonate-group";
const EXTRA: &str = "impersonate-extra-";

/// What must be allowed to the real user: verb `impersonate` on this.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Check {
    group: &'static str,
    version: &'static str,
    resource: &'static str,
    subresource: String,
    namespace: String,
    name: String,
}

impl Check {
    #[must_use]
    pub fn attributes<'a>(&'a self, real: &'a User) -> Attributes<'a> {
        Attributes {
            group: self.group,
            version: self.version,
            resource: self.resource,
            subresource: &self.subresource,
            namespace: &self.namespace,
            name: &self.name,
            ..Attributes::of(real, "impersonate")
        }
    }
}

/// Who a request wants to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Impersonation {
    pub user: User,
    /// All must be allowed.
    pub checks: Vec<Check>,
}

/// Reads the headers; `None` if they ask for nobody else.
pub fn read(headers: &HeaderMap) -> Result<Option<Impersonation>, Status> {
    let all = |name: &str| -> Vec<String> {
        let values = headers.get_all(name).iter();
        values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect()
    };
    let name = all(USER).into_iter().next().unwrap_or_default();
    let uid = all(UID).into_iter().next().unwrap_or_default();
    let mut groups = all(GROUP);
    let extra = extra_of(headers);
    if name.is_empty() {
        if groups.is_empty() && uid.is_empty() && extra.is_empty() {
            return Ok(None);
        }
        let mut asked: Vec<String> = groups.iter().map(|it| format!("group {it:?}")).collect();
        asked.extend(extra.iter().map(|(key, _)| format!("extra {key:?}")));
        asked.extend((!uid.is_empty()).then(|| format!("uid {uid:?}")));
        let asked = asked.join(", ");
        let message = format!("requested [{asked}] without impersonating a user");
        return Err(Status::bad_request(message));
    }
    let mut checks = Vec::new();
    match claims::account_of(&name) {
        Some((namespace, account)) => {
            checks.push(Check {
                version: "v1",
                resource: "serviceaccounts",
                namespace: namespace.into(),
                name: account.into(),
                ..Check::default()
            });
        }
        None => checks.push(Check {
            version: "v1",
            resource: "users",
            name: name.clone(),
            ..Check::default()
        }),
    }
    checks.extend(groups.iter().map(|group| Check {
        version: "v1",
        resource: "groups",
        name: group.clone(),
        ..Check::default()
    }));
    let authentication =
        Check { group: "authentication.k8s.io", version: "v1", ..Check::default() };
    for (key, values) in &extra {
        checks.extend(values.iter().map(|value| Check {
            resource: "userextras",
            subresource: key.clone(),
            name: value.clone(),
            ..authentication.clone()
        }));
    }
    if !uid.is_empty() {
        checks.push(Check { resource: "uids", name: uid.clone(), ..authentication });
    }
    if groups.is_empty()
        && let Some((namespace, _)) = claims::account_of(&name)
    {
        groups = claims::groups(namespace);
    }
    let is_in = |group: &str| groups.iter().any(|it| it == group);
    let added = if name == ANONYMOUS {
        (!is_in(GROUP_UNAUTHENTICATED)).then_some(GROUP_UNAUTHENTICATED)
    } else {
        let known = is_in(GROUP_AUTHENTICATED) || is_in(GROUP_UNAUTHENTICATED);
        (!known).then_some(GROUP_AUTHENTICATED)
    };
    groups.extend(added.map(str::to_owned));
    Ok(Some(Impersonation { user: User { name, uid, groups, extra }, checks }))
}

/// `Impersonate-Extra-<key>`, the key in lower case and with its escapes undone; each key once.
fn extra_of(headers: &HeaderMap) -> Vec<(String, Vec<String>)> {
    let mut extra: Vec<(String, Vec<String>)> = Vec::new();
    for (name, value) in headers {
        let Some(key) = name.as_str().strip_prefix(EXTRA) else { continue };
        let decoded = percent_encoding::percent_decode_str(key).decode_utf8();
        let key = decoded.map_or_else(|_| key.to_owned(), |key| key.into_owned());
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        match extra.iter_mut().find(|(there, _)| *there == key) {
            Some((_, values)) => values.push(value),
            None => extra.push((key, vec![value])),
        }
    }
    extra.sort();
    extra
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(headers: &[(&str, &str)]) -> Result<Option<Impersonation>, Status> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(http::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        read(&map)
    }

    fn told(impersonation: &Impersonation) -> Vec<String> {
        let one = |check: &Check| {
            let Check { group, resource, subresource, namespace, name, .. } = check;
            format!("{group}/{resource}/{subresource} {namespace}/{name}")
        };
        impersonation.checks.iter().map(one).collect()
    }

    #[test]
    fn each_part_of_another_user_is_checked() {
        let asked = check(&[
            ("Impersonate-User", "jane"),
            ("Impersonate-Group", "devs"),
            ("Impersonate-Uid", "7"),
            ("Impersonate-Extra-Acme.com%2Fproject", "x"),
        ]);
        let asked = asked.unwrap().unwrap();
        assert_eq!(
            told(&asked),
            [
                "/users/ /jane",
                "/groups/ /devs",
                "authentication.k8s.io/userextras/acme.com/project /x",
                "authentication.k8s.io/uids/ /7",
            ]
        );
        assert_eq!(asked.user.groups, ["devs", GROUP_AUTHENTICATED]);
        assert_eq!(asked.user.extra, [("acme.com/project".to_owned(), vec!["x".to_owned()])]);
    }

    #[test]
    fn a_service_account_gets_its_groups_if_none_are_named() {
        let asked = check(&[("Impersonate-User", "system:serviceaccount:ns:bot")]);
        let asked = asked.unwrap().unwrap();
        assert_eq!(told(&asked), ["/serviceaccounts/ ns/bot"]);
        assert_eq!(
            asked.user.groups,
            ["system:serviceaccounts", "system:serviceaccounts:ns", GROUP_AUTHENTICATED]
        );
        let asked = check(&[("Impersonate-User", ANONYMOUS)]).unwrap().unwrap();
        assert_eq!(asked.user.groups, [GROUP_UNAUTHENTICATED]);
    }

    #[test]
    fn groups_alone_are_refused_and_nothing_is_nobody() {
        assert_eq!(check(&[]).unwrap(), None);
        let status = check(&[("Impersonate-Group", "devs")]).unwrap_err();
        assert_eq!(status.code(), 400);
    }
}
