//! What TLS is made of, on every port and in every client of the program.
//!
//! AES with 128-bit keys comes before 256: no attack that is known tells them apart, and it takes ten rounds
//! instead of fourteen, which is felt where millions of watched events are encrypted. Go's `crypto/tls`, and
//! with it etcd and kube-apiserver, has the same order.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::cipher_suite::{
    TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::NoServerSessionStorage;

/// The library, with our order of cipher suites.
///
/// Named wherever a configuration is made, never taken from the process: another crate must not be able to
/// choose for us.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    let cipher_suites = vec![
        TLS13_AES_128_GCM_SHA256,
        TLS13_AES_256_GCM_SHA384,
        TLS13_CHACHA20_POLY1305_SHA256,
        TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ];
    Arc::new(CryptoProvider { cipher_suites, ..aws_lc_rs::default_provider() })
}

/// What every port of a master has: our order decides, not the client's, and no session is resumed, because
/// whoever comes back shows a certificate that is looked at anew.
pub fn as_port(server: &mut ServerConfig, alpn: &[&[u8]]) {
    server.ignore_client_order = true;
    server.alpn_protocols = alpn.iter().map(|one| one.to_vec()).collect();
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
}
