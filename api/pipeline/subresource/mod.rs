//! Parts of an object with a URL of their own: each changes what it stands for and nothing else.

mod binding;
mod eviction;
mod parts;
mod scale;

use serde_json::Value;

use super::Road;
use super::change::Scope;
use super::issue;
use super::reply::Reply;
use super::target::{Target, unknown_path};
use crate::error::Status;
use crate::request::{Request, User, Verb};

impl Road {
    pub(super) async fn subresource(
        &self,
        who: &User,
        target: Target,
        request: Request,
    ) -> Result<Reply, Status> {
        match (target.sub.as_str(), request.verb) {
            ("scale", _) => self.scale(who, target, request).await,
            ("binding", Verb::Create) => self.bind(who, &target, &request).await,
            ("eviction", Verb::Create) => self.evict(who, target, request).await,
            ("token", Verb::Create) => issue::token(self, who, &target, &request).await,
            (sub, verb) => {
                let scope = match sub {
                    "status" => Scope::Status,
                    _ => Scope::Part(parts::of(sub).ok_or_else(unknown_path)?),
                };
                match verb {
                    Verb::Get => self.get(&target, &request).await,
                    Verb::Update => self.replace(who, target, request, scope).await,
                    Verb::Patch => self.patch_part(who, target, request, scope).await,
                    _ => Err(unknown_path()),
                }
            }
        }
    }
}

/// What is answered where an action was carried out and there is nothing to show.
pub(super) fn success() -> Value {
    serde_json::json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})
}
