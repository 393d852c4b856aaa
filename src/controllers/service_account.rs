//! Every namespace has a ServiceAccount named `default`, which pods run under that name none.

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kontiki_api::Status;
use kontiki_api::client::Client;
use kontiki_api::error::Reason;

use super::{Context, Loop};
use crate::reconcile::{Delta, Informer, Key, Next, Reconcile};

const NAME: &str = "serviceaccount-controller";
const DEFAULT: &str = "default";

struct Controller {
    client: Client,
    namespaces: Informer<Namespace>,
    accounts: Informer<ServiceAccount>,
}

pub fn start(context: &Context) -> Vec<Loop> {
    let queue = context.queue(NAME);
    let namespaces = context.informers.of::<Namespace>();
    let accounts = context.informers.of::<ServiceAccount>();
    namespaces.on({
        let queue = queue.clone();
        move |delta| queue.add(Key::of(&delta.object().metadata))
    });
    accounts.on({
        let queue = queue.clone();
        move |delta| {
            if let Delta::Deleted(account) = delta
                && let Some(namespace) = &account.metadata.namespace
            {
                queue.add(Key::new("", namespace));
            }
        }
    });
    let client = context.client(NAME);
    vec![Loop::new(Controller { client, namespaces, accounts }, queue, 1)]
}

impl Reconcile for Controller {
    type Key = Key;

    fn name(&self) -> &'static str {
        NAME
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Status> {
        let Some(namespace) = self.namespaces.get(key) else { return Ok(Next::WhenChanged) };
        let going = namespace.metadata.deletion_timestamp.is_some();
        if going || self.accounts.get(&Key::new(&key.name, DEFAULT)).is_some() {
            return Ok(Next::WhenChanged);
        }
        let account = ServiceAccount {
            metadata: ObjectMeta {
                name: Some(DEFAULT.into()),
                namespace: Some(key.name.clone()),
                ..ObjectMeta::default()
            },
            ..ServiceAccount::default()
        };
        match self.client.create(&account).await {
            Ok(_) => Ok(Next::WhenChanged),
            Err(status) if is_settled(&status) => Ok(Next::WhenChanged),
            Err(status) => Err(status),
        }
    }
}

/// It is there already, or the namespace is going meanwhile.
pub(super) fn is_settled(status: &Status) -> bool {
    status.is(Reason::AlreadyExists)
        || status.is(Reason::NotFound)
        || status.details().is_some_and(|details| {
            details.causes.iter().any(|cause| cause.reason == "NamespaceTerminating")
        })
}
