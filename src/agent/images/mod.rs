//! The images of containers: when they are pulled, with whose credentials, and those of our own.

pub mod archives;
pub mod collection;
pub mod credentials;
pub mod own;

use k8s_openapi::api::core::v1::Container;

/// Pulls of all pods at a time.
pub const PULLS_MAX: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    Always,
    IfNotPresent,
    Never,
}

/// What the container says, or what its tag means.
#[must_use]
pub fn policy(container: &Container) -> Policy {
    match container.image_pull_policy.as_deref() {
        Some("Always") => Policy::Always,
        Some("Never") => Policy::Never,
        Some(_) => Policy::IfNotPresent,
        None => {
            let name = normal(container.image.as_deref().unwrap_or_default()).unwrap_or_default();
            if name.ends_with(":latest") { Policy::Always } else { Policy::IfNotPresent }
        }
    }
}

/// The full name of an image: with its registry and its tag or digest. `nginx` is
/// `docker.io/library/nginx:latest`.
#[must_use]
pub fn normal(image: &str) -> Option<String> {
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    let (name, tag) = match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (name, None),
    };
    let (registry, path) = match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
        _ => ("docker.io", name),
    };
    let lower =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-/".contains(&byte);
    let good_tag = |tag: &str| {
        !tag.is_empty() && tag.bytes().all(|it| it.is_ascii_alphanumeric() || b"._-".contains(&it))
    };
    if path.is_empty()
        || !path.bytes().all(lower)
        || path.split('/').any(str::is_empty)
        || !tag.is_none_or(good_tag)
    {
        return None;
    }
    let library = registry == "docker.io" && !path.contains('/');
    let path = if library { format!("library/{path}") } else { path.to_owned() };
    Some(match digest {
        Some(digest) => format!("{registry}/{path}@{digest}"),
        None => format!("{registry}/{path}:{}", tag.unwrap_or("latest")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_one_full_name() {
        for (said, meant) in [
            ("nginx", Some("docker.io/library/nginx:latest")),
            ("a/b:1", Some("docker.io/a/b:1")),
            ("localhost:5000/a", Some("localhost:5000/a:latest")),
            ("quay.io/a/b@sha256:00", Some("quay.io/a/b@sha256:00")),
            ("Upper", None),
            ("a//b", None),
            ("", None),
            ("a:b c", None),
        ] {
            assert_eq!(normal(said).as_deref(), meant, "{said}");
        }
    }

    #[test]
    fn what_may_change_is_pulled_always() {
        let of =
            |image: &str| policy(&Container { image: Some(image.into()), ..Container::default() });
        assert_eq!(of("nginx"), Policy::Always);
        assert_eq!(of("nginx:latest"), Policy::Always);
        assert_eq!(of("nginx:1"), Policy::IfNotPresent);
        assert_eq!(of("nginx@sha256:00"), Policy::IfNotPresent);
    }
}
