//! StorageObjectInUseProtection: claims, volumes and their attribute classes stay while something uses them.

use futures::future::BoxFuture;
use serde_json::json;

use super::{Attempt, Plugin};
use crate::error::Status;
use crate::live::pod::items;

pub(super) struct StorageProtection;

const FINALIZERS: [(&str, &str, &str); 3] = [
    ("", "persistentvolumeclaims", "kubernetes.io/pvc-protection"),
    ("", "persistentvolumes", "kubernetes.io/pv-protection"),
    ("storage.k8s.io", "volumeattributesclasses", "kubernetes.io/vac-protection"),
];

impl Plugin for StorageProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    fn mutate<'a>(&'a self, attempt: &'a mut Attempt<'_>) -> BoxFuture<'a, Result<(), Status>> {
        let ours = FINALIZERS.iter().find(|(group, resource, _)| attempt.is_of(group, resource));
        if attempt.is_create()
            && let Some((_, _, finalizer)) = ours
            && let Some(object) = attempt.object.as_mut()
        {
            let metadata = &mut object["metadata"];
            if !items(&metadata["finalizers"]).any(|it| it == finalizer) {
                match metadata["finalizers"].as_array_mut() {
                    Some(finalizers) => finalizers.push((*finalizer).into()),
                    None => metadata["finalizers"] = json!([finalizer]),
                }
            }
        }
        Box::pin(async { Ok(()) })
    }
}
