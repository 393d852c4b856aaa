//! The road: every request on an object, whoever asks, goes through the stages here in one order.
//!
//! permit → decode → admit (mutating) → default → prepare → validate → admit (validating) → charge → commit.
//! One file per verb; `change` holds the one loop that tries again when an object moved meanwhile.
//!
//! Keeps: a write is made from the state that it replaces, or it is not made. What a client is refused
//! because of a state that may be old is looked at again with the newest.
//! Never: knows HTTP, or asks which kind an object is; it asks the row.

mod allocation;
mod behind;
mod body;
mod change;
mod compaction;
mod connect;
mod create;
mod delete;
mod delete_collection;
mod fields;
mod get;
mod issue;
mod list;
mod metadata;
mod options;
mod patch;
mod permit;
mod renewals;
mod reply;
mod shown;
mod subresource;
mod target;
mod transport;
mod update;
mod watch;

use std::sync::Arc;

use crate::admission::Chain;
use crate::audit::Audit;
use crate::auth::{Authorizer, Reviewer, TokenIssuer};
use crate::client::Client;
use crate::error::Status;
use crate::kinds::Registry;
use crate::live::beats::Beats;
use crate::object::time::Clock;
use crate::objects::Objects;
use crate::request::{Request, User, Verb};

use renewals::Renewals;

pub use allocation::Networks;
pub use compaction::Compaction;
pub use connect::{Connection, connects};
pub use list::Listing;
pub(crate) use permit::asking;
pub use reply::{Answer, Reply};
pub use shown::Shown;
pub use target::is_unknown_path;
pub use watch::{Event, Watch, bookmark};

/// What the road is made of.
pub struct Parts {
    pub objects: Objects,
    pub registry: Arc<Registry>,
    pub admission: Chain,
    pub authorizer: Arc<dyn Authorizer>,
    pub reviewer: Arc<dyn Reviewer>,
    pub tokens: Arc<dyn TokenIssuer>,
    pub networks: Networks,
    pub beats: Arc<Beats>,
    /// Where requests from inside the process are written down; those over HTTP are by the front.
    pub audit: Option<Arc<Audit>>,
    pub clock: Clock,
}

/// Carries requests out.
pub struct Road {
    objects: Objects,
    registry: Arc<Registry>,
    admission: Chain,
    authorizer: Arc<dyn Authorizer>,
    reviewer: Arc<dyn Reviewer>,
    tokens: Arc<dyn TokenIssuer>,
    networks: Networks,
    renewals: Renewals,
    audit: Option<Arc<Audit>>,
    clock: Clock,
}

impl Road {
    #[must_use]
    pub fn new(parts: Parts) -> Road {
        Road {
            objects: parts.objects,
            registry: parts.registry,
            admission: parts.admission,
            authorizer: parts.authorizer,
            reviewer: parts.reviewer,
            tokens: parts.tokens,
            networks: parts.networks,
            renewals: Renewals::new(parts.beats),
            audit: parts.audit,
            clock: parts.clock,
        }
    }

    #[must_use]
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    #[must_use]
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    #[must_use]
    pub fn authorizer(&self) -> &Arc<dyn Authorizer> {
        &self.authorizer
    }

    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Speaks to this road without a wire, as `who`. `name` is what it is known by to field managers.
    #[must_use]
    pub fn client(self: &Arc<Self>, who: User, name: &str) -> Client {
        Client::new(Arc::new(transport::InProcess::new(self.clone(), who)), name)
    }

    /// Everything but watches and connections.
    pub async fn call(&self, who: &User, request: Request) -> Result<Reply, Status> {
        self.permit(who, &request)?;
        let target = self.resolve(&request)?;
        match (request.verb, target.sub.as_str()) {
            (Verb::Watch, _) => Err(Status::bad_request("a watch is opened, not called")),
            (Verb::Get, "") => self.get(&target, &request).await,
            (Verb::List, _) => self.list(&target, &request).await,
            (Verb::Create, "") => self.create(who, target, request).await,
            (Verb::Update, "") => self.update(who, target, request).await,
            (Verb::Patch, "") => self.patch(who, target, request).await,
            (Verb::Delete, "") => self.delete(who, target, request).await,
            (Verb::DeleteCollection, _) => self.delete_collection(who, target, request).await,
            (_, _) => self.subresource(who, target, request).await,
        }
    }
}

#[cfg(test)]
mod tests;
