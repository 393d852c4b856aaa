//! Certificates of a process that belongs to no directory: made when it starts, gone with it.

use std::time::{Duration, SystemTime};

use kontiki_api::listener::{Clients, TlsConfig};

use super::Error;
use super::authority::{Authority, Subject, Usage};

/// Longer than a process lives without being replaced.
const LIFE: Duration = Duration::from_secs(365 * 24 * 3600);

/// What a port proves itself with to those who do not ask who vouches for it. No client is believed by a
/// certificate there.
///
/// # Errors
/// If no key can be made.
pub fn tls_of_this_process(name: &str, now: SystemTime) -> Result<TlsConfig, Error> {
    let authority = Authority::create(name, now)?;
    let subject = Subject {
        common_name: name.to_owned(),
        organization: None,
        names: vec!["localhost".into(), "127.0.0.1".into(), "::1".into()],
        use_as: Usage::Server,
    };
    let credentials = authority.issue(&subject, now, LIFE)?;
    Ok(TlsConfig {
        certificate_pem: credentials.certificate.into_bytes(),
        key_pem: credentials.key.into_bytes(),
        client_ca_pem: authority.bundle().as_bytes().to_vec(),
        clients: Clients::MayProve,
    })
}
