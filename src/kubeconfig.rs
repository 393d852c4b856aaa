//! What a kubeconfig says of its current context: which server, whom to believe, and who we are.
//!
//! Keeps: paths in it are taken from where it lies, as kubectl does. What we cannot do as it asks (run a
//! program for a token, believe anybody) is refused by name, not passed over.
//! Never: writes one; that is `pki`'s.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kontiki_api::client::Client;
use kontiki_api::client::https::Https;
use rustls::ClientConfig;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::pki::{self, Credentials, Trust};
use crate::session::{Door, Masters};

/// A server, and what it takes to speak to it.
#[derive(Clone)]
pub struct Access {
    pub server: String,
    /// PEM of the CA that the server is believed by.
    pub ca: String,
    tls: Arc<ClientConfig>,
    bearer: Option<String>,
}

impl Access {
    /// Reads a file.
    ///
    /// # Errors
    /// One line that names the file and what is wrong in it.
    pub fn read(path: &Path) -> Result<Access, String> {
        let wrong = |reason: String| format!("{}: {reason}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        Access::parse(&text, folder).map_err(wrong)
    }

    fn parse(text: &str, folder: &Path) -> Result<Access, String> {
        let file: File = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        let context = find(&file.contexts, &file.current_context, "context")?;
        let cluster = find(&file.clusters, &context.context.cluster, "cluster")?;
        let user = find(&file.users, &context.context.user, "user")?;
        let (cluster, user) = (&cluster.cluster, &user.user);
        if cluster.insecure_skip_tls_verify {
            return Err("insecure-skip-tls-verify: a server that nobody vouches for is not \
                        believed; give its certificate-authority"
                .into());
        }
        if user.exec.is_some() || user.auth_provider.is_some() {
            return Err("a user that takes a program to log in cannot be used here; give a \
                        certificate or a token"
                .into());
        }
        let part = |data: &Option<String>, path: &Option<PathBuf>, what: &str| match (data, path) {
            (Some(data), _) => {
                let bytes = STANDARD.decode(data).map_err(|error| format!("{what}-data: {error}"));
                let text = bytes.map(String::from_utf8)?;
                text.map(Some).map_err(|error| format!("{what}-data: {error}"))
            }
            (None, Some(path)) => {
                let path = folder.join(path);
                let text = std::fs::read_to_string(&path);
                text.map(Some).map_err(|error| format!("{what} {}: {error}", path.display()))
            }
            (None, None) => Ok(None),
        };
        let ca = part(
            &cluster.certificate_authority_data,
            &cluster.certificate_authority,
            "certificate-authority",
        )?;
        let ca = ca.ok_or("the cluster has no certificate-authority")?;
        let certificate =
            part(&user.client_certificate_data, &user.client_certificate, "client-certificate")?;
        let key = part(&user.client_key_data, &user.client_key, "client-key")?;
        let bearer = match &user.token {
            Some(token) => Some(token.clone()),
            None => part(&None, &user.token_file, "tokenFile")?.map(|it| it.trim().to_owned()),
        };
        let me = certificate.zip(key).map(|(certificate, key)| Credentials { certificate, key });
        if me.is_none() && bearer.is_none() {
            return Err("the user has neither a client-certificate with its key nor a token".into());
        }
        let tls = pki::client_config(Trust::Bundle(ca.clone()), me.as_ref());
        let tls = tls.map_err(|error| error.to_string())?;
        let access = Access { server: cluster.server.clone(), ca, tls, bearer };
        // What is wrong with the server's name is found now.
        access.client("kontiki").map(|_| access)
    }

    /// A client under a name, on a connection of its own.
    ///
    /// # Errors
    /// If the server is no `https://HOST:PORT`.
    pub fn client(&self, name: &str) -> Result<Client, String> {
        self.client_of(std::slice::from_ref(&self.server), name)
    }

    /// The same through any of several servers of the cluster.
    ///
    /// # Errors
    /// If one of them is no `https://HOST:PORT`.
    pub fn client_of(&self, servers: &[String], name: &str) -> Result<Client, String> {
        let servers: Vec<String> =
            servers.iter().map(|it| it.trim_end_matches('/').to_owned()).collect();
        let transport = Https::new(&servers, &self.tls, self.bearer.as_deref())?;
        Ok(Client::new(Arc::new(transport), name))
    }
}

/// Sessions of nodes, where the certificate is an administrator's.
impl Access {
    /// The way to `servers` for the session of a node.
    #[must_use]
    pub fn door(&self, servers: Vec<String>, node: &str) -> Door {
        let servers = servers.iter().map(|it| it.trim_end_matches('/').to_owned()).collect();
        Door::There(Masters::new(servers, self.tls.clone()).speaking_for(node))
    }
}

fn find<'a, T: Named>(all: &'a [T], name: &str, what: &str) -> Result<&'a T, String> {
    let found = all.iter().find(|it| it.name() == name);
    found.ok_or_else(|| format!("there is no {what} {name:?}"))
}

trait Named {
    fn name(&self) -> &str;
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    #[serde(default)]
    current_context: String,
    #[serde(default)]
    contexts: Vec<NamedContext>,
    #[serde(default)]
    clusters: Vec<NamedCluster>,
    #[serde(default)]
    users: Vec<NamedUser>,
}

#[derive(Deserialize)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    #[serde(default)]
    user: User,
}

impl Named for NamedContext {
    fn name(&self) -> &str {
        &self.name
    }
}

impl Named for NamedCluster {
    fn name(&self) -> &str {
        &self.name
    }
}

impl Named for NamedUser {
    fn name(&self) -> &str {
        &self.name
    }
}

#[derive(Deserialize)]
struct Context {
    cluster: String,
    user: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
    #[serde(default)]
    insecure_skip_tls_verify: bool,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
    exec: Option<IgnoredAny>,
    auth_provider: Option<IgnoredAny>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority() -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.self_signed(&key).unwrap().pem()
    }

    fn file(cluster: &str, user: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: here\npreferences: {{}}\n\
             contexts: [{{name: there, context: {{cluster: x, user: y}}}},\n\
             \x20 {{name: here, context: {{cluster: c, user: u, namespace: shop}}}}]\n\
             clusters: [{{name: c, cluster: {{{cluster}}}}}]\n\
             users: [{{name: u, user: {{{user}}}}}]\n"
        )
    }

    fn refused(text: &str) -> String {
        match Access::parse(text, Path::new(".")) {
            Err(reason) => reason,
            Ok(_) => panic!("taken: {text}"),
        }
    }

    #[test]
    fn the_current_context_says_where_and_paths_are_taken_from_the_file() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.crt"), authority()).unwrap();
        std::fs::write(folder.path().join("token"), "secret\n").unwrap();
        let cluster = "server: 'https://m1:6443/', certificate-authority: ca.crt";
        let path = folder.path().join("config");
        std::fs::write(&path, file(cluster, "tokenFile: token")).unwrap();
        let access = Access::read(&path).unwrap();
        assert_eq!(access.server, "https://m1:6443/");
        assert_eq!(access.bearer.as_deref(), Some("secret"));
        access.client("test").unwrap();
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_name() {
        let ca = format!("certificate-authority-data: {}", STANDARD.encode(authority()));
        let good = format!("server: 'https://m1:6443', {ca}");
        let said = refused(&file(&good, "exec: {command: login}"));
        assert!(said.contains("program"), "{said}");
        let said =
            refused(&file("server: 'https://m1', insecure-skip-tls-verify: true", "token: t"));
        assert!(said.contains("insecure-skip-tls-verify"), "{said}");
        assert!(refused(&file(&good, "")).contains("token"));
        assert!(refused(&file("server: 'https://m1'", "token: t")).contains("authority"));
        assert!(
            refused(&file(&format!("server: 'http://m1', {ca}"), "token: t")).contains("https")
        );
        assert!(refused("current-context: gone").contains("gone"));
        assert!(refused("{").contains("line"), "{}", refused("{"));
    }
}
