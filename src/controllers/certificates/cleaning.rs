//! Deletes certificate requests that nobody needs any more.

use std::time::Duration;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kontiki_api::Status;
use kontiki_api::client::{Client, DeleteOptions, Preconditions};
use kontiki_api::error::Reason;
use kontiki_api::object::time::{Clock, Timestamp};

use super::super::{Context, Loop};
use super::is_issued;
use crate::reconcile::{Informer, Key, Next, Reconcile};

const NAME: &str = "certificatesigningrequest-cleaner-controller";
/// How long a request is kept that was approved, denied or failed; and one that waits.
const DECIDED_S: i64 = 3600;
const WAITING_S: i64 = 24 * 3600;

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
        let left_us = due(&request).micros_since(self.clock.now());
        if left_us > 0 {
            let left = Duration::from_micros(u64::try_from(left_us).unwrap_or(0));
            return Ok(Next::After(left + Duration::from_secs(1)));
        }
        let preconditions =
            Some(Preconditions { uid: request.metadata.uid.clone(), resource_version: None });
        let options = DeleteOptions { preconditions, ..DeleteOptions::default() };
        match self.client.delete::<CertificateSigningRequest>("", &key.name, &options).await {
            Err(status) if !status.is(Reason::NotFound) && !status.is(Reason::Conflict) => {
                Err(status)
            }
            _ => Ok(Next::WhenChanged),
        }
    }
}

/// When the request may go: a while after the last decision on it, or after it was made; at once when its
/// certificate has ended.
fn due(request: &CertificateSigningRequest) -> Timestamp {
    let status = request.status.as_ref();
    let conditions = status.and_then(|it| it.conditions.as_deref()).unwrap_or_default();
    let decided = conditions
        .iter()
        .filter_map(|it| it.last_update_time.as_ref().or(it.last_transition_time.as_ref()))
        .map(|time| Timestamp::from(time.0))
        .max();
    let made = request.metadata.creation_timestamp.as_ref().map(|time| Timestamp::from(time.0));
    let made = made.unwrap_or_default();
    match decided {
        Some(decided) => {
            let denied_or_issued = is_issued(request)
                || conditions.iter().any(|it| it.type_ == "Denied" || it.type_ == "Failed");
            let kept_s = if denied_or_issued { DECIDED_S } else { WAITING_S };
            let kept = decided.plus_seconds(kept_s);
            ended(request).map_or(kept, |ended| ended.min(kept))
        }
        None => made.plus_seconds(WAITING_S),
    }
}

fn ended(request: &CertificateSigningRequest) -> Option<Timestamp> {
    let pem = &request.status.as_ref()?.certificate.as_ref()?.0;
    let (_, block) = x509_parser::pem::parse_x509_pem(pem).ok()?;
    let certificate = block.parse_x509().ok()?;
    Some(Timestamp::from_seconds(certificate.validity().not_after.timestamp()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_request_is_kept_for_a_while_after_it_was_decided() {
        let request = |status: Value| -> CertificateSigningRequest {
            serde_json::from_value(json!({"metadata": {"name": "r",
                "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"request": "eA==",
                "signerName": "s", "usages": []}, "status": status}))
            .unwrap()
        };
        let said = |kind: &str| {
            json!({"conditions": [{"type": kind, "status": "True",
                "lastUpdateTime": "2026-01-01T12:00:00Z"}]})
        };
        let at = |text: &str| Timestamp::parse(text).unwrap();
        assert_eq!(due(&request(json!({}))), at("2026-01-02T00:00:00Z"));
        assert_eq!(due(&request(said("Denied"))), at("2026-01-01T13:00:00Z"));
        assert_eq!(due(&request(said("Approved"))), at("2026-01-02T12:00:00Z"));
    }
}
