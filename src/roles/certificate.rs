//! A node's certificate is renewed before it ends, by a request over the API that the cluster approves.
//!
//! Keeps: key and certificate lie in one file, which is replaced as a whole; the certificate in use stays
//! in use until the new one is on the disk. The calendar is looked at every hour at least.
//! Never: sends the key anywhere.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kontiki_api::client::Client;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use serde_json::json;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::pki::{self, Credentials, Identity, Readers};

const SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// Until a request is approved and signed.
const SIGNED_WAIT_MAX: Duration = Duration::from_secs(120);
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// The certificate of a node.
pub struct Renewal {
    pub node: String,
    pub client: Client,
    pub identity: Arc<Identity>,
    /// The file that holds key and certificate.
    pub file: PathBuf,
}

impl Renewal {
    /// Renews the certificate whenever it is time, until `stop`.
    pub async fn run(self, certificate: String, stop: CancellationToken) {
        tokio::select! {
            () = self.work(certificate) => {}
            () = stop.cancelled() => {}
        }
    }

    async fn work(&self, mut certificate: String) {
        loop {
            if let Err(error) = pki::until_due(&certificate).await {
                tracing::error!(%error, "the node's certificate is asked for anew");
            }
            match self.renew().await {
                Ok(fresh) => {
                    tracing::info!(node = self.node, "the node's certificate is renewed");
                    certificate = fresh;
                }
                Err(why) => {
                    tracing::error!(why, "the node's certificate is not renewed; tried again soon");
                    sleep(TRY_AGAIN_AFTER).await;
                }
            }
        }
    }

    /// The new certificate, which is in use.
    async fn renew(&self) -> Result<String, String> {
        let key = KeyPair::generate().map_err(|error| error.to_string())?;
        let certificate = self.sign(&key).await?;
        let me = Credentials { certificate, key: key.serialize_pem() };
        let text = format!("{}{}", me.certificate, me.key);
        pki::replace(&self.file, text, Readers::Owner).map_err(|error| error.to_string())?;
        self.identity.replace(&me).map_err(|error| error.to_string())?;
        Ok(me.certificate)
    }

    async fn sign(&self, key: &KeyPair) -> Result<String, String> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.distinguished_name.push(DnType::CommonName, format!("system:node:{}", self.node));
        let request = params.serialize_request(key).and_then(|request| request.pem());
        let request = request.map_err(|error| error.to_string())?;
        let asked: CertificateSigningRequest = serde_json::from_value(json!({
            "metadata": {"generateName": "node-csr-"},
            "spec": {
                "request": k8s_openapi::ByteString(request.into_bytes()),
                "signerName": SIGNER,
                "usages": ["digital signature", "client auth"],
            },
        }))
        .map_err(|error| error.to_string())?;
        let told = |status: kontiki_api::Status| status.to_string();
        let made = self.client.create(&asked).await.map_err(told)?;
        let name = made.metadata.name.unwrap_or_default();
        let until = Instant::now() + SIGNED_WAIT_MAX;
        while Instant::now() < until {
            let now: CertificateSigningRequest = self.client.get("", &name).await.map_err(told)?;
            let status = now.status.unwrap_or_default();
            if let Some(certificate) = status.certificate.filter(|it| !it.0.is_empty()) {
                return String::from_utf8(certificate.0).map_err(|error| error.to_string());
            }
            let refused = status.conditions.iter().flatten().find(|it| it.type_ != "Approved");
            if let Some(refused) = refused {
                let why = refused.message.clone().unwrap_or_default();
                return Err(format!("request {name} is {}: {why}", refused.type_));
            }
            sleep(LOOK_AGAIN).await;
        }
        Err(format!("nobody has signed request {name}; `kubectl certificate approve {name}` does"))
    }
}

#[cfg(test)]
mod tests {
    use kontiki_api::client::PatchKind;
    use kontiki_api::request::Options;
    use kontiki_api::sandbox::Sandbox;
    use rcgen::{CertificateSigningRequestParams, CertifiedIssuer, IsCa};
    use rustls::client::ResolvesClientCert as _;

    use super::*;

    /// Signs the first request that comes, as the cluster's controllers would.
    async fn sign_one(client: Client, ca: CertifiedIssuer<'static, KeyPair>) {
        let asked = loop {
            let list = client.list::<CertificateSigningRequest>("", Options::default()).await;
            match list.unwrap().items.into_iter().next() {
                Some(asked) => break asked,
                None => sleep(Duration::from_millis(10)).await,
            }
        };
        let name = asked.metadata.name.clone().unwrap();
        let request = String::from_utf8(asked.spec.request.0).unwrap();
        let signed = CertificateSigningRequestParams::from_pem(&request).unwrap().signed_by(&ca);
        let certificate = k8s_openapi::ByteString(signed.unwrap().pem().into_bytes());
        let approved = json!({"status": {"conditions": [{"type": "Approved", "status": "True",
            "reason": "Test", "message": "it may"}]}});
        let kind = PatchKind::Merge;
        let part = Some("approval");
        client.patch::<CertificateSigningRequest>("", &name, kind, &approved, part).await.unwrap();
        let signed = json!({"status": {"certificate": certificate}});
        let part = Some("status");
        client.patch::<CertificateSigningRequest>("", &name, kind, &signed, part).await.unwrap();
    }

    #[tokio::test]
    async fn a_new_certificate_is_on_the_disk_and_shown_by_the_next_connection() {
        let sandbox = Sandbox::start().await;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::default().self_signed(&key).unwrap().pem();
        let old = Credentials { certificate, key: key.serialize_pem() };
        let folder = tempfile::tempdir().unwrap();
        let renewal = Renewal {
            node: "n".into(),
            client: sandbox.client(),
            identity: Identity::new(&old).unwrap(),
            file: folder.path().join("client.pem"),
        };
        let shown = || renewal.identity.resolve(&[], &[]).unwrap().cert.clone();
        let before = shown();
        let (renewed, ()) = tokio::join!(renewal.renew(), sign_one(sandbox.client(), ca));
        let certificate = renewed.unwrap();
        assert_ne!(shown(), before);
        let file = std::fs::read_to_string(&renewal.file).unwrap();
        assert!(file.starts_with(&certificate) && file.contains("PRIVATE KEY"));
        let me = Credentials { certificate: file.clone(), key: file };
        assert!(Identity::new(&me).is_ok(), "one file is both");
    }
}
