//! The port of controllers by themselves: whether the process lives, and what it counts.
//!
//! Keeps: TLS, by a certificate that the process makes for itself. Whether it lives may be asked by
//! anybody; `/metrics` is for those whom the API server knows by their token and lets read it
//! (TokenReview and SubjectAccessReview, as upstream).
//! Never: asks the API server for more than a few at a time, whatever comes.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use kontiki_api::Status;
use kontiki_api::client::Client;
use kontiki_api::listener::{Listener, TlsSource};
use kontiki_api::object::GroupVersionResource;
use kontiki_api::request::{Body, Options, Request, Verb};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::failure::Failure;
use crate::pki;

/// Callers that are asked after at a time; others are told to come again.
const REVIEWS_MAX: usize = 4;
const METRICS: &str = "/metrics";

struct Inspection {
    client: Client,
    registry: Registry,
    reviews: Semaphore,
}

/// Takes the port.
pub(super) async fn bind(address: SocketAddr) -> Result<Listener, Failure> {
    let tls = pki::tls_of_this_process("kontiki-controllers", pki::now())?;
    let tls = TlsSource::new(&tls).map_err(pki::Error::from)?;
    Listener::bind(address, tls).await.map_err(|error| {
        Failure::Run(format!(
            "{error} (--metrics-bind-address): choose another address or port, or 0 for none"
        ))
    })
}

/// What is answered there. `client` is asked who callers are.
pub(super) fn router(client: Client, registry: Registry) -> Router {
    let reviews = Semaphore::new(REVIEWS_MAX);
    let inspection = Arc::new(Inspection { client, registry, reviews });
    Router::new()
        .route("/healthz", get("ok"))
        .route("/livez", get("ok"))
        .route("/readyz", get("ok"))
        .route(METRICS, get(metrics))
        .with_state(inspection)
}

async fn metrics(
    State(inspection): State<Arc<Inspection>>,
    headers: HeaderMap,
) -> Result<([(http::HeaderName, &'static str); 1], String), StatusCode> {
    let token = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = token.and_then(|value| value.strip_prefix("Bearer ")).map(str::trim);
    inspection.permit(token.unwrap_or_default()).await?;
    let mut page = String::new();
    encode(&mut page, &inspection.registry).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(CONTENT_TYPE, kind)], page))
}

impl Inspection {
    /// Whether the API server knows this token and lets its owner read metrics.
    async fn permit(&self, token: &str) -> Result<(), StatusCode> {
        if token.is_empty() {
            return Err(StatusCode::UNAUTHORIZED);
        }
        let _place = self.reviews.try_acquire().map_err(|_| StatusCode::TOO_MANY_REQUESTS)?;
        let unreachable = |status: Status| {
            tracing::warn!(%status, "a caller of /metrics could not be asked after");
            StatusCode::SERVICE_UNAVAILABLE
        };
        let known = self.review("authentication.k8s.io", "TokenReview", json!({"token": token}));
        let known = known.await.map_err(unreachable)?;
        if known["authenticated"] != true {
            return Err(StatusCode::UNAUTHORIZED);
        }
        let user = &known["user"];
        let asked = json!({"user": user["username"], "groups": user["groups"], "uid": user["uid"],
            "extra": user["extra"], "nonResourceAttributes": {"path": METRICS, "verb": "get"}});
        let may = self.review("authorization.k8s.io", "SubjectAccessReview", asked);
        let may = may.await.map_err(unreachable)?;
        if may["allowed"] == true { Ok(()) } else { Err(StatusCode::FORBIDDEN) }
    }

    /// The status of a review.
    async fn review(&self, group: &str, kind: &str, spec: Value) -> Result<Value, Status> {
        let resource = format!("{}s", kind.to_ascii_lowercase());
        let request = Request {
            verb: Verb::Create,
            resource: GroupVersionResource::new(group, "v1", &resource),
            subresource: None,
            namespace: None,
            name: None,
            options: Options::default(),
            body: Body::Object(
                json!({"apiVersion": format!("{group}/v1"), "kind": kind, "spec": spec}),
            ),
        };
        let answer = self.client.call(request).await?;
        let mut answer: Value = serde_json::from_slice(&answer).map_err(Status::internal)?;
        Ok(answer["status"].take())
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body as Sent;
    use http_body_util::BodyExt as _;
    use k8s_openapi::ListableResource;
    use k8s_openapi::api::core::v1::ServiceAccount;
    use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
    use kontiki_api::client::Typed;
    use kontiki_api::sandbox::Sandbox;
    use tower::ServiceExt as _;

    use super::*;

    async fn create<K: Typed + ListableResource>(client: &Client, object: Value) {
        client.create::<K>(&serde_json::from_value(object).unwrap()).await.unwrap();
    }

    async fn token(client: &Client, account: &str) -> String {
        let object = json!({"metadata": {"name": account, "namespace": "default"}});
        create::<ServiceAccount>(client, object).await;
        let asked = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {}});
        let made = client.create_subresource::<ServiceAccount>("default", account, "token", asked);
        let made: Value = serde_json::from_slice(&made.await.unwrap()).unwrap();
        made["status"]["token"].as_str().unwrap().to_owned()
    }

    async fn ask(router: &Router, path: &str, token: Option<&str>) -> (StatusCode, String) {
        let mut request = http::Request::get(path);
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Sent::empty()).unwrap();
        let answer = router.clone().oneshot(request).await.unwrap();
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn metrics_are_for_those_whom_the_api_lets_read_them_and_health_is_for_all() {
        let sandbox = Sandbox::start().await;
        let client = sandbox.client();
        let (may, may_not) = (token(&client, "reader").await, token(&client, "other").await);
        let role = json!({"metadata": {"name": "metrics"},
            "rules": [{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]});
        create::<ClusterRole>(&client, role).await;
        let binding = json!({"metadata": {"name": "metrics"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
                "name": "metrics"},
            "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": "default"}]});
        create::<ClusterRoleBinding>(&client, binding).await;
        let mut registry = Registry::default();
        registry.register("counted", "", <prometheus_client::metrics::counter::Counter>::default());
        let router = router(client, registry);

        assert_eq!(ask(&router, "/healthz", None).await, (StatusCode::OK, "ok".to_owned()));
        let refused = |token: Option<&'static str>| ask(&router, METRICS, token);
        assert_eq!(refused(None).await.0, StatusCode::UNAUTHORIZED);
        assert_eq!(refused(Some("made up")).await.0, StatusCode::UNAUTHORIZED);
        assert_eq!(ask(&router, METRICS, Some(&may_not)).await.0, StatusCode::FORBIDDEN);
        // The role is known to the authorizer when it has heard of it.
        let read = async {
            loop {
                let (status, page) = ask(&router, METRICS, Some(&may)).await;
                if status == StatusCode::OK {
                    break page;
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        let page = tokio::time::timeout(std::time::Duration::from_secs(60), read).await.unwrap();
        assert!(page.contains("counted_total 0"), "{page}");
        sandbox.stop().await;
    }
}
