//! Fills Secrets that ask for a ServiceAccount's token, and deletes them with the account.
//!
//! The token is asked of the API, bound to the Secret: it holds as long as the Secret is there, and the key
//! that signs it stays where it is.
//!
//! Never: makes a Secret by itself, as nothing has since 1.24.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kontiki_api::Status;
use kontiki_api::client::{Client, DeleteOptions, Preconditions};
use kontiki_api::error::Reason;
use serde_json::{Value, json};

use super::{Context, Loop, WORKERS};
use crate::reconcile::{Delta, Informer, Key, Next, Reconcile};

const NAME: &str = "serviceaccount-token-controller";
const TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
/// The longest life that can be asked for. Legacy tokens have no end but that of their Secret.
const LIFE_S: i64 = 1 << 32;
const BY_ACCOUNT: &str = "service-account";

struct Controller {
    client: Client,
    accounts: Informer<ServiceAccount>,
    secrets: Informer<Secret>,
    root_ca: String,
}

pub fn start(context: &Context) -> Vec<Loop> {
    let queue = context.queue(NAME);
    let accounts = context.informers.of::<ServiceAccount>();
    let secrets = context.informers.of::<Secret>();
    secrets.index(BY_ACCOUNT, |secret| {
        account_of(secret).map(|key| key.to_string()).into_iter().collect()
    });
    secrets.on({
        let queue = queue.clone();
        move |delta| {
            if account_of(delta.object()).is_some() {
                queue.add(Key::of(&delta.object().metadata));
            }
        }
    });
    accounts.on({
        let (queue, secrets) = (queue.clone(), secrets.clone());
        move |delta| {
            if matches!(delta, Delta::Updated { old, new } if old.metadata.uid == new.metadata.uid)
            {
                return;
            }
            let key = Key::of(&delta.object().metadata);
            for secret in secrets.by_index(BY_ACCOUNT, &key.to_string()) {
                queue.add(Key::of(&secret.metadata));
            }
        }
    });
    let root_ca = context.settings.root_ca.clone();
    let controller = Controller { client: context.client(NAME), accounts, secrets, root_ca };
    vec![Loop::new(controller, queue, WORKERS)]
}

/// The account whose token the Secret asks for.
fn account_of(secret: &Secret) -> Option<Key> {
    if secret.type_.as_deref() != Some(TYPE) {
        return None;
    }
    let name = secret.metadata.annotations.as_ref()?.get(ACCOUNT)?;
    Some(Key::new(secret.metadata.namespace.as_deref()?, name)).filter(|it| !it.name.is_empty())
}

/// What is to be done with a Secret. Pure.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    /// The account that it is for is gone, or is another by now.
    Delete,
    Fill {
        with_token: bool,
    },
}

fn step(secret: &Secret, account: Option<&ServiceAccount>, root_ca: &str) -> Step {
    if secret.metadata.deletion_timestamp.is_some() {
        return Step::Nothing;
    }
    let Some(account) = account else { return Step::Delete };
    let annotations = secret.metadata.annotations.as_ref();
    let uid = annotations.and_then(|all| all.get(ACCOUNT_UID)).filter(|uid| !uid.is_empty());
    if uid.is_some() && uid != account.metadata.uid.as_ref() {
        return Step::Delete;
    }
    let data = |name: &str| {
        secret.data.as_ref().and_then(|data| data.get(name)).map(|bytes| bytes.0.as_slice())
    };
    let with_token = data("token").is_none_or(<[u8]>::is_empty);
    let namespace = secret.metadata.namespace.as_deref().unwrap_or_default();
    let complete = uid.is_some()
        && !with_token
        && data("namespace") == Some(namespace.as_bytes())
        && (root_ca.is_empty() || data("ca.crt") == Some(root_ca.as_bytes()));
    if complete { Step::Nothing } else { Step::Fill { with_token } }
}

impl Reconcile for Controller {
    type Key = Key;

    fn name(&self) -> &'static str {
        NAME
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Status> {
        let Some(secret) = self.secrets.get(key) else { return Ok(Next::WhenChanged) };
        let Some(owner) = account_of(&secret) else { return Ok(Next::WhenChanged) };
        let mut account = self.accounts.get(&owner).map(|it| (*it).clone());
        if step(&secret, account.as_ref(), &self.root_ca) == Step::Delete {
            // The informer may be behind: nothing is deleted on its word.
            account = match self.client.get(&owner.namespace, &owner.name).await {
                Ok(account) => Some(account),
                Err(status) if status.is(Reason::NotFound) => None,
                Err(status) => return Err(status),
            };
        }
        let result = match (step(&secret, account.as_ref(), &self.root_ca), account) {
            (Step::Nothing, _) | (Step::Fill { .. }, None) => Ok(()),
            (Step::Delete, _) => self.delete(&secret).await,
            (Step::Fill { with_token }, Some(account)) => {
                self.fill(&secret, &account, with_token).await
            }
        };
        match result {
            Err(status) if !status.is(Reason::NotFound) => Err(status),
            _ => Ok(Next::WhenChanged),
        }
    }
}

impl Controller {
    async fn delete(&self, secret: &Secret) -> Result<(), Status> {
        let key = Key::of(&secret.metadata);
        let preconditions = Some(Preconditions {
            uid: secret.metadata.uid.clone(),
            resource_version: secret.metadata.resource_version.clone(),
        });
        let options = DeleteOptions { preconditions, ..DeleteOptions::default() };
        self.client.delete::<Secret>(&key.namespace, &key.name, &options).await
    }

    async fn fill(
        &self,
        secret: &Secret,
        account: &ServiceAccount,
        with_token: bool,
    ) -> Result<(), Status> {
        let mut filled = secret.clone();
        let data = filled.data.get_or_insert_default();
        if with_token {
            let token = self.token(secret, account).await?;
            data.insert("token".into(), ByteString(token.into_bytes()));
        }
        let namespace = secret.metadata.namespace.clone().unwrap_or_default();
        data.insert("namespace".into(), ByteString(namespace.into_bytes()));
        if !self.root_ca.is_empty() {
            data.insert("ca.crt".into(), ByteString(self.root_ca.clone().into_bytes()));
        }
        let annotations = filled.metadata.annotations.get_or_insert_default();
        annotations.insert(ACCOUNT_UID.into(), account.metadata.uid.clone().unwrap_or_default());
        self.client.update(&filled).await.map(drop)
    }

    async fn token(&self, secret: &Secret, account: &ServiceAccount) -> Result<String, Status> {
        let key = Key::of(&account.metadata);
        let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"audiences": [], "expirationSeconds": LIFE_S, "boundObjectRef": {
                "apiVersion": "v1", "kind": "Secret", "name": secret.metadata.name,
                "uid": secret.metadata.uid}}});
        let (namespace, name) = (&key.namespace, &key.name);
        let bytes = self
            .client
            .create_subresource::<ServiceAccount>(namespace, name, "token", body)
            .await?;
        let answer: Value = serde_json::from_slice(&bytes).map_err(Status::internal)?;
        match answer["status"]["token"].as_str() {
            Some(token) => Ok(token.to_owned()),
            None => Err(Status::internal("the answer to a token request holds no token")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_filled_once_and_goes_with_its_account() {
        let secret = |annotations: Value, data: Value| -> Secret {
            serde_json::from_value(json!({"type": TYPE, "data": data, "metadata":
                {"name": "t", "namespace": "n", "annotations": annotations}}))
            .unwrap()
        };
        let account: ServiceAccount =
            serde_json::from_value(json!({"metadata": {"name": "a", "uid": "u"}})).unwrap();
        let new = secret(json!({ACCOUNT: "a"}), json!({}));
        assert_eq!(account_of(&new), Some(Key::new("n", "a")));
        assert_eq!(step(&new, Some(&account), "ca"), Step::Fill { with_token: true });
        assert_eq!(step(&new, None, "ca"), Step::Delete);
        let data = json!({"token": "eA==", "namespace": "bg==", "ca.crt": "Y2E="});
        let known = |uid: &str| secret(json!({ACCOUNT: "a", ACCOUNT_UID: uid}), data.clone());
        assert_eq!(step(&known("u"), Some(&account), "ca"), Step::Nothing);
        assert_eq!(step(&known("u"), Some(&account), "new"), Step::Fill { with_token: false });
        assert_eq!(step(&known("old"), Some(&account), "ca"), Step::Delete);
    }
}
