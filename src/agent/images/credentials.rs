//! Which of a pod's pull secrets fits an image. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Secret;
use serde_json::Value;

use crate::agent::cri::v1::AuthConfig;

/// Credentials of all that fit, the most particular first.
#[must_use]
pub fn fitting(secrets: &[Secret], image: &str) -> Vec<AuthConfig> {
    let mut found: Vec<(usize, AuthConfig)> = Vec::new();
    for secret in secrets {
        let Some(data) = &secret.data else { continue };
        let file = match (data.get(".dockerconfigjson"), data.get(".dockercfg")) {
            (Some(bytes), _) => {
                serde_json::from_slice::<Value>(&bytes.0).ok().map(|mut it| it["auths"].take())
            }
            (None, Some(bytes)) => serde_json::from_slice(&bytes.0).ok(),
            (None, None) => None,
        };
        let Some(Value::Object(entries)) = file else { continue };
        for (server, entry) in entries {
            let prefix = address(&server);
            let fits = image
                .strip_prefix(&prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', ':', '@']));
            if fits {
                found.push((prefix.len(), config(&entry)));
            }
        }
    }
    found.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    found.into_iter().map(|(_, config)| config).collect()
}

/// What an entry is for: a registry, perhaps with a path, however it is written.
fn address(server: &str) -> String {
    let server =
        server.strip_prefix("https://").or(server.strip_prefix("http://")).unwrap_or(server);
    let server = server.trim_end_matches('/');
    let server = server.strip_suffix("/v1").or(server.strip_suffix("/v2")).unwrap_or(server);
    match server {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".into(),
        other => other.into(),
    }
}

fn config(entry: &Value) -> AuthConfig {
    let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    let (mut username, mut password) = (text("username"), text("password"));
    if username.is_empty()
        && let Ok(pair) = STANDARD.decode(text("auth"))
        && let Some((user, word)) = String::from_utf8_lossy(&pair).split_once(':')
    {
        (username, password) = (user.to_owned(), word.to_owned());
    }
    AuthConfig {
        username,
        password,
        auth: String::new(),
        // They were chosen by the image's name. The runtime would read this as a URL, which `host:port` is not.
        server_address: String::new(),
        identity_token: text("identitytoken"),
        registry_token: text("registrytoken"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;

    #[test]
    fn the_most_particular_entry_comes_first_and_others_are_left_out() {
        let file = r#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "dTpw"},
            "quay.io": {"username": "all", "password": "1"},
            "quay.io/team": {"username": "team", "password": "2"}}}"#;
        let data = [(".dockerconfigjson".to_owned(), ByteString(file.into()))].into();
        let secrets = [Secret { data: Some(data), ..Secret::default() }];
        let users = |image: &str| -> Vec<String> {
            fitting(&secrets, image).into_iter().map(|it| it.username).collect()
        };
        assert_eq!(users("quay.io/team/app:1"), ["team", "all"]);
        assert_eq!(users("quay.io/teams/app:1"), ["all"]);
        assert_eq!(users("docker.io/library/nginx:latest"), ["u"]);
        assert!(users("ghcr.io/x/y:1").is_empty());
    }
}
