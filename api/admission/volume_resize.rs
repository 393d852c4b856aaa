//! PersistentVolumeClaimResize: a claim grows only if it is bound and its class lets it.

use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::Value;

use super::{Attempt, Operation, Plugin};
use crate::error::Status;
use crate::kinds::kind::Stored;
use crate::live::{self, Live};
use crate::object::Quantity;
use crate::objects::Objects;

const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

pub(super) struct VolumeResize {
    live: Arc<Live>,
    objects: Objects,
    classes: Stored,
}

impl VolumeResize {
    pub(super) fn new(live: Arc<Live>, objects: Objects) -> VolumeResize {
        let classes = live::stored("storage.k8s.io", "storageclasses", "v1", "StorageClass");
        VolumeResize { live, objects, classes }
    }

    async fn check(&self, attempt: &Attempt<'_>) -> Result<(), Status> {
        let (Some(new), Some(old)) = (&attempt.object, attempt.old) else { return Ok(()) };
        if size(new) <= size(old) {
            return Ok(());
        }
        if old["status"]["phase"] != "Bound" {
            return Err(attempt.forbidden("Only bound persistent volume claims can be expanded"));
        }
        let (class, before) = (class_of(new), class_of(old));
        let mut allowed = false;
        if !class.is_empty() && class == before {
            let found = match self.live.storage_classes.get("", class) {
                Some(found) => Some(found),
                None => live::find(&self.objects, &self.classes, "", class).await?,
            };
            allowed = match found {
                Some(class) => class.value()?["allowVolumeExpansion"] == true,
                None => false,
            };
        }
        if allowed {
            return Ok(());
        }
        Err(attempt.forbidden(
            "only dynamically provisioned pvc can be resized and the storageclass that provisions \
             the pvc must support resize",
        ))
    }
}

/// The class of a claim, by the field or the annotation of old.
pub(super) fn class_of(claim: &Value) -> &str {
    let annotation = claim["metadata"]["annotations"][CLASS_ANNOTATION].as_str();
    annotation.or(claim["spec"]["storageClassName"].as_str()).unwrap_or_default()
}

fn size(claim: &Value) -> Quantity {
    Quantity::from_json(&claim["spec"]["resources"]["requests"]["storage"]).unwrap_or_default()
}

impl Plugin for VolumeResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    fn validate<'a>(&'a self, attempt: &'a mut Attempt<'_>) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            let is_update = attempt.operation == Operation::Update;
            if is_update && attempt.is_of("", "persistentvolumeclaims") {
                self.check(attempt).await?;
            }
            Ok(())
        })
    }
}
