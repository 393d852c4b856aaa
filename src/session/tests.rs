//! Sessions with a whole API server behind a real listener.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod, ServiceAccount};
use kontiki_api::listener::{Clients, Limits, Listener, TlsConfig, TlsSource};
use kontiki_api::object::time::Clock;
use kontiki_api::sandbox::Sandbox;
use kontiki_api::tunnel::wire::want::Kind;
use kontiki_api::tunnel::{Nodes as _, wire};
use rcgen::{CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Door, Link, Masters, Origin, Outbox, Set, named, run};
use crate::agent::cri::fake::Fake;
use crate::agent::pods::tests::settings;
use crate::agent::stats::Stats;
use crate::agent::tunnels::Ends;
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

fn link(door: Door) -> Link {
    let ends = Ends {
        node: "n".into(),
        runtime: Arc::new(Fake::default()),
        clock: Clock::System,
        logs: "/nonexistent".into(),
        metrics: Arc::default(),
        stats: Arc::new(Stats::new(
            Arc::new(settings(Path::new("/nonexistent"))),
            Arc::new(Fake::default()),
            Arc::new(Set::default()),
            Clock::System,
        )),
    };
    Link {
        node: "n".into(),
        boot: "b".into(),
        door,
        set: Arc::new(Set::default()),
        outbox: Arc::new(Outbox::default()),
        orders: Arc::new(ends),
        kept: None,
    }
}

#[tokio::test]
async fn a_session_is_begun_anew_at_whichever_master_answers_and_carries_what_is_wanted() {
    let sandbox = Sandbox::with(|config| config.authenticator = None).await;
    let ca = Authority::new();
    let (address, stop, served) = ca.serve(&sandbox, "127.0.0.1:0".parse().unwrap()).await;
    let port = address.port();
    // Nobody is at the first.
    let servers = vec!["https://localhost:1".to_owned(), format!("https://localhost:{port}")];
    let end = CancellationToken::new();
    let door = Door::There(Masters::new(servers, ca.node("n")));
    let agent = tokio::spawn(run(link(door), end.clone()));
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

async fn furnish(sandbox: &Sandbox) -> Pod {
    let client = sandbox.client();
    let account = json!({"metadata": {"name": "default", "namespace": "default"}});
    let account: ServiceAccount = serde_json::from_value(account).unwrap();
    client.create(&account).await.unwrap();
    let pod = json!({"metadata": {"name": "p", "namespace": "default"},
        "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}});
    client.create(&serde_json::from_value::<Pod>(pod).unwrap()).await.unwrap()
}

#[tokio::test]
async fn what_is_said_while_no_master_is_there_arrives_and_the_last_word_counts() {
    let sandbox = Sandbox::with(|config| config.authenticator = None).await;
    let pod = furnish(&sandbox).await;
    let ca = Authority::new();
    let (address, stop, served) = ca.serve(&sandbox, "127.0.0.1:0".parse().unwrap()).await;
    stop.cancel();
    served.await.unwrap();
    let servers = vec![format!("https://localhost:{}", address.port())];
    let link = link(Door::There(Masters::new(servers, ca.node("n"))));
    let (set, outbox) = (link.set.clone(), link.outbox.clone());
    let labels = [("zone".to_owned(), "a".to_owned())].into();
    outbox.node(&json!({"addresses": [{"$patch": "replace"}]}), Some(labels));
    outbox.pod(named(&pod.metadata), &json!({"phase": "Pending"}));
    outbox.pod(named(&pod.metadata), &json!({"phase": "Running"}));
    let end = CancellationToken::new();
    let agent = tokio::spawn(run(link, end.clone()));
    let (_, stop, served) = ca.serve(&sandbox, address).await;
    until("an acknowledgement", || outbox.is_empty()).await;
    let client = sandbox.client();
    let written: Pod = client.get("default", "p").await.unwrap();
    assert_eq!(written.status.unwrap().phase.as_deref(), Some("Running"));
    let node: Node = client.get("", "n").await.unwrap();
    assert_eq!(node.metadata.labels.unwrap()["zone"], "a");
    until("the node's own object", || set.get("nodes", "", "n").is_some()).await;
    let running = || {
        set.get("pods", "default", "p").is_some_and(|held| {
            held.read::<Pod>().unwrap().status.unwrap().phase.as_deref() == Some("Running")
        })
    };
    until("the pod as it was written", running).await;
    end.cancel();
    agent.await.unwrap();
    stop.cancel();
    served.await.unwrap();
}

#[tokio::test]
async fn a_set_is_kept_for_an_agent_that_finds_no_master_when_it_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("assigned/set");
    let sandbox = Sandbox::start().await;
    furnish(&sandbox).await;
    let first =
        Link { kept: Some(kept.clone()), ..link(Door::Here(sandbox.server.node_channel("n"))) };
    let (set, end) = (first.set.clone(), CancellationToken::new());
    let agent = tokio::spawn(run(first, end.clone()));
    until("the set on disk", || kept.exists()).await;
    assert_eq!(set.origin(), Origin::Master);
    end.cancel();
    agent.await.unwrap();
    sandbox.stop().await;

    tokio::time::pause();
    let tls = Authority::new().node("n");
    let nowhere = Masters::new(vec!["https://localhost:1".into()], tls);
    let alone = Link { kept: Some(kept), ..link(Door::There(nowhere)) };
    let (set, end) = (alone.set.clone(), CancellationToken::new());
    let agent = tokio::spawn(run(alone, end.clone()));
    until("what was kept", || set.origin() == Origin::Kept).await;
    assert_eq!(set.list("pods", "").0.len(), 1);
    end.cancel();
    agent.await.unwrap();
}
