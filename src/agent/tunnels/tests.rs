//! The agent's session with a whole API server behind a real listener.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kontiki_api::listener::{Clients, Limits, Listener, TlsConfig, TlsSource};
use kontiki_api::object::time::Clock;
use kontiki_api::sandbox::Sandbox;
use kontiki_api::tunnel::wire::want::Kind;
use kontiki_api::tunnel::{Nodes as _, wire};
use rcgen::{CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Door, Ends, run};
use crate::agent::cri::fake::Fake;
use crate::pki::{Credentials, Trust, client_config};

const PATIENCE: Duration = Duration::from_secs(60);

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn issue(&self, params: &CertificateParams) -> Credentials {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap().pem();
        Credentials { certificate, key: key.serialize_pem() }
    }

    fn node(&self, name: &str) -> Arc<rustls::ClientConfig> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("system:node:{name}"));
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        client_config(Trust::Bundle(self.0.pem()), Some(&self.issue(&params))).unwrap()
    }

    /// Serves the API until the token is cancelled.
    async fn serve(
        &self,
        sandbox: &Sandbox,
        at: SocketAddr,
    ) -> (SocketAddr, CancellationToken, JoinHandle<()>) {
        let server = self.issue(&CertificateParams::new(["localhost".to_owned()]).unwrap());
        let tls = TlsSource::new(&TlsConfig {
            certificate_pem: server.certificate.into(),
            key_pem: server.key.into(),
            client_ca_pem: self.0.pem().into(),
            clients: Clients::MayProve,
        });
        let listener = Listener::bind(at, tls.unwrap()).await.unwrap();
        // Sessions have no end of their own: nothing is waited for.
        let limits = Limits { grace: Duration::ZERO, ..Limits::default() };
        let (address, stop) = (listener.local_addr(), CancellationToken::new());
        let serving = listener.with_limits(limits).serve(sandbox.server.router(), stop.clone());
        (address, stop, tokio::spawn(serving))
    }
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let look = async {
        while !is_so() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, look).await.unwrap_or_else(|_| panic!("{what}"));
}

#[tokio::test]
async fn a_session_is_begun_anew_at_whichever_master_answers_and_carries_what_is_wanted() {
    let sandbox = Sandbox::with(|config| config.authenticator = None).await;
    let ca = Authority::new();
    let (address, stop, served) = ca.serve(&sandbox, "127.0.0.1:0".parse().unwrap()).await;
    let port = address.port();
    // Nobody is at the first.
    let servers = vec!["https://localhost:1".to_owned(), format!("https://localhost:{port}")];
    let ends = Arc::new(Ends {
        node: "n".into(),
        runtime: Arc::new(Fake::default()),
        clock: Clock::System,
        logs: "/nonexistent".into(),
        metrics: Arc::default(),
    });
    let end = CancellationToken::new();
    let agent = tokio::spawn(run(Door::Masters { servers, tls: ca.node("n") }, ends, end.clone()));
    let sessions = sandbox.server.sessions();
    until("a session", || sessions.holds("n")).await;

    stop.cancel();
    served.await.unwrap();
    until("the end of the session", || !sessions.holds("n")).await;
    let (_, stop, served) = ca.serve(&sandbox, address).await;
    until("another session", || sessions.holds("n")).await;

    let pod = Some(wire::Pod { namespace: "n".into(), name: "p".into(), uid: "u".into() });
    let exec = wire::Exec { pod: pod.clone(), container: "c".into(), ..Default::default() };
    let logs = wire::Logs { pod, container: "c".into(), ..Default::default() };
    for (kind, code, words) in [
        (Some(Kind::Exec(exec)), 500, "container not found (\"c\")"),
        (Some(Kind::Logs(logs)), 404, "no log"),
        (None, 400, "older than the master"),
    ] {
        let refused = sessions.open("n", wire::Want { kind }).await.err().unwrap();
        assert_eq!(refused.code(), code, "{refused}");
        assert!(refused.message().contains(words), "{refused}");
    }
    end.cancel();
    agent.await.unwrap();
    until("the end of the session", || !sessions.holds("n")).await;
    stop.cancel();
    served.await.unwrap();
}
