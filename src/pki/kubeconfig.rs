//! An administrator's kubeconfig.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::authority::Credentials;

/// One that has everything in it, so that it can be copied elsewhere.
pub fn kubeconfig(server: &str, ca: &str, credentials: &Credentials) -> String {
    let base64 = |text: &str| STANDARD.encode(text);
    format!(
        "apiVersion: v1\n\
         kind: Config\n\
         clusters:\n\
         - name: kontiki\n\
         \x20 cluster:\n\
         \x20   server: {server}\n\
         \x20   certificate-authority-data: {}\n\
         contexts:\n\
         - name: kontiki\n\
         \x20 context:\n\
         \x20   cluster: kontiki\n\
         \x20   user: kubernetes-admin\n\
         current-context: kontiki\n\
         users:\n\
         - name: kubernetes-admin\n\
         \x20 user:\n\
         \x20   client-certificate-data: {}\n\
         \x20   client-key-data: {}\n",
        base64(ca),
        base64(&credentials.certificate),
        base64(&credentials.key),
    )
}
