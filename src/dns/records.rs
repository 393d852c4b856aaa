//! What names are answered from: services and slices, as the API shows them.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::reconcile::{Informer, Informers, Key};

const SERVICE_NAME: &str = "kubernetes.io/service-name";
const BY_SERVICE: &str = "dns-service";
const BY_ADDRESS: &str = "dns-address";

/// Looks things up. Names are in lower case.
pub trait Records: Send + Sync + 'static {
    /// Whether the view is whole. While it is not, that a name is missing means nothing.
    fn complete(&self) -> bool;
    /// A number that goes with the view, as a zone's serial does.
    fn revision(&self) -> u64;
    /// Whether there is anything in a namespace.
    fn namespace(&self, name: &str) -> bool;
    fn service(&self, key: &Key) -> Option<Arc<Service>>;
    fn slices(&self, service: &Key) -> Vec<Arc<EndpointSlice>>;
    /// Services whose own address this is.
    fn services_at(&self, address: IpAddr) -> Vec<Arc<Service>>;
    /// Slices that list this address.
    fn slices_at(&self, address: IpAddr) -> Vec<Arc<EndpointSlice>>;
}

/// The view that informers keep.
pub struct Watched {
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    complete: AtomicBool,
}

impl Watched {
    #[must_use]
    pub fn new(informers: &Informers) -> Watched {
        let (services, slices) = (informers.of::<Service>(), informers.of::<EndpointSlice>());
        services.index(BY_ADDRESS, |service| {
            let spec = service.spec.as_ref();
            let all = spec.map(addresses).unwrap_or_default();
            all.iter().map(ToString::to_string).collect()
        });
        slices.index(BY_SERVICE, |slice| {
            service_of(slice).map(|key| key.to_string()).into_iter().collect()
        });
        slices.index(BY_ADDRESS, |slice| {
            let listed = slice.endpoints.iter().flatten().flat_map(|it| &it.addresses);
            // As we write it, whoever has written it.
            listed.filter_map(|it| Some(it.parse::<IpAddr>().ok()?.to_string())).collect()
        });
        Watched { services, slices, complete: AtomicBool::new(false) }
    }

    /// Ends when the view is whole. From then on it only gets older when the masters are away.
    pub async fn completed(&self) {
        tokio::join!(self.services.synced(), self.slices.synced());
        self.complete.store(true, Ordering::Release);
    }
}

impl Records for Watched {
    fn complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    fn revision(&self) -> u64 {
        self.services.revision().max(self.slices.revision())
    }

    fn namespace(&self, name: &str) -> bool {
        !self.services.in_namespace(name).is_empty()
    }

    fn service(&self, key: &Key) -> Option<Arc<Service>> {
        self.services.get(key)
    }

    fn slices(&self, service: &Key) -> Vec<Arc<EndpointSlice>> {
        self.slices.by_index(BY_SERVICE, &service.to_string())
    }

    fn services_at(&self, address: IpAddr) -> Vec<Arc<Service>> {
        self.services.by_index(BY_ADDRESS, &address.to_string())
    }

    fn slices_at(&self, address: IpAddr) -> Vec<Arc<EndpointSlice>> {
        self.slices.by_index(BY_ADDRESS, &address.to_string())
    }
}

/// The service that a slice belongs to.
#[must_use]
pub fn service_of(slice: &EndpointSlice) -> Option<Key> {
    let labels = slice.metadata.labels.as_ref()?;
    let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
    Some(Key::new(namespace, labels.get(SERVICE_NAME)?))
}

/// A service's own addresses; none if it is headless.
#[must_use]
pub fn addresses(spec: &ServiceSpec) -> Vec<IpAddr> {
    let all = spec.cluster_ips.as_deref().unwrap_or_default();
    let all = if all.is_empty() { spec.cluster_ip.as_slice() } else { all };
    all.iter().filter_map(|text| text.parse().ok()).collect()
}
