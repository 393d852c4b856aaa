//! What a namespace's labels ask of its pods. Pure.
//!
//! Keeps: a policy always comes out. A label that cannot be read is told, and enforced as strictly as can be;
//! warnings and audit fail open.

use std::fmt;

use serde_json::{Map, Value};

use crate::error::Cause;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    #[default]
    Privileged,
    Baseline,
    Restricted,
}

/// A minor version of Kubernetes 1, or the newest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    #[default]
    Latest,
    Minor(u32),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standard {
    pub level: Level,
    pub version: Version,
}

/// By mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    pub enforce: Standard,
    pub audit: Standard,
    pub warn: Standard,
}

impl fmt::Display for Standard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        match self.version {
            Version::Latest => write!(f, "{level}:latest"),
            Version::Minor(minor) => write!(f, "{level}:v1.{minor}"),
        }
    }
}

impl Policy {
    #[must_use]
    pub fn privileged(&self) -> bool {
        [self.enforce, self.audit, self.warn].iter().all(|it| it.level == Level::Privileged)
    }
}

/// Reads the labels of a namespace, with what is wrong with them.
#[must_use]
pub fn read(labels: &Value) -> (Policy, Vec<Cause>) {
    let empty = Map::new();
    let labels = labels.as_object().unwrap_or(&empty);
    let mut reader = Reader { labels, wrong: Vec::new() };
    let mut policy = Policy::default();
    let enforce = reader.level("enforce");
    if let Some(level) = enforce {
        policy.enforce.level = level.unwrap_or(Level::Restricted);
    }
    reader.version("enforce-version", &mut policy.enforce);
    if let Some(level) = reader.level("audit") {
        policy.audit.level = level.unwrap_or_default();
    }
    reader.version("audit-version", &mut policy.audit);
    let warn = reader.level("warn");
    if let Some(level) = warn {
        policy.warn.level = level.unwrap_or_default();
    }
    let warn_version = reader.version("warn-version", &mut policy.warn);
    // Who enforces is warned as well, so that workloads tell before their pods are refused.
    if warn.is_none() && enforce.flatten().is_some() && policy.enforce.level > policy.warn.level {
        policy.warn.level = policy.enforce.level;
        if !warn_version {
            policy.warn.version = policy.enforce.version;
        }
    }
    (policy, reader.wrong)
}

struct Reader<'a> {
    labels: &'a Map<String, Value>,
    wrong: Vec<Cause>,
}

impl Reader<'_> {
    fn text(&self, label: &str) -> Option<&str> {
        self.labels.get(&format!("pod-security.kubernetes.io/{label}")).and_then(Value::as_str)
    }

    fn is_wrong(&mut self, label: &str, value: &str, why: &str) {
        self.wrong.push(Cause {
            reason: "FieldValueInvalid".into(),
            message: format!("Invalid value: {value:?}: {why}"),
            field: format!("metadata.labels[pod-security.kubernetes.io/{label}]"),
        });
    }

    /// Absent, or unreadable, or a level.
    fn level(&mut self, label: &str) -> Option<Option<Level>> {
        let level = match self.text(label)? {
            "privileged" => Level::Privileged,
            "baseline" => Level::Baseline,
            "restricted" => Level::Restricted,
            other => {
                let other = other.to_owned();
                self.is_wrong(label, &other, "must be one of privileged, baseline, restricted");
                return Some(None);
            }
        };
        Some(Some(level))
    }

    fn version(&mut self, label: &str, into: &mut Standard) -> bool {
        let Some(text) = self.text(label).map(str::to_owned) else { return false };
        into.version = Version::Latest;
        let minor = text.strip_prefix("v1.").filter(|digits| {
            digits.bytes().all(|it| it.is_ascii_digit())
                && (*digits == "0" || !digits.starts_with('0'))
        });
        match minor.and_then(|digits| digits.parse().ok()) {
            Some(minor) => into.version = Version::Minor(minor),
            None if text == "latest" => {}
            None => self.is_wrong(label, &text, "must be \"latest\" or \"v1.x\""),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(labels: &[(&str, &str)]) -> (String, usize) {
        let labels: Map<String, Value> = labels
            .iter()
            .map(|(label, value)| (format!("pod-security.kubernetes.io/{label}"), json!(value)))
            .collect();
        let (policy, wrong) = read(&Value::Object(labels));
        (format!("{} {} {}", policy.enforce, policy.audit, policy.warn), wrong.len())
    }

    #[test]
    fn labels_make_a_policy() {
        let nothing = "privileged:latest privileged:latest privileged:latest";
        let cases: [(&[(&str, &str)], &str, usize); 7] = [
            (&[], nothing, 0),
            (
                &[("enforce", "baseline"), ("enforce-version", "v1.24")],
                "baseline:v1.24 privileged:latest baseline:v1.24",
                0,
            ),
            (
                &[("enforce", "restricted"), ("warn", "privileged")],
                "restricted:latest privileged:latest privileged:latest",
                0,
            ),
            (&[("enforce", "strict")], "restricted:latest privileged:latest privileged:latest", 1),
            (&[("audit", "strict"), ("warn", "x")], nothing, 2),
            (&[("warn-version", "1.24")], nothing, 1),
            (&[("warn-version", "v1.024")], nothing, 1),
        ];
        for (labels, policy, wrong) in cases {
            assert_eq!(check(labels), (policy.to_owned(), wrong), "{labels:?}");
        }
    }
}
