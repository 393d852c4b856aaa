//! Deletes bootstrap tokens whose time is over.

use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kontiki_api::Status;
use kontiki_api::client::{Client, DeleteOptions, Preconditions};
use kontiki_api::error::Reason;
use kontiki_api::object::time::{Clock, Timestamp};

use super::{Context, Loop};
use crate::reconcile::{Informer, Key, Next, Reconcile};

const NAME: &str = "token-cleaner-controller";
const NAMESPACE: &str = "kube-system";
const TYPE: &str = "bootstrap.kubernetes.io/token";

struct Controller {
    client: Client,
    clock: Clock,
    secrets: Informer<Secret>,
}

pub fn start(context: &Context) -> Vec<Loop> {
    let queue = context.queue(NAME);
    let secrets = context.informers.of::<Secret>();
    secrets.on({
        let queue = queue.clone();
        move |delta| {
            if expires(delta.object()).is_some() {
                queue.add(Key::of(&delta.object().metadata));
            }
        }
    });
    let client = context.client(NAME);
    let controller = Controller { client, clock: context.clock.clone(), secrets };
    vec![Loop::new(controller, queue, 1)]
}

impl Reconcile for Controller {
    type Key = Key;

    fn name(&self) -> &'static str {
        NAME
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Status> {
        let Some(secret) = self.secrets.get(key) else { return Ok(Next::WhenChanged) };
        let Some(expires) = expires(&secret) else { return Ok(Next::WhenChanged) };
        let left_us = expires.micros_since(self.clock.now());
        if left_us > 0 {
            return Ok(Next::After(Duration::from_micros(u64::try_from(left_us).unwrap_or(0))));
        }
        let preconditions = Some(Preconditions {
            uid: secret.metadata.uid.clone(),
            resource_version: secret.metadata.resource_version.clone(),
        });
        let options = DeleteOptions { preconditions, ..DeleteOptions::default() };
        match self.client.delete::<Secret>(&key.namespace, &key.name, &options).await {
            Err(status) if !status.is(Reason::NotFound) => Err(status),
            _ => Ok(Next::WhenChanged),
        }
    }
}

/// When the secret's token ends: `None` for other secrets and for tokens without an end. What cannot be read
/// has ended, as it is refused as well.
fn expires(secret: &Secret) -> Option<Timestamp> {
    let in_place = secret.metadata.namespace.as_deref() == Some(NAMESPACE);
    if !in_place || secret.type_.as_deref() != Some(TYPE) {
        return None;
    }
    let text = &secret.data.as_ref()?.get("expiration")?.0;
    if text.is_empty() {
        return None;
    }
    let text = std::str::from_utf8(text).unwrap_or_default();
    Some(Timestamp::parse(text).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    #[test]
    fn only_tokens_with_an_end_end() {
        let secret = |namespace: &str, expiration: Option<&str>| {
            let mut secret = Secret { type_: Some(TYPE.into()), ..Secret::default() };
            secret.metadata.namespace = Some(namespace.into());
            secret.data = expiration.map(|text| {
                [("expiration".to_owned(), ByteString(text.as_bytes().to_vec()))].into()
            });
            secret
        };
        let text = "2026-01-01T00:00:00Z";
        assert_eq!(expires(&secret(NAMESPACE, Some(text))), Timestamp::parse(text));
        assert_eq!(expires(&secret(NAMESPACE, Some("soon"))), Some(Timestamp::default()));
        assert_eq!(expires(&secret(NAMESPACE, None)), None);
        assert_eq!(expires(&secret("default", Some(text))), None);
    }
}
