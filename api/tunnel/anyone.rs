//! TLS with pods, whoever they are: a probe asks whether somebody answers, and a proxy has found the pod by its
//! object. Their certificates are nobody's that we know.
//!
//! Never: used toward masters, or toward whoever is sent something that is secret.

use std::sync::Arc;

use kontiki_raft::cryptography::provider;
use kontiki_raft::trust::Verifier;
use rustls::ClientConfig;

/// What a client is to use.
#[must_use]
pub fn config() -> Arc<ClientConfig> {
    let provider = provider();
    let anyone = Verifier::new(&provider, |_| Ok(()));
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has the default versions")
        .dangerous()
        .with_custom_certificate_verifier(anyone)
        .with_no_client_auth();
    Arc::new(config)
}
