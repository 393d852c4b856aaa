//! Every namespace has a ConfigMap with the certificates that pods verify the API server with.

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kontiki_api::Status;
use kontiki_api::client::Client;

use super::service_account::is_settled;
use super::{Context, Loop};
use crate::reconcile::{Informer, Key, Next, Reconcile};

const NAME: &str = "root-ca-certificate-publisher-controller";
const CONFIG_MAP: &str = "kube-root-ca.crt";
const ENTRY: &str = "ca.crt";
const ABOUT: (&str, &str) = (
    "kubernetes.io/description",
    "CA certificates with which pods verify the API server at its addresses inside the cluster.",
);

struct Controller {
    client: Client,
    namespaces: Informer<Namespace>,
    maps: Informer<ConfigMap>,
    root_ca: String,
}

pub fn start(context: &Context) -> Vec<Loop> {
    let queue = context.queue(NAME);
    let namespaces = context.informers.of::<Namespace>();
    let maps = context.informers.of::<ConfigMap>();
    namespaces.on({
        let queue = queue.clone();
        move |delta| queue.add(Key::of(&delta.object().metadata))
    });
    maps.on({
        let queue = queue.clone();
        move |delta| {
            let metadata = &delta.object().metadata;
            if metadata.name.as_deref() == Some(CONFIG_MAP)
                && let Some(namespace) = &metadata.namespace
            {
                queue.add(Key::new("", namespace));
            }
        }
    });
    let root_ca = context.settings.root_ca.clone();
    vec![Loop::new(
        Controller { client: context.client(NAME), namespaces, maps, root_ca },
        queue,
        1,
    )]
}

impl Reconcile for Controller {
    type Key = Key;

    fn name(&self) -> &'static str {
        NAME
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Status> {
        let Some(namespace) = self.namespaces.get(key) else { return Ok(Next::WhenChanged) };
        if namespace.metadata.deletion_timestamp.is_some() {
            return Ok(Next::WhenChanged);
        }
        let found = self.maps.get(&Key::new(&key.name, CONFIG_MAP));
        let result = match found {
            None => self.client.create(&self.wanted(&key.name)).await,
            Some(found) if self.is_right(&found) => return Ok(Next::WhenChanged),
            Some(found) => {
                let metadata = found.metadata.clone();
                self.client.update(&ConfigMap { metadata, ..self.wanted(&key.name) }).await
            }
        };
        match result {
            Ok(_) => Ok(Next::WhenChanged),
            Err(status) if is_settled(&status) => Ok(Next::WhenChanged),
            Err(status) => Err(status),
        }
    }
}

impl Controller {
    fn wanted(&self, namespace: &str) -> ConfigMap {
        ConfigMap {
            metadata: ObjectMeta {
                name: Some(CONFIG_MAP.into()),
                namespace: Some(namespace.into()),
                annotations: Some([(ABOUT.0.to_owned(), ABOUT.1.to_owned())].into()),
                ..ObjectMeta::default()
            },
            data: Some([(ENTRY.to_owned(), self.root_ca.clone())].into()),
            ..ConfigMap::default()
        }
    }

    fn is_right(&self, found: &ConfigMap) -> bool {
        let data = found.data.as_ref();
        data.is_some_and(|data| data.len() == 1 && data.get(ENTRY) == Some(&self.root_ca))
            && found.binary_data.as_ref().is_none_or(std::collections::BTreeMap::is_empty)
    }
}
