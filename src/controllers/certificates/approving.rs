//! Approves certificates that nodes ask for themselves, where rights say that they may.

use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kontiki_api::Status;
use kontiki_api::client::Client;
use kontiki_api::error::Reason;
use kontiki_api::object::GroupVersionResource;
use kontiki_api::object::time::Clock;
use kontiki_api::request::{Body, Verb};
use serde_json::{Value, json};

use super::super::{Context, Loop, dynamic};
use super::rules::{self, KUBELET_CLIENT};
use super::{has_condition, is_issued};
use crate::reconcile::{Informer, Key, Next, Reconcile};

const NAME: &str = "certificatesigningrequest-approving-controller";

struct Controller {
    client: Client,
    clock: Clock,
    requests: Informer<CertificateSigningRequest>,
}

pub fn start(context: &Context) -> Vec<Loop> {
    let queue = context.queue(NAME);
    let requests = context.informers.of::<CertificateSigningRequest>();
    requests.on({
        let queue = queue.clone();
        move |delta| queue.add(Key::of(&delta.object().metadata))
    });
    let client = context.client(NAME);
    let controller = Controller { client, clock: context.clock.clone(), requests };
    vec![Loop::new(controller, queue, 1)]
}

impl Reconcile for Controller {
    type Key = Key;

    fn name(&self) -> &'static str {
        NAME
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Status> {
        let Some(request) = self.requests.get(key) else { return Ok(Next::WhenChanged) };
        let decided = ["Approved", "Denied"].iter().any(|it| has_condition(&request, it));
        if decided || is_issued(&request) {
            return Ok(Next::WhenChanged);
        }
        // A node may renew its own, or ask for its first.
        for (right, message) in rights(&request) {
            if self.may(&request, right).await? {
                self.approve(&request, message).await?;
                return Ok(Next::WhenChanged);
            }
        }
        Ok(Next::WhenChanged)
    }
}

/// The rights by which the request could be approved, with what is said then. None for what is not a node's
/// own.
fn rights(request: &CertificateSigningRequest) -> Vec<(&'static str, &'static str)> {
    let spec = &request.spec;
    let usages = spec.usages.as_deref().unwrap_or_default();
    let Ok(asked) = rules::read(&spec.request.0) else { return Vec::new() };
    if spec.signer_name != KUBELET_CLIENT || rules::check(KUBELET_CLIENT, &asked, usages).is_err() {
        return Vec::new();
    }
    let mut rights = Vec::new();
    if spec.username.as_deref() == Some(asked.common_name.as_str()) {
        rights.push((
            "selfnodeclient",
            "Auto approving self kubelet client certificate after SubjectAccessReview.",
        ));
    }
    rights.push((
        "nodeclient",
        "Auto approving kubelet client certificate after SubjectAccessReview.",
    ));
    rights
}

impl Controller {
    async fn may(
        &self,
        request: &CertificateSigningRequest,
        subresource: &str,
    ) -> Result<bool, Status> {
        let spec = &request.spec;
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {"user": spec.username, "uid": spec.uid, "groups": spec.groups,
                "extra": spec.extra, "resourceAttributes": {
                    "group": "certificates.k8s.io", "resource": "certificatesigningrequests",
                    "verb": "create", "subresource": subresource, "version": "*"}}});
        let resource =
            GroupVersionResource::new("authorization.k8s.io", "v1", "subjectaccessreviews");
        let mut call = dynamic::request(Verb::Create, &resource, "", "");
        call.body = Body::Object(review);
        let bytes = self.client.call(call).await?;
        let answer: Value = serde_json::from_slice(&bytes).map_err(Status::internal)?;
        Ok(answer["status"]["allowed"] == true)
    }

    async fn approve(
        &self,
        request: &CertificateSigningRequest,
        message: &str,
    ) -> Result<(), Status> {
        let now = Time(self.clock.now().moment());
        let mut approved = request.clone();
        let status = approved.status.get_or_insert_default();
        status.conditions.get_or_insert_default().push(CertificateSigningRequestCondition {
            type_: "Approved".into(),
            status: "True".into(),
            reason: Some("AutoApproved".into()),
            message: Some(message.into()),
            last_update_time: Some(now.clone()),
            last_transition_time: Some(now),
        });
        let name = request.metadata.name.as_deref().unwrap_or_default();
        let mut call = self.client.request::<CertificateSigningRequest>(Verb::Update, "", name);
        call.subresource = Some("approval".into());
        call.body = Body::Object(serde_json::to_value(&approved).map_err(Status::internal)?);
        match self.client.call(call).await {
            Err(status) if !status.is(Reason::NotFound) => Err(status),
            _ => Ok(()),
        }
    }
}
