//! `authorization.k8s.io`: questions about what someone may do; nothing is stored.

use super::rows::{Row, Table};
use crate::kinds::Verbs;

pub(super) const V1: Table = Table {
    group: "authorization.k8s.io",
    version: "v1",
    package: "io.k8s.api.authorization.v1",
    priority: 17600,
    rows: &[
        Row::namespaced("LocalSubjectAccessReview", "localsubjectaccessreviews")
            .verbs(Verbs::CREATE),
        Row::cluster("SelfSubjectAccessReview", "selfsubjectaccessreviews").verbs(Verbs::CREATE),
        Row::cluster("SelfSubjectRulesReview", "selfsubjectrulesreviews").verbs(Verbs::CREATE),
        Row::cluster("SubjectAccessReview", "subjectaccessreviews").verbs(Verbs::CREATE),
    ],
};
