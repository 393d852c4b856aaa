//! DefaultStorageClass and DefaultIngressClass: what names no class gets the default one, the newest if there
//! are several.

use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::Value;

use super::{Attempt, Operation, Plugin};
use crate::error::Status;
use crate::live::Live;
use crate::objects::Object;

pub(super) struct DefaultStorageClass(pub(super) Arc<Live>);

impl Plugin for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    fn mutate<'a>(&'a self, attempt: &'a mut Attempt<'_>) -> BoxFuture<'a, Result<(), Status>> {
        if attempt.is_create()
            && attempt.is_of("", "persistentvolumeclaims")
            && let Some(claim) = attempt.object.as_mut()
            && claim["spec"]["storageClassName"].is_null()
            && claim["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"].is_null()
        {
            let marks = [
                "storageclass.kubernetes.io/is-default-class",
                "storageclass.beta.kubernetes.io/is-default-class",
            ];
            if let Some(name) = default_of(&self.0.storage_classes.all(), &marks) {
                claim["spec"]["storageClassName"] = name.into();
            }
        }
        Box::pin(async { Ok(()) })
    }
}

pub(super) struct DefaultIngressClass(pub(super) Arc<Live>);

impl Plugin for DefaultIngressClass {
    fn name(&self) -> &'static str {
        "DefaultIngressClass"
    }

    fn mutate<'a>(&'a self, attempt: &'a mut Attempt<'_>) -> BoxFuture<'a, Result<(), Status>> {
        if attempt.operation == Operation::Create
            && attempt.is_of("networking.k8s.io", "ingresses")
            && let Some(ingress) = attempt.object.as_mut()
            && ingress["spec"]["ingressClassName"].is_null()
            && ingress["metadata"]["annotations"]["kubernetes.io/ingress.class"].is_null()
        {
            let marks = ["ingressclass.kubernetes.io/is-default-class"];
            if let Some(name) = default_of(&self.0.ingress_classes.all(), &marks) {
                ingress["spec"]["ingressClassName"] = name.into();
            }
        }
        Box::pin(async { Ok(()) })
    }
}

fn default_of(classes: &[Object], marks: &[&str]) -> Option<String> {
    newest_marked(classes.iter().filter_map(|class| class.value().ok()), marks)
}

/// The newest of the classes that one of the annotations marks; of the same age, the first by name.
fn newest_marked<'a>(classes: impl Iterator<Item = &'a Value>, marks: &[&str]) -> Option<String> {
    let marked = classes
        .filter(|class| marks.iter().any(|mark| class["metadata"]["annotations"][mark] == "true"));
    let text =
        |class: &'a Value, field: &str| class["metadata"][field].as_str().unwrap_or_default();
    let newest = marked.min_by(|a, b| {
        let by_age = text(b, "creationTimestamp").cmp(text(a, "creationTimestamp"));
        by_age.then_with(|| text(a, "name").cmp(text(b, "name")))
    });
    newest.map(|class| text(class, "name").to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_newest_default_wins() {
        let class = |name: &str, at: &str, marked: &str| {
            let annotations = json!({ "m": marked });
            json!({"metadata": {
                "name": name, "creationTimestamp": at, "annotations": annotations,
            }})
        };
        let classes = [
            class("b", "2026-01-02T00:00:00Z", "true"),
            class("a", "2026-01-01T00:00:00Z", "true"),
            class("c", "2026-01-03T00:00:00Z", "false"),
        ];
        assert_eq!(newest_marked(classes.iter(), &["m"]).as_deref(), Some("b"));
        assert_eq!(newest_marked(classes.iter(), &["n"]), None);
    }
}
