//! Real questions over real sockets on loopback; another server, where one is asked, is the test's own.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, SOA, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kontiki_api::sandbox::Sandbox;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::view::{View, shown};
use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// A server of the cluster's names, and of what another knows.
struct Bed {
    address: SocketAddr,
    stop: CancellationToken,
}

impl Bed {
    async fn start(view: View, others: Vec<SocketAddr>) -> Bed {
        let sockets = Sockets::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = sockets.address().unwrap();
        let upstream = Upstream::new(Servers::These(others), vec![address]);
        let resolver = Arc::new(Resolver::new(zone(), Arc::new(view), upstream));
        let stop = CancellationToken::new();
        tokio::spawn(serve(sockets, resolver, stop.clone()));
        Bed { address, stop }
    }

    /// `NAME TYPE` over UDP.
    async fn ask(&self, question: &str) -> Message {
        self.exchange(&asked(question)).await
    }

    async fn exchange(&self, message: &Message) -> Message {
        let bytes = self.datagram(&message.to_vec().unwrap()).await;
        Message::from_vec(&bytes).unwrap()
    }

    async fn datagram(&self, bytes: &[u8]) -> Vec<u8> {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(self.address).await.unwrap();
        socket.send(bytes).await.unwrap();
        let mut buffer = vec![0; 65_536];
        let received = tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await;
        buffer.truncate(received.expect("an answer in time").unwrap());
        buffer
    }

    /// The same over TCP, one after the other on one connection.
    async fn ask_all(&self, questions: &[&str]) -> Vec<Message> {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let mut answers = Vec::new();
        for question in questions {
            let bytes = asked(question).to_vec().unwrap();
            stream.write_u16(bytes.len().try_into().unwrap()).await.unwrap();
            stream.write_all(&bytes).await.unwrap();
            let mut buffer = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut buffer).await.unwrap();
            answers.push(Message::from_vec(&buffer).unwrap());
        }
        answers
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn asked(question: &str) -> Message {
    let (name, wanted) = question.split_once(' ').unwrap();
    let mut message = Message::new(0x5ea, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), wanted.parse().unwrap()));
    message
}

/// The code, and the answers.
fn said(message: &Message) -> String {
    let code = match message.metadata.response_code {
        ResponseCode::NoError => "ok".to_owned(),
        code => format!("{code:?}"),
    };
    [code].into_iter().chain(message.answers.iter().map(shown)).collect::<Vec<_>>().join("\n")
}

/// Another server. It counts the questions, and knows `known.example.`, `long.example.` (more than a datagram
/// takes) and what is not there.
struct Other {
    address: SocketAddr,
    questions: Arc<AtomicUsize>,
}

impl Other {
    async fn start() -> Other {
        let sockets = Sockets::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = sockets.address().unwrap();
        let questions = Arc::new(AtomicUsize::new(0));
        let count = questions.clone();
        tokio::spawn(async move {
            let mut buffer = vec![0; 4096];
            loop {
                tokio::select! {
                    received = sockets.datagrams.recv_from(&mut buffer) => {
                        let (length, asker) = received.unwrap();
                        count.fetch_add(1, Ordering::SeqCst);
                        let answer = Other::answer(&buffer[..length], Some(1232));
                        sockets.datagrams.send_to(&answer, asker).await.unwrap();
                    }
                    accepted = sockets.connections.accept() => {
                        let mut stream = accepted.unwrap().0;
                        let mut bytes = vec![0; usize::from(stream.read_u16().await.unwrap())];
                        stream.read_exact(&mut bytes).await.unwrap();
                        let answer = Other::answer(&bytes, None);
                        stream.write_u16(answer.len().try_into().unwrap()).await.unwrap();
                        stream.write_all(&answer).await.unwrap();
                    }
                }
            }
        });
        Other { address, questions }
    }

    fn answer(bytes: &[u8], most: Option<usize>) -> Vec<u8> {
        let question = Message::from_vec(bytes).unwrap();
        let mut answer = message::answer_to(&question);
        let name = question.queries[0].name().clone();
        match name.to_string().as_str() {
            "known.example." => {
                let data = RData::A(A::new(192, 0, 2, 7));
                answer.add_answer(Record::from_rdata(name, 60, data));
            }
            "long.example." => {
                for number in 0..30 {
                    let data = RData::TXT(TXT::new(vec![format!("{number}-{}", "x".repeat(90))]));
                    answer.add_answer(Record::from_rdata(name.clone(), 60, data));
                }
            }
            "broken.example." => answer.metadata.response_code = ResponseCode::ServFail,
            _ => {
                answer.metadata.response_code = ResponseCode::NXDomain;
                let zone = Name::from_ascii("example.").unwrap();
                let soa = SOA::new(zone.clone(), zone.clone(), 1, 1, 1, 1, 30);
                answer.add_authority(Record::from_rdata(zone, 60, RData::SOA(soa)));
            }
        }
        let whole = answer.to_vec().unwrap();
        match most {
            Some(most) if whole.len() > most => answer.truncate().to_vec().unwrap(),
            _ => whole,
        }
    }

    fn questions(&self) -> usize {
        self.questions.load(Ordering::SeqCst)
    }
}

fn shop() -> View {
    let many: Vec<String> = (1..=200).map(|it| format!("10.42.1.{it}")).collect();
    View::new()
        .service("shop/web", "10.43.0.80", "http:80/TCP")
        .service("shop/many", "None", "http:80/TCP")
        .slice("shop/many", &many.join(" "), "http:8080/TCP")
        .external("shop/out", "known.example")
        .external("shop/in", "web.shop.svc.cluster.local")
        .external("shop/gone", "gone.example")
        .external("shop/round", "round.shop.svc.cluster.local")
}

#[tokio::test]
async fn the_clusters_names_are_answered_over_both() {
    let bed = Bed::start(shop(), Vec::new()).await;
    let web = "web.shop.svc.cluster.local. A";
    let answer = bed.ask(web).await;
    assert_eq!(said(&answer), "ok\nweb.shop.svc.cluster.local. A 10.43.0.80");
    assert_eq!(answer.metadata.id, 0x5ea);
    assert!(answer.metadata.authoritative && answer.metadata.recursion_available);
    assert_eq!(answer.queries, asked(web).queries);
    assert!(answer.edns.is_none());
    let missing = bed.ask("gone.svc.cluster.local. A").await;
    assert_eq!(said(&missing), "NXDomain");
    assert!(shown(&missing.authorities[0]).starts_with("cluster.local. SOA ns.dns.cluster.local."));
    let nothing = bed.ask("web.shop.svc.cluster.local. AAAA").await;
    assert_eq!(said(&nothing), "ok");
    assert!(shown(&nothing.authorities[0]).starts_with("cluster.local. SOA"));
    let answers = bed.ask_all(&[web, "out.shop.svc.cluster.local. CNAME", web]).await;
    assert_eq!(
        answers.iter().map(said).collect::<Vec<_>>(),
        [
            "ok\nweb.shop.svc.cluster.local. A 10.43.0.80",
            "ok\nout.shop.svc.cluster.local. CNAME known.example.",
            "ok\nweb.shop.svc.cluster.local. A 10.43.0.80",
        ]
    );
}

#[tokio::test]
async fn what_does_not_fit_is_cut_and_whole_over_tcp() {
    let bed = Bed::start(shop(), Vec::new()).await;
    let many = "many.shop.svc.cluster.local. A";
    let plain = bed.datagram(&asked(many).to_vec().unwrap()).await;
    assert!(plain.len() <= 512, "{}", plain.len());
    let plain = Message::from_vec(&plain).unwrap();
    assert!(plain.metadata.truncation);
    // As many as fit, for those who never ask again.
    assert!((20..30).contains(&plain.answers.len()), "{}", plain.answers.len());
    let mut wide = asked(many);
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    wide.edns = Some(edns);
    let bytes = bed.datagram(&wide.to_vec().unwrap()).await;
    assert!(bytes.len() <= 1232, "{}", bytes.len());
    let answer = Message::from_vec(&bytes).unwrap();
    assert!(answer.metadata.truncation && answer.answers.len() > plain.answers.len());
    assert_eq!(answer.edns.unwrap().max_payload(), 1232);
    let whole = &bed.ask_all(&[many]).await[0];
    assert!(!whole.metadata.truncation);
    assert_eq!(whole.answers.len(), 200);
}

#[tokio::test]
async fn other_names_are_asked_of_others_once() {
    let other = Other::start().await;
    let bed = Bed::start(shop(), vec![other.address]).await;
    for _ in 0..3 {
        let answer = bed.ask("Known.example. A").await;
        assert_eq!(said(&answer), "ok\nknown.example. A 192.0.2.7");
        assert!(!answer.metadata.authoritative);
        assert_eq!(answer.queries[0].name().to_string(), "Known.example.");
        assert_eq!(said(&bed.ask("gone.example. A").await), "NXDomain");
    }
    assert_eq!(other.questions(), 2);
    assert_eq!(bed.ask_all(&["long.example. TXT"]).await[0].answers.len(), 30);
    // What others fail at is not remembered.
    for _ in 0..2 {
        assert_eq!(said(&bed.ask("broken.example. A").await), "ServFail");
    }
    assert_eq!(other.questions(), 5);
}

#[tokio::test]
async fn an_alias_is_followed_to_where_it_leads() {
    let other = Other::start().await;
    let bed = Bed::start(shop(), vec![other.address]).await;
    assert_eq!(
        said(&bed.ask("out.shop.svc.cluster.local. A").await),
        "ok\nout.shop.svc.cluster.local. CNAME known.example.\nknown.example. A 192.0.2.7"
    );
    assert_eq!(
        said(&bed.ask("in.shop.svc.cluster.local. A").await),
        "ok\nin.shop.svc.cluster.local. CNAME web.shop.svc.cluster.local.\n\
         web.shop.svc.cluster.local. A 10.43.0.80"
    );
    assert_eq!(
        said(&bed.ask("gone.shop.svc.cluster.local. A").await),
        "NXDomain\ngone.shop.svc.cluster.local. CNAME gone.example."
    );
    let round = said(&bed.ask("round.shop.svc.cluster.local. A").await);
    assert!(round.starts_with("ServFail\n"), "{round}");
}

#[tokio::test]
async fn a_server_that_is_silent_or_gone_is_passed_over() {
    let other = Other::start().await;
    // Bound, and nobody reads.
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let gone = Sockets::bind("127.0.0.1:0".parse().unwrap()).await.unwrap().address().unwrap();
    let others = vec![gone, silent.local_addr().unwrap(), other.address];
    let bed = Bed::start(shop(), others).await;
    assert_eq!(said(&bed.ask("known.example. A").await), "ok\nknown.example. A 192.0.2.7");
    // Nobody to ask at all, but ourselves.
    let bed = Bed::start(shop(), Vec::new()).await;
    assert_eq!(said(&bed.ask("known.example. A").await), "ServFail");
    assert_eq!(
        said(&bed.ask("out.shop.svc.cluster.local. A").await),
        "ServFail\nout.shop.svc.cluster.local. CNAME known.example."
    );
}

#[tokio::test]
async fn what_is_no_question_is_told_so_or_left() {
    let bed = Bed::start(shop(), Vec::new()).await;
    let web = "web.shop.svc.cluster.local. A";
    let code = async |message: &Message| bed.exchange(message).await.metadata.response_code;
    let mut two = asked(web);
    two.add_query(two.queries[0].clone());
    assert_eq!(code(&two).await, ResponseCode::FormErr);
    let mut update = asked(web);
    update.metadata.op_code = OpCode::Notify;
    assert_eq!(code(&update).await, ResponseCode::NotImp);
    assert_eq!(code(&asked("cluster.local. AXFR")).await, ResponseCode::Refused);
    let mut chaos = asked(web);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(code(&chaos).await, ResponseCode::Refused);
    let mut newer = asked(web);
    let mut edns = Edns::new();
    edns.set_version(1);
    newer.edns = Some(edns);
    // BADVERS; the number is another error's too, where messages are signed.
    assert_eq!(u16::from(code(&newer).await), 16);
    // A header that promises a question, and none.
    let garbage = bed.datagram(&[0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await;
    let garbage = Message::from_vec(&garbage).unwrap();
    assert_eq!((garbage.metadata.id, said(&garbage)), (0x1234, "FormErr".into()));
    // Answers, and what is shorter than a header, get none: the next question does.
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(bed.address).await.unwrap();
    let mut answer = asked(web);
    answer.metadata.message_type = MessageType::Response;
    socket.send(&answer.to_vec().unwrap()).await.unwrap();
    socket.send(b"short").await.unwrap();
    let mut last = asked(web);
    last.metadata.id = 9;
    socket.send(&last.to_vec().unwrap()).await.unwrap();
    let mut buffer = vec![0; 512];
    let count = tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(Message::from_vec(&buffer[..count]).unwrap().metadata.id, 9);
}

#[tokio::test]
async fn names_of_the_api_are_answered_as_soon_as_they_are_there() {
    let sandbox = Sandbox::start().await;
    let client = sandbox.client();
    let (informers, stop) = (Informers::new(client.clone()), CancellationToken::new());
    let listen = {
        let sockets = Sockets::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        sockets.address().unwrap()
    };
    let settings = Settings {
        domain: "cluster.local".into(),
        listen: vec![listen],
        addresses: Addresses::There,
        ranges: vec!["10.43.0.0/16".parse().unwrap()],
        servers: Servers::These(Vec::new()),
    };
    let running = tokio::spawn({
        let (informers, stop) = (informers.clone(), stop.clone());
        async move {
            tokio::join!(run(settings, informers.clone(), stop.clone()), informers.run(stop)).0
        }
    });
    let bed = Bed { address: listen, stop: stop.clone() };
    let becomes = async |question: &str, wanted: &str| {
        let until = async {
            let bytes = asked(question).to_vec().unwrap();
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            socket.connect(bed.address).await.unwrap();
            let mut buffer = vec![0; 512];
            loop {
                // Either is refused as long as nobody listens.
                if socket.send(&bytes).await.is_ok()
                    && let Ok(count) = socket.recv(&mut buffer).await
                    && said(&Message::from_vec(&buffer[..count]).unwrap()) == wanted
                {
                    return;
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        let in_time = tokio::time::timeout(PATIENCE, until).await;
        assert!(in_time.is_ok(), "{question} has not become {wanted:?}");
    };
    becomes("db.default.svc.cluster.local. A", "NXDomain").await;
    let headless: Service = serde_json::from_value(json!({
        "metadata": {"namespace": "default", "name": "db"},
        "spec": {"clusterIP": "None", "ports": [{"name": "sql", "port": 5432}]},
    }))
    .unwrap();
    client.create(&headless).await.unwrap();
    let slice: EndpointSlice = serde_json::from_value(json!({
        "metadata": {"namespace": "default", "name": "db-a",
            "labels": {"kubernetes.io/service-name": "db"}},
        "addressType": "IPv4",
        "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["10.42.1.5"], "hostname": "db-0",
            "conditions": {"ready": true}}],
    }))
    .unwrap();
    client.create(&slice).await.unwrap();
    let (name, host) = ("db.default.svc.cluster.local.", "db-0.db.default.svc.cluster.local.");
    becomes(&format!("{name} A"), &format!("ok\n{name} A 10.42.1.5")).await;
    becomes("5.1.42.10.in-addr.arpa. PTR", &format!("ok\n5.1.42.10.in-addr.arpa. PTR {host}"))
        .await;
    // One with an address of its own, which the API chooses.
    let plain: Service = serde_json::from_value(json!({
        "metadata": {"namespace": "default", "name": "web"},
        "spec": {"ports": [{"name": "http", "port": 80}]},
    }))
    .unwrap();
    let own = client.create(&plain).await.unwrap().spec.unwrap().cluster_ip.unwrap();
    let name = "web.default.svc.cluster.local.";
    becomes(&format!("{name} A"), &format!("ok\n{name} A {own}")).await;
    let mut parts: Vec<&str> = own.split('.').collect();
    parts.reverse();
    let reverse = format!("{}.in-addr.arpa.", parts.join("."));
    becomes(&format!("{reverse} PTR"), &format!("ok\n{reverse} PTR {name}")).await;
    stop.cancel();
    running.await.unwrap().unwrap();
    sandbox.stop().await;
}

#[tokio::test]
async fn the_machine_is_given_the_addresses_twice_without_complaint() {
    // In a namespace of the test's own, so that the machine keeps its addresses.
    let namespace = format!("kontiki-dns-{}", std::process::id());
    let ip = |words: &str| {
        let output = std::process::Command::new("ip").args(words.split(' ')).output();
        output.is_ok_and(|it| it.status.success())
    };
    if !ip(&format!("netns add {namespace}")) {
        println!("this user may not make network namespaces: nothing is tested here");
        return;
    }
    let file = std::fs::File::open(format!("/run/netns/{namespace}")).unwrap();
    let held = std::thread::spawn(move || {
        use std::os::fd::AsFd;
        let kind = rustix::thread::LinkNameSpaceType::Network;
        rustix::thread::move_into_link_name_space(file.as_fd(), Some(kind)).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let address: IpAddr = "10.43.0.10".parse().unwrap();
            link::hold(&[address]).await?;
            link::hold(&[address]).await?;
            let sockets = Sockets::bind(SocketAddr::new(address, 53)).await.unwrap();
            assert_eq!(sockets.address().unwrap().to_string(), "10.43.0.10:53");
            link::release().await?;
            link::release().await
        })
    });
    let held = held.join();
    assert!(ip(&format!("netns delete {namespace}")));
    held.unwrap().unwrap();
}
