//! Where objects lie in the store.
//!
//! `/registry/<group or core>/<resource>/<namespace>/<name>`, without the namespace for cluster scope. Names
//! and namespaces hold no slash, so each set of objects is the range that begins with its name and a slash,
//! and no name is a prefix of another.

use bytes::Bytes;
use kontiki_storage::request::KeyRange;

use crate::kinds::kind::Stored;

/// What all keys of objects begin with.
pub const ROOT: &str = "/registry/";

/// What all keys of a resource begin with, slash included.
#[must_use]
pub fn of_resource(of: &Stored) -> String {
    let group = if of.group.is_empty() { "core" } else { &of.group };
    format!("{ROOT}{group}/{}/", of.resource)
}

/// The key of one object. `namespace` is empty for cluster scope.
#[must_use]
pub fn of_object(of: &Stored, namespace: &str, name: &str) -> Bytes {
    let mut key = of_resource(of);
    if !namespace.is_empty() {
        key.push_str(namespace);
        key.push('/');
    }
    key.push_str(name);
    key.into()
}

/// All objects of a resource, or those of one namespace.
#[must_use]
pub fn range(of: &Stored, namespace: Option<&str>) -> KeyRange {
    let mut prefix = of_resource(of);
    if let Some(namespace) = namespace.filter(|it| !it.is_empty()) {
        prefix.push_str(namespace);
        prefix.push('/');
    }
    KeyRange::prefix(prefix)
}

/// The part of a key behind its resource: `namespace/name`, or `name`.
#[must_use]
pub fn within<'a>(of: &Stored, key: &'a [u8]) -> Option<&'a str> {
    std::str::from_utf8(key.strip_prefix(of_resource(of).as_bytes())?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(group: &str, resource: &str) -> Stored {
        Stored {
            group: group.into(),
            resource: resource.into(),
            version: "v1".into(),
            kind: "K".into(),
        }
    }

    #[test]
    fn a_namespace_is_no_prefix_of_another() {
        let pods = stored("", "pods");
        let range = range(&pods, Some("a"));
        assert!(range.contains(&of_object(&pods, "a", "x")));
        assert!(!range.contains(&of_object(&pods, "ab", "x")));
        assert!(!range.contains(&of_object(&pods, "a-b", "x")));
        assert_eq!(of_object(&pods, "a", "x"), "/registry/core/pods/a/x");
        assert_eq!(
            of_object(&stored("apps", "deployments"), "", "x"),
            "/registry/apps/deployments/x"
        );
    }

    #[test]
    fn a_resource_is_no_prefix_of_another() {
        let range = range(&stored("", "pods"), None);
        assert!(!range.contains(&of_object(&stored("", "podtemplates"), "a", "x")));
        assert_eq!(within(&stored("", "pods"), b"/registry/core/pods/a/x"), Some("a/x"));
    }
}
