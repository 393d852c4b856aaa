//! What pods and nodes are told to do, by annotations on them.
//!
//! On a pod: `hollow.kontiki.io/does` with [`Does`], `…/after` with how long it takes until it does so, and
//! `…/ends-after` with how long it takes to end when it is deleted (never past its grace period). On a
//! node: `…/silent=true`.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub const DOES: &str = "hollow.kontiki.io/does";
pub const AFTER: &str = "hollow.kontiki.io/after";
pub const ENDS_AFTER: &str = "hollow.kontiki.io/ends-after";
pub const SILENT: &str = "hollow.kontiki.io/silent";

/// What becomes of a pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Does {
    /// `run`: it is ready, after a while.
    #[default]
    Run,
    /// `unready`: it runs and is never ready.
    Unready,
    /// `hang`: its containers are never made.
    Hang,
    /// `succeed`: its containers end well.
    Succeed,
    /// `fail`: its containers end with exit code 1.
    Fail,
}

/// The orders of one pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    pub does: Does,
    pub after: Duration,
    pub ends_after: Duration,
}

impl Orders {
    /// What is not understood counts as not said: there is nobody to tell.
    #[must_use]
    pub fn of(pod: &Pod) -> Orders {
        let said = |name: &str| annotation(&pod.metadata, name);
        Orders {
            does: match said(DOES) {
                Some("unready") => Does::Unready,
                Some("hang") => Does::Hang,
                Some("succeed") => Does::Succeed,
                Some("fail") => Does::Fail,
                _ => Does::Run,
            },
            after: said(AFTER).and_then(duration).unwrap_or_default(),
            ends_after: said(ENDS_AFTER).and_then(duration).unwrap_or_default(),
        }
    }
}

/// A node that is told to say nothing more.
#[must_use]
pub fn is_silent(node: &Node) -> bool {
    annotation(&node.metadata, SILENT) == Some("true")
}

fn annotation<'a>(metadata: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

/// `250ms`, `3s`, `2m`.
fn duration(text: &str) -> Option<Duration> {
    let at = text.find(|it: char| !it.is_ascii_digit())?;
    let number: u64 = text[..at].parse().ok()?;
    match &text[at..] {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_without_orders_runs_and_what_is_not_understood_is_not_said() {
        let pod = |annotations: serde_json::Value| -> Pod {
            serde_json::from_value(json!({"metadata": {"annotations": annotations}})).unwrap()
        };
        assert_eq!(Orders::of(&Pod::default()), Orders::default());
        let orders = Orders::of(&pod(json!({DOES: "fail", AFTER: "250ms", ENDS_AFTER: "3s"})));
        assert_eq!(orders.does, Does::Fail);
        assert_eq!(orders.after, Duration::from_millis(250));
        assert_eq!(orders.ends_after, Duration::from_secs(3));
        assert_eq!(Orders::of(&pod(json!({DOES: "dance", AFTER: "soon"}))), Orders::default());
        assert_eq!(duration("99999999999999999999s"), None);
    }
}
