//! A view of the cluster that a test writes down.

use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::rr::{RData, Record};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use crate::dns::records::{Records, addresses, service_of};
use crate::reconcile::Key;

#[derive(Clone)]
pub struct View {
    services: Vec<Arc<Service>>,
    slices: Vec<Arc<EndpointSlice>>,
    complete: bool,
}

/// `NAME:NUMBER/PROTOCOL` separated by spaces.
fn ports(text: &str) -> Value {
    let port = |it: &str| {
        let (name, rest) = it.split_once(':').unwrap();
        let (number, protocol) = rest.split_once('/').unwrap();
        let number: i32 = number.parse().unwrap();
        json!({"name": name, "port": number, "protocol": protocol})
    };
    text.split_whitespace().map(port).collect()
}

fn metadata(key: &str) -> Value {
    let (namespace, name) = key.split_once('/').unwrap();
    json!({"namespace": namespace, "name": name,
        "labels": {"kubernetes.io/service-name": name}})
}

impl View {
    pub fn new() -> View {
        View { services: Vec::new(), slices: Vec::new(), complete: true }
    }

    pub fn partial(mut self) -> View {
        self.complete = false;
        self
    }

    /// `own`: its addresses, or None.
    pub fn service(self, key: &str, own: &str, listed: &str) -> View {
        let all: Vec<&str> = own.split(',').collect();
        let spec = json!({"clusterIP": all[0], "clusterIPs": all, "ports": ports(listed)});
        self.with(json!({"metadata": metadata(key), "spec": spec}))
    }

    pub fn external(self, key: &str, name: &str) -> View {
        let spec = json!({"type": "ExternalName", "externalName": name});
        self.with(json!({"metadata": metadata(key), "spec": spec}))
    }

    fn with(mut self, service: Value) -> View {
        self.services.push(Arc::new(serde_json::from_value(service).unwrap()));
        self
    }

    /// Endpoints are `HOSTNAME@ADDRESS` or `ADDRESS`, with a `!` behind those that are not ready.
    pub fn slice(mut self, key: &str, endpoints: &str, listed: &str) -> View {
        let endpoint = |text: &str| {
            let (text, ready) = text.strip_suffix('!').map_or((text, true), |it| (it, false));
            let (hostname, address) = match text.split_once('@') {
                Some((hostname, address)) => (Some(hostname), address),
                None => (None, text),
            };
            json!({"addresses": [address], "hostname": hostname, "conditions": {"ready": ready}})
        };
        let endpoints: Value = endpoints.split_whitespace().map(endpoint).collect();
        let slice = json!({"metadata": metadata(key), "addressType": "IPv4",
            "ports": ports(listed), "endpoints": endpoints});
        self.slices.push(Arc::new(serde_json::from_value(slice).unwrap()));
        self
    }
}

impl Records for View {
    fn complete(&self) -> bool {
        self.complete
    }

    fn revision(&self) -> u64 {
        7
    }

    fn namespace(&self, name: &str) -> bool {
        self.services.iter().any(|it| it.metadata.namespace.as_deref() == Some(name))
    }

    fn service(&self, key: &Key) -> Option<Arc<Service>> {
        self.services.iter().find(|it| Key::of(&it.metadata) == *key).cloned()
    }

    fn slices(&self, service: &Key) -> Vec<Arc<EndpointSlice>> {
        let ours = self.slices.iter().filter(|it| service_of(it).as_ref() == Some(service));
        ours.cloned().collect()
    }

    fn services_at(&self, address: IpAddr) -> Vec<Arc<Service>> {
        let has = |it: &&Arc<Service>| {
            it.spec.as_ref().is_some_and(|spec| addresses(spec).contains(&address))
        };
        self.services.iter().filter(has).cloned().collect()
    }

    fn slices_at(&self, address: IpAddr) -> Vec<Arc<EndpointSlice>> {
        let text = address.to_string();
        let has = |it: &&Arc<EndpointSlice>| {
            it.endpoints.iter().flatten().any(|it| it.addresses.contains(&text))
        };
        self.slices.iter().filter(has).cloned().collect()
    }
}

/// A record as people write it, without its time.
pub fn shown(record: &Record) -> String {
    let data = match &record.data {
        RData::A(it) => it.0.to_string(),
        RData::AAAA(it) => it.0.to_string(),
        RData::CNAME(it) => it.0.to_string(),
        RData::NS(it) => it.0.to_string(),
        RData::PTR(it) => it.0.to_string(),
        RData::SRV(it) => format!("{} {} {} {}", it.priority, it.weight, it.port, it.target),
        RData::TXT(it) => it.to_string(),
        RData::SOA(it) => format!(
            "{} {} {} {} {} {} {}",
            it.mname, it.rname, it.serial, it.refresh, it.retry, it.expire, it.minimum
        ),
        other => format!("{other:?}"),
    };
    format!("{} {} {data}", record.name, record.record_type())
}
