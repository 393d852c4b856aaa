//! `authentication.k8s.io`: questions about who someone is; nothing is stored.

use super::rows::{Row, Table};
use crate::kinds::Verbs;

pub(super) const V1: Table = Table {
    group: "authentication.k8s.io",
    version: "v1",
    package: "io.k8s.api.authentication.v1",
    priority: 17700,
    rows: &[
        Row::cluster("SelfSubjectReview", "selfsubjectreviews").verbs(Verbs::CREATE),
        Row::cluster("TokenReview", "tokenreviews").verbs(Verbs::CREATE),
    ],
};
