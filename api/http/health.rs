//! `/healthz`, `/livez` and `/readyz`, with the checks behind them.

use std::sync::Arc;

use axum::body::Body;
use futures::future::BoxFuture;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use parking_lot::RwLock;

use super::info::Query;

/// One thing that has to be well.
#[derive(Clone)]
pub struct Check {
    pub name: &'static str,
    /// It is asked for liveness too: without it the process is of no use.
    pub live: bool,
    pub ask: Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>,
}

/// All checks, in the order in which they are told.
#[derive(Default)]
pub struct Health(RwLock<Vec<Check>>);

impl Health {
    pub fn add(&self, check: Check) {
        self.0.write().push(check);
    }

    /// `None`: not one of these paths.
    pub(super) async fn answer(&self, path: &str, query: &Query) -> Option<Response<Body>> {
        let path = path.trim_end_matches('/');
        let mut parts = path.trim_start_matches('/').splitn(2, '/');
        let which = parts.next().filter(|it| matches!(*it, "healthz" | "livez" | "readyz"))?;
        let all: Vec<Check> = self.0.read().clone();
        if let Some(name) = parts.next() {
            let check = all.into_iter().find(|it| it.name == name)?;
            return Some(match (check.ask)().await {
                Ok(()) => text(StatusCode::OK, "ok".into()),
                Err(why) => {
                    tracing::debug!(check = name, why, "a health check fails");
                    text(
                        StatusCode::INTERNAL_SERVER_ERROR,
                        "internal server error: it fails\n".into(),
                    )
                }
            });
        }
        let excluded: Vec<&str> = query
            .0
            .iter()
            .filter(|(key, _)| key == "exclude")
            .map(|(_, value)| value.as_str())
            .collect();
        let asked = all.iter().filter(|it| which != "livez" || it.live);
        let mut lines = String::from("[+]ping ok\n");
        let mut failed = false;
        for check in asked {
            if excluded.contains(&check.name) {
                lines.push_str(&format!("[+]{} excluded: ok\n", check.name));
                continue;
            }
            match (check.ask)().await {
                Ok(()) => lines.push_str(&format!("[+]{} ok\n", check.name)),
                Err(why) => {
                    tracing::debug!(check = check.name, why, "a health check fails");
                    failed = true;
                    lines.push_str(&format!("[-]{} failed: reason withheld\n", check.name));
                }
            }
        }
        let verbose = query.0.iter().any(|(key, _)| key == "verbose");
        Some(if failed {
            lines.push_str(&format!("{which} check failed\n"));
            text(StatusCode::INTERNAL_SERVER_ERROR, lines)
        } else if verbose {
            lines.push_str(&format!("{which} check passed\n"));
            text(StatusCode::OK, lines)
        } else {
            text(StatusCode::OK, "ok".into())
        })
    }
}

fn text(code: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = code;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn ask(health: &Health, path: &str, query: &[(&str, &str)]) -> (u16, String) {
        let query = Query(query.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect());
        let response = health.answer(path, &query).await.unwrap();
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (code, String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_failing_check_is_named_and_can_be_left_out() {
        let health = Health::default();
        let check = |name, live, well: bool| Check {
            name,
            live,
            ask: Arc::new(move || {
                Box::pin(async move { if well { Ok(()) } else { Err("why".into()) } })
            }),
        };
        health.add(check("store", true, true));
        health.add(check("tables", false, false));
        assert_eq!(ask(&health, "/livez", &[]).await, (200, "ok".into()));
        let (code, told) = ask(&health, "/readyz", &[]).await;
        assert_eq!(code, 500);
        assert!(told.contains("[-]tables failed: reason withheld"), "{told}");
        assert_eq!(ask(&health, "/readyz", &[("exclude", "tables")]).await.0, 200);
        let (_, told) = ask(&health, "/livez", &[("verbose", "")]).await;
        assert!(told.ends_with("livez check passed\n"), "{told}");
        assert_eq!(ask(&health, "/readyz/store", &[]).await.0, 200);
        assert!(health.answer("/other", &Query::default()).await.is_none());
    }
}
