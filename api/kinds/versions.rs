//! The order of the versions of an API: `v2`, `v1`, `v1beta2`, `v1beta1`, `v1alpha1`, then whatever else.

use std::cmp::{Ordering, Reverse};

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Stable,
    Beta,
    Alpha,
}

/// Best first.
#[must_use]
pub fn compare(a: &str, b: &str) -> Ordering {
    match (parse(a), parse(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => a.cmp(b),
    }
}

fn parse(version: &str) -> Option<(Stage, Reverse<u64>, Reverse<u64>)> {
    let rest = version.strip_prefix('v')?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (major, rest) = rest.split_at(digits);
    let major = Reverse(major.parse().ok()?);
    let minor = |rest: &str| match rest.bytes().all(|b| b.is_ascii_digit()) {
        true => rest.parse().ok().map(Reverse),
        false => None,
    };
    if rest.is_empty() {
        Some((Stage::Stable, major, Reverse(0)))
    } else if let Some(rest) = rest.strip_prefix("beta") {
        Some((Stage::Beta, major, minor(rest)?))
    } else {
        Some((Stage::Alpha, major, minor(rest.strip_prefix("alpha")?)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stable_comes_before_beta_before_alpha_before_the_rest() {
        let mut versions = [
            "foo10",
            "v1alpha1",
            "v12alpha1",
            "v1",
            "v3beta1",
            "v10",
            "v11beta2",
            "foo1",
            "v2",
            "v1beta",
        ];
        versions.sort_by(|a, b| compare(a, b));
        assert_eq!(
            versions,
            [
                "v10",
                "v2",
                "v1",
                "v11beta2",
                "v3beta1",
                "v12alpha1",
                "v1alpha1",
                "foo1",
                "foo10",
                "v1beta"
            ]
        );
    }
}
