//! What goes through an agent's session besides tunnels: that it lives, what it runs, and how that is.

use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod, Secret, Service};
use kontiki_api::client::https::Https;
use kontiki_api::client::{Change, Client, PatchKind};
use kontiki_api::error::Reason;
use kontiki_api::node::{PROTOCOL, digest};
use kontiki_api::request::Options;
use kontiki_api::tunnel::wire::{
    self, Assigned, Beat, FromNode, Held, Hello, NodeReport, PodReport, Report, Reported,
    Unwritten, Written, from_node, report,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use crate::audit;
use crate::streams::agent::{Session, begin};
use crate::streams::bed::Master;

const PATIENCE: Duration = Duration::from_secs(30);
const LEASES: &str = "kube-node-lease";

fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

async fn until<T>(what: &str, look: impl AsyncFn() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("it never came: {what}"))
}

async fn soon<T>(what: &str, coming: impl Future<Output = T>) -> T {
    timeout(PATIENCE, coming).await.unwrap_or_else(|_| panic!("it never came: {what}"))
}

/// A session whose agent says what tests have it say.
struct Agent {
    session: Session,
    reports: mpsc::Sender<Reported>,
    written: Streaming<Written>,
    number: u64,
}

impl Agent {
    async fn of(master: &Master, node: &str) -> Agent {
        let (protocol, boot_id) = (PROTOCOL, "one".into());
        let hello = Hello { node: node.into(), protocol, boot_id, ..Hello::default() };
        let mut session = begin(&master.url, &master.ca.node(node), hello).await.unwrap();
        let (reports, said) = mpsc::channel(1);
        let written = session.client.reports(ReceiverStream::new(said)).await.unwrap();
        Agent { session, reports, written: written.into_inner(), number: 0 }
    }

    async fn beat(&mut self) {
        let beat = from_node::Message::Beat(Beat { number: 1 });
        self.session.words.send(FromNode { message: Some(beat) }).await.unwrap();
        soon("an answer to a beat", self.session.messages.message()).await.unwrap();
    }

    /// What was not written of it.
    async fn report(&mut self, what: Vec<report::What>) -> Vec<Unwritten> {
        self.number += 1;
        let reports = what.into_iter().map(|what| Report { what: Some(what) }).collect();
        self.reports.send(Reported { number: self.number, reports }).await.unwrap();
        let written = soon("an acknowledgement", self.written.message()).await.unwrap().unwrap();
        assert_eq!(written.number, self.number);
        written.unwritten
    }

    async fn register(&mut self) {
        let status = json!({"conditions": [{"type": "Ready", "status": "True",
            "lastHeartbeatTime": "2020-01-01T00:00:00Z"}]});
        let labels = [("zone".to_owned(), "a".to_owned())].into();
        let status = status.to_string().into();
        let report = NodeReport { status, registers: true, labels };
        assert_eq!(self.report(vec![report::What::Node(report)]).await, []);
    }

    async fn assignments(&mut self, held: Held) -> (mpsc::Sender<Held>, Streaming<Assigned>) {
        let (asks, asked) = mpsc::channel(1);
        asks.send(held).await.unwrap();
        let told = self.session.client.assignments(ReceiverStream::new(asked)).await.unwrap();
        (asks, told.into_inner())
    }
}

fn pod_report(name: &str, uid: &str, status: &Value) -> report::What {
    let pod = wire::Pod { namespace: "default".into(), name: name.into(), uid: uid.into() };
    let status = status.to_string().into();
    report::What::Pod(PodReport { pod: Some(pod), status, gone: false })
}

async fn next(told: &mut Streaming<Assigned>) -> Assigned {
    soon("assignments", told.message()).await.unwrap().expect("the stream goes on")
}

fn names(items: &[wire::Item]) -> Vec<String> {
    items.iter().map(|it| format!("{} {}", it.resource, it.name)).collect()
}

async fn uid_of(client: &Client, pod: &str) -> String {
    client.get::<Pod>("default", pod).await.unwrap().metadata.uid.unwrap()
}

#[tokio::test]
async fn a_lease_and_heartbeats_are_answered_from_the_session_and_nothing_is_written() {
    let master = Master::start().await;
    let client = master.sandbox.client();
    let mut agent = Agent::of(&master, "n").await;
    agent.register().await;
    let lease = async || client.get::<Lease>(LEASES, "n").await.unwrap();
    let before = lease().await;
    let spec = before.spec.clone().unwrap();
    assert_eq!(spec.holder_identity.as_deref(), Some("n"));
    assert_eq!(before.metadata.owner_references.as_ref().unwrap()[0].kind, "Node");

    let from =
        Options { resource_version: before.metadata.resource_version.clone(), ..<_>::default() };
    let changes = client.watch::<Lease>("", from).await.unwrap();
    let mut changes = Box::pin(changes);
    let revision = master.sandbox.replica().store().revision();
    agent.beat().await;
    let after = lease().await;
    assert!(after.spec.as_ref().unwrap().renew_time > spec.renew_time);
    assert_eq!(after.metadata.resource_version, before.metadata.resource_version);
    let later = async {
        loop {
            let Some(Ok(Change::Modified(seen))) = changes.next().await else { continue };
            if seen.spec.unwrap().renew_time >= after.spec.as_ref().unwrap().renew_time {
                return;
            }
        }
    };
    soon("a renewal in the watch", later).await;
    let node = client.get::<Node>("", "n").await.unwrap();
    assert_eq!(node.metadata.labels.unwrap()["zone"], "a");
    let ready = node.status.unwrap().conditions.unwrap().remove(0);
    assert!(ready.last_heartbeat_time.unwrap().0.to_string().as_str() > "2021");
    assert_eq!(master.sandbox.replica().store().revision(), revision, "nothing was written");

    // Whoever has no session renews its lease as it always did.
    let patch = json!({"spec": {"renewTime": "2099-01-01T00:00:00.000000Z"}});
    client.patch::<Lease>(LEASES, "n", PatchKind::Merge, &patch, None).await.unwrap();
    let written = lease().await.spec.unwrap().renew_time.unwrap();
    assert_eq!(written.0.to_string(), "2099-01-01T00:00:00Z");
    // And a lease that somebody deletes is made anew.
    client.delete::<Lease>(LEASES, "n", &<_>::default()).await.unwrap();
    agent.beat().await;
    lease().await;
}

#[tokio::test]
async fn a_master_answers_for_sessions_that_another_holds() {
    let first = Master::start().await;
    let other = Master::beside(first.ca.clone(), vec![first.url.clone()]).await;
    let client = other.sandbox.client();
    let old = json!({"metadata": {"name": "n", "namespace": LEASES},
        "spec": {"holderIdentity": "n", "renewTime": "2020-01-01T00:00:00.000000Z"}});
    client.create(&object::<Lease>(old)).await.unwrap();
    let _agent = Agent::of(&first, "n").await;
    until("a renewal that was heard elsewhere", async || {
        let lease = client.get::<Lease>(LEASES, "n").await.unwrap();
        let renewed = lease.spec.unwrap().renew_time.unwrap().0.to_string();
        (renewed.as_str() > "2021").then_some(())
    })
    .await;
    // Nor can another machine go by its name there.
    let hello = Hello {
        node: "n".into(),
        protocol: PROTOCOL,
        boot_id: "another".into(),
        ..Hello::default()
    };
    let refused = begin(&other.url, &other.ca.node("n"), hello).await.err().unwrap();
    assert_eq!(refused.code(), Code::AlreadyExists, "{refused}");
}

#[tokio::test]
async fn two_machines_cannot_have_one_name_until_the_first_has_gone() {
    let master = Master::start().await;
    let hello = |boot: &str| Hello {
        node: "n".into(),
        protocol: PROTOCOL,
        boot_id: boot.into(),
        ..Hello::default()
    };
    let tls = master.ca.node("n");
    let first = begin(&master.url, &tls, hello("one")).await.unwrap();
    let refused = begin(&master.url, &tls, hello("two")).await.err().unwrap();
    assert_eq!(refused.code(), Code::AlreadyExists);
    assert!(refused.message().contains("two nodes cannot have one name"), "{refused}");
    let again = begin(&master.url, &tls, hello("one")).await.unwrap();
    drop((first, again));
    until("room for another", async || begin(&master.url, &tls, hello("two")).await.ok().map(drop))
        .await;
}

#[tokio::test]
async fn an_agent_of_another_major_version_is_told_which_side_is_older() {
    let master = Master::start().await;
    for (protocol, words) in
        [(PROTOCOL - 1, "upgrade the node"), (PROTOCOL + 1, "the masters first")]
    {
        let hello = Hello { node: "n".into(), protocol, ..Hello::default() };
        let refused = begin(&master.url, &master.ca.node("n"), hello).await.err().unwrap();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert!(refused.message().contains(words), "{refused}");
    }
    let hello = Hello { node: "n".into(), protocol: PROTOCOL, minor: 99, ..Hello::default() };
    assert!(begin(&master.url, &master.ca.node("n"), hello).await.is_ok());
}

#[tokio::test]
async fn reports_are_written_as_the_node_and_what_is_not_its_own_is_refused() {
    let master = Master::start().await;
    let client = master.sandbox.client();
    let (own, far) = (uid_of(&client, "p").await, uid_of(&client, "far").await);
    let mut agent = Agent::of(&master, "n").await;
    let status = json!({"phase": "Running"});
    // What cannot be read, what belongs to another node, and a pod that is gone: each by itself.
    let unwritten = agent
        .report(vec![
            pod_report("p", &own, &status),
            pod_report("far", &far, &status),
            pod_report("p", &own, &json!("garbage")),
            pod_report("p", "of-an-earlier-pod", &status),
        ])
        .await;
    let mut refused: Vec<_> = unwritten.iter().map(|it| (it.at, it.code, it.again)).collect();
    refused.sort_unstable();
    assert_eq!(refused, [(1, 403, false), (2, 400, false)], "{unwritten:?}");
    let pod = client.get::<Pod>("default", "p").await.unwrap();
    assert_eq!(pod.status.unwrap().phase.as_deref(), Some("Running"));
    let version = pod.metadata.resource_version;
    assert_eq!(agent.report(vec![pod_report("p", &own, &status)]).await, []);
    let again = client.get::<Pod>("default", "p").await.unwrap();
    assert_eq!(again.metadata.resource_version, version, "it was said before");
    let far = client.get::<Pod>("default", "far").await.unwrap();
    assert_ne!(far.status.and_then(|it| it.phase).as_deref(), Some("Running"));

    let report::What::Pod(mut gone) = pod_report("p", &own, &status) else { panic!("a pod") };
    gone.gone = true;
    assert_eq!(agent.report(vec![report::What::Pod(gone.clone())]).await, []);
    assert!(client.get::<Pod>("default", "p").await.unwrap_err().is(Reason::NotFound));
    assert_eq!(agent.report(vec![report::What::Pod(gone)]).await, [], "it is gone already");
}

#[tokio::test]
async fn a_node_is_assigned_its_pods_with_what_they_need_and_nothing_else() {
    let master = Master::start().await;
    let client = master.sandbox.client();
    for name in ["mine", "other"] {
        let secret = json!({"metadata": {"name": name, "namespace": "default"},
            "stringData": {"key": name}});
        client.create(&object::<Secret>(secret)).await.unwrap();
    }
    let web = json!({"metadata": {"name": "web", "namespace": "default"},
        "spec": {"ports": [{"port": 80}]}});
    client.create(&object::<Service>(web)).await.unwrap();
    let pod = json!({"metadata": {"name": "q", "namespace": "default"}, "spec": {
        "nodeName": "n", "containers": [{"name": "c", "image": "i"}],
        "volumes": [{"name": "v", "secret": {"secretName": "mine"}}]}});
    client.create(&object::<Pod>(pod)).await.unwrap();
    let mut agent = Agent::of(&master, "n").await;
    let (_asks, mut told) = agent.assignments(Held::default()).await;
    let first = next(&mut told).await;
    let assigned = names(&first.put);
    for expected in ["pods p", "pods q", "secrets mine", "services web"] {
        assert!(assigned.iter().any(|it| it == expected), "{expected}: {assigned:?}");
    }
    assert!(!assigned.iter().any(|it| it.contains("other") || it.contains("far")), "{assigned:?}");
    assert!(first.whole && !first.more && first.removed.is_empty());
    let sum = first.put.iter().fold(0, |sum: u64, item| {
        let object: Value = serde_json::from_slice(&item.object).unwrap();
        let text = |field: &str| object["metadata"][field].as_str().unwrap().to_owned();
        sum.wrapping_add(digest(&item.resource, &text("uid"), &text("resourceVersion")))
    });
    assert_eq!(first.digest, sum);

    let patch = json!({"stringData": {"key": "new"}});
    client.patch::<Secret>("default", "mine", PatchKind::Merge, &patch, None).await.unwrap();
    client.patch::<Secret>("default", "other", PatchKind::Merge, &patch, None).await.unwrap();
    let change = next(&mut told).await;
    assert_eq!((names(&change.put), change.whole), (vec!["secrets mine".to_owned()], false));

    let delete =
        kontiki_api::client::DeleteOptions { grace_period_seconds: Some(0), ..<_>::default() };
    client.delete::<Pod>("default", "q", &delete).await.unwrap();
    let change = next(&mut told).await;
    assert_eq!(names(&change.removed), ["pods q", "secrets mine"]);

    // The certificate alone opens nothing that no pod of the node names.
    let https = Https::new(std::slice::from_ref(&master.url), &master.ca.node("n"), None).unwrap();
    let thief = Client::new(std::sync::Arc::new(https), "thief");
    let refused = thief.get::<Secret>("default", "other").await.unwrap_err();
    assert!(refused.is(Reason::Forbidden), "{refused}");
}

#[tokio::test]
async fn an_agent_goes_on_from_what_it_has_and_is_told_all_where_that_is_not_the_same() {
    let master = Master::start().await;
    let mut agent = Agent::of(&master, "n").await;
    let (_asks, mut told) = agent.assignments(Held::default()).await;
    let first = next(&mut told).await;
    let held = Held { revision: first.revision, digest: first.digest };
    let (asks, mut told) = agent.assignments(held).await;
    let again = next(&mut told).await;
    assert_eq!((again.put.len(), again.whole, again.digest), (0, false, first.digest));
    asks.send(Held::default()).await.unwrap();
    let whole = next(&mut told).await;
    assert_eq!((names(&whole.put), whole.whole), (names(&first.put), true));
    let (_asks, mut told) = agent.assignments(Held { digest: 1, ..held }).await;
    assert!(next(&mut told).await.whole);
    // Who has seen more of the store than this master is sent elsewhere.
    let (_asks, asked) = mpsc::channel(1);
    _asks.send(Held { revision: u64::MAX >> 1, digest: 0 }).await.unwrap();
    let refused = agent.session.client.assignments(ReceiverStream::new(asked)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
}

#[tokio::test]
async fn what_an_agent_reports_is_written_down_as_its_nodes_requests() {
    let folder = tempfile::tempdir().unwrap();
    let every = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\n\
                 rules: [{level: Request, userGroups: [\"system:nodes\"]}]";
    let master = Master::audited(audit::open(folder.path(), every)).await;
    let client = master.sandbox.client();
    let mut agent = Agent::of(&master, "n").await;
    agent.register().await;
    let uid = uid_of(&client, "p").await;
    let report = pod_report("p", &uid, &json!({"phase": "Running"}));
    assert_eq!(agent.report(vec![report]).await, []);
    // A pod of another node: what is refused is written, too.
    let far = pod_report("far", &uid_of(&client, "far").await, &json!({"phase": "Running"}));
    assert_eq!(agent.report(vec![far]).await.len(), 1);

    let written: Vec<(String, u64)> = audit::all_events(folder.path())
        .iter()
        .map(|event| {
            assert_eq!(event["user"]["username"], "system:node:n");
            assert_eq!(event["userAgent"], "kontiki-agent");
            let of =
                |field: &str| event["objectRef"][field].as_str().unwrap_or_default().to_owned();
            let what = [event["verb"].as_str().unwrap().into(), of("resource"), of("subresource")];
            let code = event["responseStatus"]["code"].as_u64().unwrap();
            (format!("{} {}", what.join(" "), of("name")), code)
        })
        .collect();
    for (what, code) in [
        ("create nodes  n", 201),
        ("patch nodes status n", 200),
        ("create leases  n", 201),
        ("patch pods status p", 200),
        ("patch pods status far", 403),
    ] {
        assert!(written.contains(&(what.to_owned(), code)), "{what}: {written:?}");
    }
    let told = audit::all_events(folder.path());
    let of_pod = told.iter().find(|event| event["objectRef"]["name"] == "p").unwrap();
    assert_eq!(of_pod["requestObject"]["status"], json!({"phase": "Running"}));
}
