//! One object, as fresh as was asked for.

use kontiki_storage::revision::Revision;

use super::Road;
use super::options::{Version, read_version};
use super::reply::Reply;
use super::shown::Shown;
use super::target::Target;
use crate::error::Status;
use crate::request::Request;

impl Road {
    pub(super) async fn get(&self, target: &Target, request: &Request) -> Result<Reply, Status> {
        match read_version(request.options.resource_version.as_deref())? {
            Version::Unset => self.objects.barrier().await?,
            Version::Any => {}
            Version::At(revision) => self.reach(revision).await?,
        }
        Ok(Reply::object(200, self.shown(target)?, Vec::new()))
    }

    /// The object as this member has it and knows of its node.
    pub(super) fn shown(&self, target: &Target) -> Result<Shown, Status> {
        let object = target.stored(self)?.ok_or_else(|| target.not_found())?;
        Shown::new(&target.kind, self.renewals.show(object))
    }

    /// Waits, not for long, until this member shows `revision`.
    pub(super) async fn reach(&self, revision: Revision) -> Result<(), Status> {
        const PATIENCE: std::time::Duration = std::time::Duration::from_secs(3);
        if self.objects.revision() >= revision {
            return Ok(());
        }
        match tokio::time::timeout(PATIENCE, self.objects.wait_for(revision)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => {
                Err(crate::objects::too_large(revision, self.objects.revision()))
            }
        }
    }
}
