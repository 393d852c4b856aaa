//! A cluster as the proxy sees it, and a table as the kernel would keep it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use super::super::*;

/// Service `shop/web` on node `here` in zone `z1`, and its slices.
#[derive(Clone)]
pub struct View {
    service: Option<Value>,
    slices: Vec<Value>,
    pub settings: Settings,
}

pub fn settings(nft: Nft) -> Settings {
    Settings {
        node: "here".into(),
        addresses: vec!["192.0.2.1".parse().unwrap()],
        cluster_cidrs: vec!["10.42.0.0/16".parse().unwrap(), "fd42::/48".parse().unwrap()],
        service_cidrs: vec!["10.43.0.0/16".parse().unwrap()],
        own: vec!["10.43.0.10".parse().unwrap()],
        bridged: Bridged::Seen,
        leaving: Leaving::AsIs,
        nft,
        kept: None,
        metrics: Metrics::default(),
    }
}

/// `state`: ready, starting, ending (and still serving) or gone (ending, and not).
pub fn endpoint(address: &str, node: &str, state: &str) -> Value {
    json!({"addresses": [address], "nodeName": node, "conditions": {
        "ready": state == "ready",
        "serving": state == "ready" || state == "ending",
        "terminating": state == "ending" || state == "gone",
    }})
}

pub fn slice(name: &str, family: &str, endpoints: Value) -> Value {
    json!({
        "metadata": {"namespace": "shop", "name": name,
            "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": family,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints,
    })
}

impl View {
    pub fn new() -> View {
        View { service: None, slices: Vec::new(), settings: settings(Nft::here()) }
    }

    /// The service, with what differs from a plain one.
    pub fn web(mut self, spec: Value) -> View {
        let mut whole = json!({"clusterIP": "10.43.0.80", "clusterIPs": ["10.43.0.80"],
            "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]});
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        self.service =
            Some(json!({"metadata": {"namespace": "shop", "name": "web"}, "spec": whole}));
        self
    }

    pub fn balancers(mut self, ingress: Value) -> View {
        self.service.as_mut().unwrap()["status"] = json!({"loadBalancer": {"ingress": ingress}});
        self
    }

    pub fn others_proxy(mut self) -> View {
        let labels = json!({"service.kubernetes.io/service-proxy-name": "another"});
        self.service.as_mut().unwrap()["metadata"]["labels"] = labels;
        self
    }

    pub fn slice(self, endpoints: Value) -> View {
        self.slices(slice("four", "IPv4", endpoints))
    }

    pub fn slices(mut self, slice: Value) -> View {
        self.slices.push(slice);
        self
    }

    pub fn rules(&self) -> Rules {
        let read = |it: &Value| serde_json::from_value::<Service>(it.clone()).unwrap();
        let services: Vec<_> = self.service.iter().map(|it| Arc::new(read(it))).collect();
        let read = |it: &Value| serde_json::from_value::<EndpointSlice>(it.clone()).unwrap();
        let slices: Vec<_> = self.slices.iter().map(|it| Arc::new(read(it))).collect();
        let place = Place {
            node: "here".into(),
            zone: Some("z1".into()),
            addresses: self.settings.addresses.clone(),
            pods: vec!["10.42.1.0/24".parse().unwrap()],
        };
        rules(&services, &slices, &place, &self.settings)
    }
}

/// A table that is as strict as the kernel about what must be there, and not be, for a command.
#[derive(Default)]
pub struct Model {
    sets: BTreeMap<String, BTreeMap<String, String>>,
    chains: BTreeMap<String, Vec<String>>,
}

impl Model {
    pub fn apply(&mut self, text: &str) {
        for line in text.lines() {
            let line = line.replace(" inet kontiki", "");
            let mut words = line.splitn(4, ' ');
            let mut next = || words.next().unwrap_or_default().to_owned();
            let (verb, what, name, rest) = (next(), next(), next(), next());
            let list = || rest.trim_matches(['{', '}', ' ']).split(", ");
            match (verb.as_str(), what.as_str()) {
                ("add", "table") => {}
                ("delete", "table") => *self = Model::default(),
                ("add", "set" | "map") => {
                    self.sets.entry(name).or_default();
                }
                ("flush", "set" | "map") => self.sets.get_mut(&name).unwrap().clear(),
                ("delete", "set" | "map") => {
                    let used = self
                        .chains
                        .values()
                        .flatten()
                        .any(|rule| rule.split(' ').any(|word| word == format!("@{name}")));
                    assert!(!used, "{line}: rules still use it");
                    self.sets.remove(&name).unwrap();
                }
                ("add", "chain") => {
                    self.chains.entry(name).or_default();
                }
                ("flush", "chain") => self.chains.get_mut(&name).unwrap().clear(),
                ("add", "rule") => {
                    for word in rest.split(' ').filter_map(|word| word.strip_prefix('@')) {
                        assert!(self.sets.contains_key(word), "{line}: there is no {word}");
                    }
                    self.chains.get_mut(&name).unwrap().push(rest.clone());
                }
                ("add", "element") => {
                    for element in list() {
                        let (key, value) = element.split_once(" : ").unwrap_or((element, ""));
                        if let Some(chain) = value.strip_prefix("goto ") {
                            assert!(self.chains.contains_key(chain), "{line}: there is no {chain}");
                        }
                        let set = self.sets.get_mut(&name).unwrap();
                        let old = set.insert(key.to_owned(), value.to_owned());
                        assert!(old.is_none_or(|it| it == value), "{line}: it says something else");
                    }
                }
                ("delete", "element") => {
                    for key in list() {
                        self.sets.get_mut(&name).unwrap().remove(key).unwrap();
                    }
                }
                _ => panic!("what is {line:?}?"),
            }
        }
    }

    /// Chains that are left empty do not count.
    pub fn assert_is(&self, wanted: &Ruleset) {
        let names: BTreeSet<_> = self.sets.keys().collect();
        assert_eq!(names, wanted.sets.keys().collect::<BTreeSet<_>>());
        for (name, set) in &wanted.sets {
            assert_eq!(self.sets[name], set.elements.clone().unwrap_or_default(), "{name}");
        }
        for (name, rules) in &self.chains {
            let there = wanted.chains.get(name).map(|chain| &chain.rules);
            assert_eq!(Some(rules), there.or(Some(&Vec::new())), "{name}");
        }
        for name in wanted.chains.keys() {
            assert!(self.chains.contains_key(name), "{name}");
        }
    }
}
