//! Counts what a process asks of an API server, under upstream's names (client-go's metrics).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use kontiki_api::Status;
use kontiki_api::client::{Client, Events, Served, Transport};
use kontiki_api::request::{Request, Verb};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tokio::time::Instant;

/// Upstream's buckets.
const SECONDS: [f64; 12] = [0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    code: String,
    method: &'static str,
    host: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Asked {
    verb: &'static str,
    host: String,
}

/// A transport that counts what goes over another client's.
#[derive(Clone)]
struct Counting(Arc<Inner>);

struct Inner {
    client: Client,
    host: String,
    requests: Family<Answered, Counter>,
    durations: Family<Asked, Histogram>,
}

/// The same client, whose requests are counted from now on. `host` is whom it asks.
#[must_use]
pub fn counted(client: Client, host: &str, registry: &mut Registry) -> Client {
    let name = client.name().to_owned();
    let inner = Inner {
        client,
        host: host.to_owned(),
        requests: Family::default(),
        durations: Family::new_with_constructor(|| Histogram::new(SECONDS)),
    };
    registry.register(
        "rest_client_requests",
        "Requests to the API server, by their answers",
        inner.requests.clone(),
    );
    registry.register(
        "rest_client_request_duration_seconds",
        "How long requests to the API server took",
        inner.durations.clone(),
    );
    Client::new(Arc::new(Counting(Arc::new(inner))), &name)
}

fn method(verb: Verb) -> &'static str {
    match verb {
        Verb::Get | Verb::List | Verb::Watch => "GET",
        Verb::Create => "POST",
        Verb::Update => "PUT",
        Verb::Patch => "PATCH",
        Verb::Delete | Verb::DeleteCollection => "DELETE",
    }
}

impl Inner {
    fn count<T>(&self, verb: Verb, took: Duration, answer: &Result<T, Status>) {
        let code = match answer {
            Ok(_) if verb == Verb::Create => 201,
            Ok(_) => 200,
            Err(status) => status.code(),
        };
        let (method, host) = (method(verb), self.host.clone());
        let answered = Answered { code: code.to_string(), method, host: host.clone() };
        self.requests.get_or_create(&answered).inc();
        let asked = Asked { verb: method, host };
        self.durations.get_or_create(&asked).observe(took.as_secs_f64());
    }
}

impl Transport for Counting {
    fn call(&self, request: Request) -> BoxFuture<'static, Result<Bytes, Status>> {
        let inner = self.0.clone();
        Box::pin(async move {
            let (verb, begin) = (request.verb, Instant::now());
            let answer = inner.client.call(request).await;
            inner.count(verb, begin.elapsed(), &answer);
            answer
        })
    }

    fn watch(&self, request: Request) -> BoxFuture<'static, Result<Events, Status>> {
        let inner = self.0.clone();
        Box::pin(async move {
            let begin = Instant::now();
            let answer = inner.client.watch_raw(request).await;
            inner.count(Verb::Watch, begin.elapsed(), &answer);
            answer
        })
    }

    fn resources(&self) -> BoxFuture<'static, Result<Vec<Served>, Status>> {
        let inner = self.0.clone();
        Box::pin(async move {
            let begin = Instant::now();
            let answer = inner.client.resources().await;
            inner.count(Verb::Get, begin.elapsed(), &answer);
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
    use kontiki_api::sandbox::Sandbox;
    use prometheus_client::encoding::text::encode;
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn requests_are_counted_by_their_answers() {
        let sandbox = Sandbox::start().await;
        let mut registry = Registry::default();
        let client = counted(sandbox.client(), "api:6443", &mut registry);
        client.get::<Namespace>("", "default").await.unwrap();
        client.get::<Namespace>("", "nowhere").await.unwrap_err();
        let object = json!({"metadata": {"name": "c", "namespace": "default"}});
        let object: ConfigMap = serde_json::from_value(object).unwrap();
        client.create(&object).await.unwrap();
        let mut page = String::new();
        encode(&mut page, &registry).unwrap();
        for line in [
            "rest_client_requests_total{code=\"200\",method=\"GET\",host=\"api:6443\"} 1",
            "rest_client_requests_total{code=\"404\",method=\"GET\",host=\"api:6443\"} 1",
            "rest_client_requests_total{code=\"201\",method=\"POST\",host=\"api:6443\"} 1",
            "rest_client_request_duration_seconds_count{verb=\"GET\",host=\"api:6443\"} 2",
        ] {
            assert!(page.contains(line), "{line} is missing in\n{page}");
        }
        sandbox.stop().await;
    }
}
