//! `networking.k8s.io`: addresses, ways in, and who may talk to whom.

use super::rows::{Row, STATUS, Table};
use crate::kinds::NameRule;

pub(super) const V1: Table = Table {
    group: "networking.k8s.io",
    version: "v1",
    package: "io.k8s.api.networking.v1",
    priority: 17200,
    rows: &[
        Row::cluster("IngressClass", "ingressclasses").generation(),
        Row::namespaced("Ingress", "ingresses")
            .short(&["ing"])
            .subresources(&[STATUS])
            .generation(),
        // The name is an address: checked by the kind.
        Row::cluster("IPAddress", "ipaddresses").short(&["ip"]).names(NameRule::PathSegment),
        Row::namespaced("NetworkPolicy", "networkpolicies").short(&["netpol"]).generation(),
        Row::cluster("ServiceCIDR", "servicecidrs").subresources(&[STATUS]),
    ],
};
