//! `rbac.authorization.k8s.io`: who may do what. Names may be anything (`system:node`).

use super::rows::{Row, Table};
use crate::kinds::NameRule;

pub(super) const V1: Table = Table {
    group: "rbac.authorization.k8s.io",
    version: "v1",
    package: "io.k8s.api.rbac.v1",
    priority: 17000,
    rows: &[
        Row::cluster("ClusterRoleBinding", "clusterrolebindings")
            .create_on_update()
            .names(NameRule::PathSegment),
        Row::cluster("ClusterRole", "clusterroles").create_on_update().names(NameRule::PathSegment),
        Row::namespaced("RoleBinding", "rolebindings")
            .create_on_update()
            .names(NameRule::PathSegment),
        Row::namespaced("Role", "roles").create_on_update().names(NameRule::PathSegment),
    ],
};
