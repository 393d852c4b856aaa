//! The rules at work: real packets between network namespaces that stand for a node, two of its pods and a
//! machine outside. Making them needs root; a test without it says so and ends.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kontiki_api::sandbox::Sandbox;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};

use super::super::*;
use super::view::{View, endpoint, settings, slice};

/// How long anything may take that is to happen.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often a die is thrown until it is believed that it has fewer sides.
const THROWS: usize = 200;
const CLUSTER_IP: &str = "10.43.0.80:80";
const NODE: &str = "192.0.2.1";
const OUTSIDE: &str = "192.0.2.2";

/// A node, its pods `one` (10.42.1.5) and `two` (10.42.1.6), and `outside`.
struct Bed {
    name: String,
}

impl Bed {
    /// `None` where this user may not make namespaces.
    fn new() -> Option<Bed> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let bed = Bed { name: format!("kontiki-{}-{count}", std::process::id()) };
        if !done(&["ip", "netns", "add", &bed.of("node")]) {
            println!("this user may not make network namespaces: nothing is tested here");
            return None;
        }
        for name in ["one", "two", "outside"] {
            bed.ip(&format!("netns add {}", bed.of(name)));
            let (node, other) = (bed.of("node"), bed.of(name));
            bed.ip(&format!("link add {name} netns {node} type veth peer name eth0 netns {other}"));
            bed.ip(&format!("-n {node} link set {name} up"));
            bed.ip(&format!("-n {other} link set eth0 up"));
            bed.ip(&format!("-n {other} link set lo up"));
        }
        let node = bed.of("node");
        bed.ip(&format!("-n {node} link set lo up"));
        for (pod, four, six) in [("one", "10.42.1.5", "fd42::5"), ("two", "10.42.1.6", "fd42::6")] {
            let other = bed.of(pod);
            for (address, own) in [(four, "10.42.1.1"), (six, "fd42::1")] {
                let bits = if own.contains(':') { 128 } else { 32 };
                let once = if bits == 128 { " nodad" } else { "" };
                bed.ip(&format!("-n {node} addr add {own}/{bits} dev {pod}{once}"));
                bed.ip(&format!("-n {node} route add {address}/{bits} dev {pod}"));
                bed.ip(&format!("-n {other} addr add {address}/{bits} dev eth0{once}"));
                bed.ip(&format!("-n {other} route add {own}/{bits} dev eth0"));
                bed.ip(&format!("-n {other} route add default via {own} dev eth0"));
            }
        }
        bed.ip(&format!("-n {node} addr add {NODE}/24 dev outside"));
        // Before a packet is led anywhere it has to have a way; not back to where it came from, or whoever
        // sent it would be told to send it there.
        bed.ip(&format!("-n {node} route add default dev two"));
        bed.ip(&format!("-n {} addr add {OUTSIDE}/24 dev eth0", bed.of("outside")));
        bed.ip(&format!("-n {} route add default via {NODE}", bed.of("outside")));
        bed.within("node", || {
            for file in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                std::fs::write(format!("/proc/sys/net/{file}"), "1").unwrap();
            }
        });
        Some(bed)
    }

    fn of(&self, name: &str) -> String {
        format!("{}-{name}", self.name)
    }

    fn ip(&self, words: &str) {
        let output = Command::new("ip").args(words.split(' ')).output().unwrap();
        assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn nft(&self) -> Nft {
        Nft::within(&self.of("node"))
    }

    /// Does something in a namespace. Sockets that are made there stay there.
    fn within<T: Send>(&self, name: &str, act: impl FnOnce() -> T + Send) -> T {
        let file = std::fs::File::open(format!("/run/netns/{}", self.of(name))).unwrap();
        std::thread::scope(|scope| {
            let acting = scope.spawn(move || {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                act()
            });
            acting.join().unwrap()
        })
    }

    /// A pod that says over TCP and UDP who it is and who has come.
    fn pod_serves(&self, pod: &'static str, address: &str) {
        let tcp = self.within(pod, || TcpListener::bind(address).unwrap());
        std::thread::spawn(move || {
            for stream in tcp.incoming() {
                let mut stream = stream.unwrap();
                let peer = stream.peer_addr().unwrap().ip();
                // A client that is gone has heard enough.
                let _ = stream.write_all(format!("{pod} {peer}").as_bytes());
            }
        });
        let udp = self.within(pod, || UdpSocket::bind(address).unwrap());
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, peer)) = udp.recv_from(&mut buffer) {
                let _ = udp.send_to(format!("{pod} {}", peer.ip()).as_bytes(), peer);
            }
        });
    }

    fn serves(&self) {
        self.pod_serves("one", "10.42.1.5:8080");
        self.pod_serves("two", "10.42.1.6:8080");
    }

    /// What is heard at an address: `POD CLIENT`, or why nothing.
    fn ask(&self, from: &str, address: &str) -> Result<String, ErrorKind> {
        let address: SocketAddr = address.parse().unwrap();
        self.within(from, || {
            let mut stream =
                TcpStream::connect_timeout(&address, PATIENCE).map_err(|it| it.kind())?;
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).map_err(|it| it.kind())?;
            Ok(text)
        })
    }

    /// Asks until both pods have answered.
    fn hears_both(&self, from: &str, address: &str) {
        let mut heard = BTreeSet::new();
        for _ in 0..THROWS {
            let text = self.ask(from, address).unwrap();
            heard.insert(text.split(' ').next().unwrap().to_owned());
            if heard.len() == 2 {
                return;
            }
        }
        panic!("in {THROWS} times only {heard:?} was heard at {address} from {from}");
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        for name in ["node", "one", "two", "outside"] {
            done(&["ip", "netns", "delete", &self.of(name)]);
        }
    }
}

fn done(words: &[&str]) -> bool {
    Command::new(words[0]).args(&words[1..]).output().is_ok_and(|it| it.status.success())
}

fn both() -> Value {
    json!([endpoint("10.42.1.5", "here", "ready"), endpoint("10.42.1.6", "here", "ready")])
}

fn only(address: &str) -> Value {
    json!([endpoint(address, "here", "ready")])
}

#[tokio::test]
async fn packets_reach_both_endpoints_from_pods_node_and_outside() {
    let Some(bed) = Bed::new() else { return };
    bed.serves();
    let ports = json!([{"name": "http", "port": 80, "nodePort": 30080}]);
    let spec = json!({"type": "NodePort", "ports": ports, "externalIPs": ["203.0.113.9"]});
    let view = View::new().web(spec).slice(both());
    Table::new(bed.nft()).apply(view.rules()).await.unwrap();
    for from in ["one", "node", "outside"] {
        bed.hears_both(from, CLUSTER_IP);
    }
    for address in [&format!("{NODE}:30080"), "203.0.113.9:80"] {
        bed.hears_both("outside", address);
        bed.hears_both("one", address);
    }
    bed.hears_both("node", &format!("{NODE}:30080"));
    // Only the service's own port is led anywhere.
    assert_eq!(bed.ask("one", "10.43.0.80:81"), Err(ErrorKind::ConnectionRefused));
    remove(&bed.nft()).await.unwrap();
    assert_eq!(bed.nft().names().await, Ok(None));
}

#[tokio::test]
async fn pods_are_seen_as_they_are_and_others_by_the_node() {
    let Some(bed) = Bed::new() else { return };
    bed.serves();
    let ports = json!([{"name": "http", "port": 80, "nodePort": 30080}]);
    let spec =
        |policy: &str| json!({"type": "NodePort", "ports": ports, "externalTrafficPolicy": policy});
    let mut table = Table::new(bed.nft());
    let rules = |policy| View::new().web(spec(policy)).slice(only("10.42.1.6")).rules();
    table.apply(rules("Cluster")).await.unwrap();
    let port = format!("{NODE}:30080");
    assert_eq!(bed.ask("one", CLUSTER_IP).unwrap(), "two 10.42.1.5");
    // A pod that meets itself would not believe its own address.
    assert_eq!(bed.ask("two", CLUSTER_IP).unwrap(), "two 10.42.1.1");
    assert_eq!(bed.ask("outside", CLUSTER_IP).unwrap(), "two 10.42.1.1");
    assert_eq!(bed.ask("outside", &port).unwrap(), "two 10.42.1.1");
    table.apply(rules("Local")).await.unwrap();
    assert_eq!(bed.ask("outside", &port).unwrap(), format!("two {OUTSIDE}"));
    assert_eq!(bed.ask("one", &port).unwrap(), "two 10.42.1.5");
}

#[tokio::test]
async fn a_service_without_endpoints_refuses_until_it_has_one() {
    let Some(bed) = Bed::new() else { return };
    bed.serves();
    let ports = json!([{"name": "http", "port": 80, "nodePort": 30080}]);
    let view = View::new().web(json!({"type": "NodePort", "ports": ports}));
    let mut table = Table::new(bed.nft());
    table.apply(view.rules()).await.unwrap();
    for from in ["one", "node", "outside"] {
        assert_eq!(bed.ask(from, CLUSTER_IP), Err(ErrorKind::ConnectionRefused), "{from}");
    }
    let port = format!("{NODE}:30080");
    assert_eq!(bed.ask("outside", &port), Err(ErrorKind::ConnectionRefused));
    table.apply(view.clone().slice(only("10.42.1.5")).rules()).await.unwrap();
    assert_eq!(bed.ask("outside", &port).unwrap(), "one 10.42.1.1");
    table.apply(view.rules()).await.unwrap();
    assert_eq!(bed.ask("one", CLUSTER_IP), Err(ErrorKind::ConnectionRefused));
    // What was emptied goes, and comes again when it is needed.
    assert!(!table.emptied.is_empty());
    table.sweep().await;
    assert_eq!(table.emptied, BTreeSet::new());
    table.apply(view.slice(only("10.42.1.5")).rules()).await.unwrap();
    assert_eq!(bed.ask("one", CLUSTER_IP).unwrap(), "one 10.42.1.1");
}

#[tokio::test]
async fn a_client_stays_with_its_endpoint_over_changes_and_restarts() {
    let Some(bed) = Bed::new() else { return };
    bed.serves();
    let view = View::new().web(json!({"sessionAffinity": "ClientIP"}));
    let mut table = Table::new(bed.nft());
    table.apply(view.clone().slice(both()).rules()).await.unwrap();
    let first = bed.ask("outside", CLUSTER_IP).unwrap();
    let stays = |bed: &Bed| (0..20).all(|_| bed.ask("outside", CLUSTER_IP).as_ref() == Ok(&first));
    assert!(stays(&bed));
    // The other goes and comes back.
    let kept = if first.starts_with("one") { "10.42.1.5" } else { "10.42.1.6" };
    table.apply(view.clone().slice(only(kept)).rules()).await.unwrap();
    assert!(stays(&bed));
    table.apply(view.clone().slice(both()).rules()).await.unwrap();
    assert!(stays(&bed));
    // Another agent finds the table.
    Table::new(bed.nft()).apply(view.clone().slice(both()).rules()).await.unwrap();
    assert!(stays(&bed));
    // Its own endpoint goes.
    let other = if kept == "10.42.1.5" { "10.42.1.6" } else { "10.42.1.5" };
    table = Table::new(bed.nft());
    table.apply(view.slice(only(other)).rules()).await.unwrap();
    assert!(bed.ask("outside", CLUSTER_IP).is_ok_and(|it| it != first));
}

#[tokio::test]
async fn datagrams_of_one_client_go_where_somebody_is() {
    let Some(bed) = Bed::new() else { return };
    bed.serves();
    let view = |endpoints: Value| {
        let ports = json!([{"name": "echo", "port": 80, "protocol": "UDP"}]);
        let mut slice = slice("a", "IPv4", endpoints);
        slice["ports"] = json!([{"name": "echo", "port": 8080, "protocol": "UDP"}]);
        View::new().web(json!({"ports": ports})).slices(slice)
    };
    let mut table = Table::new(bed.nft());
    table.apply(view(only("10.42.1.5")).rules()).await.unwrap();
    let socket = bed.within("outside", || UdpSocket::bind(format!("{OUTSIDE}:0")).unwrap());
    socket.connect(CLUSTER_IP).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let ask = || {
        socket.send(b"?").unwrap();
        let mut buffer = [0; 64];
        let count = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..count]).into_owned()
    };
    assert_eq!(ask(), "one 10.42.1.1");
    // From the same port: the kernel would lead the flow to the first for good.
    table.apply(view(only("10.42.1.6")).rules()).await.unwrap();
    assert!(table.forgets, "conntrack is installed");
    assert_eq!(ask(), "two 10.42.1.1");
}

#[tokio::test]
async fn the_longest_names_and_both_families_are_taken() {
    let Some(bed) = Bed::new() else { return };
    bed.pod_serves("one", "10.42.1.5:8080");
    bed.pod_serves("two", "[fd42::6]:8080");
    let view = View::new()
        .web(json!({"clusterIP": "10.43.0.80", "clusterIPs": ["10.43.0.80", "fd43::80"],
            "sessionAffinity": "ClientIP"}))
        .slice(only("10.42.1.5"))
        .slices(slice("six", "IPv6", only("fd42::6")));
    let mut table = Table::new(bed.nft());
    table.apply(view.rules()).await.unwrap();
    assert_eq!(bed.ask("two", CLUSTER_IP).unwrap(), "one 10.42.1.6");
    assert_eq!(bed.ask("one", "[fd43::80]:80").unwrap(), "two fd42::5");
    let (long, letters) = ("n".repeat(63), "x".repeat(15));
    let mut service: Service = serde_json::from_value(json!({
        "metadata": {"namespace": long, "name": long},
        "spec": {"type": "LoadBalancer", "clusterIP": "fd43::99", "clusterIPs": ["fd43::99"],
            "externalIPs": ["2001:db8:1111:2222:3333:4444:5555:6666"],
            "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local",
            "loadBalancerSourceRanges": ["2001:db8::/32", "2001:db8:1::/48", "::1/128"],
            "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86400}},
            "ports": [{"name": letters, "port": 65535, "nodePort": 32767, "protocol": "SCTP"}]},
        "status": {"loadBalancer": {"ingress": [{"ip": "2001:db8::7"}]}},
    }))
    .unwrap();
    let mut endpoints: EndpointSlice = serde_json::from_value(slice(
        "long",
        "IPv6",
        only("fd42:1111:2222:3333:4444:5555:6666:7777"),
    ))
    .unwrap();
    endpoints.metadata.namespace = Some(long.clone());
    let labels = [("kubernetes.io/service-name".to_owned(), long)];
    endpoints.metadata.labels = Some(labels.into());
    for port in endpoints.ports.iter_mut().flatten() {
        port.name = Some(letters.clone());
        port.protocol = Some("SCTP".into());
        port.port = Some(65535);
    }
    let place = Place { node: "here".into(), ..Place::default() };
    let mut rules = |settings: &Settings| {
        let services = [Arc::new(service.clone())];
        let made = rules(&services, &[Arc::new(endpoints.clone())], &place, settings);
        service.spec.as_mut().unwrap().session_affinity = None;
        made
    };
    // Everything that can be said, once.
    let mut settings = settings(bed.nft());
    settings.leaving = Leaving::Masqueraded;
    settings.bridged = Bridged::Unseen;
    bed.nft().apply(ruleset::step(Before::Nothing, &rules(&settings).ruleset).text).await.unwrap();
    bed.nft().apply(ruleset::step(Before::Nothing, &rules(&settings).ruleset).text).await.unwrap();
}

#[tokio::test]
async fn many_services_are_taken_at_once_and_a_change_of_one_is_small() {
    const SERVICES: usize = 1500;
    let Some(bed) = Bed::new() else { return };
    bed.serves();
    let read = |number: usize, addresses: &[&str]| {
        let name = format!("s{number}");
        let address = format!("10.43.{}.{}", number / 250 + 1, number % 250 + 1);
        let service: Service = serde_json::from_value(json!({
            "metadata": {"namespace": "shop", "name": name},
            "spec": {"type": "NodePort", "clusterIP": address,
                "ports": [{"name": "http", "port": 80, "nodePort": 30000 + number}]},
        }))
        .unwrap();
        let endpoints = addresses.iter().map(|it| endpoint(it, "here", "ready")).collect();
        let mut slice = slice(&name, "IPv4", endpoints);
        slice["metadata"]["labels"]["kubernetes.io/service-name"] = name.into();
        let slice: EndpointSlice = serde_json::from_value(slice).unwrap();
        (Arc::new(service), Arc::new(slice))
    };
    let (services, mut slices): (Vec<_>, Vec<_>) =
        (0..SERVICES).map(|number| read(number, &["10.42.1.5", "10.42.1.6"])).unzip();
    let place = Place { node: "here".into(), ..Place::default() };
    let settings = settings(bed.nft());
    let mut table = Table::new(bed.nft());
    let before = rules(&services, &slices, &place, &settings);
    table.apply(before.clone()).await.unwrap();
    bed.hears_both("one", "10.43.6.250:80");
    bed.hears_both("outside", &format!("{NODE}:{}", 30000 + SERVICES - 1));
    slices[SERVICES - 1] = read(SERVICES - 1, &["10.42.1.6"]).1;
    let after = rules(&services, &slices, &place, &settings);
    let step = ruleset::step(Before::Known(&before.ruleset), &after.ruleset);
    assert_eq!(step.text.lines().count(), 3, "{}", step.text);
    table.apply(after).await.unwrap();
    assert_eq!(bed.ask("one", "10.43.6.250:80").unwrap(), "two 10.42.1.5");
}

#[tokio::test]
async fn pods_leave_the_cluster_by_the_nodes_address() {
    let Some(bed) = Bed::new() else { return };
    bed.pod_serves("outside", "192.0.2.2:8080");
    bed.pod_serves("two", "10.42.1.6:8080");
    let mut view = View::new();
    let mut table = Table::new(bed.nft());
    table.apply(view.rules()).await.unwrap();
    assert_eq!(bed.ask("one", "192.0.2.2:8080").unwrap(), "outside 10.42.1.5");
    view.settings.leaving = Leaving::Masqueraded;
    table.apply(view.rules()).await.unwrap();
    assert_eq!(bed.ask("one", "192.0.2.2:8080").unwrap(), format!("outside {NODE}"));
    assert_eq!(bed.ask("one", "10.42.1.6:8080").unwrap(), "two 10.42.1.5");
}

#[test]
fn the_kernel_is_told_to_forward() {
    let Some(bed) = Bed::new() else { return };
    let file = "/proc/sys/net/ipv4/ip_forward";
    let (before, after) = bed.within("outside", || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        std::fs::write(file, "0").unwrap();
        let before = std::fs::read_to_string(file).unwrap();
        runtime.block_on(kernel::prepare()).unwrap();
        (before, std::fs::read_to_string(file).unwrap())
    });
    assert_eq!((before.trim(), after.trim()), ("0", "1"));
}

#[tokio::test]
async fn a_table_that_somebody_has_taken_away_is_missed() {
    let Some(bed) = Bed::new() else { return };
    bed.serves();
    let view = View::new().web(json!({})).slice(only("10.42.1.5"));
    let mut table = Table::new(bed.nft());
    table.apply(view.rules()).await.unwrap();
    assert!(bed.nft().is_there().await);
    bed.nft().apply("flush ruleset\n".into()).await.unwrap();
    assert!(!bed.nft().is_there().await);
    // A step that was made for what is no more is refused, and all is made anew.
    let other = View::new().web(json!({})).slice(only("10.42.1.6"));
    table.apply(other.rules()).await.unwrap();
    assert_eq!(bed.ask("one", CLUSTER_IP).unwrap(), "two 10.42.1.5");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_in_the_api_is_followed_by_packets() {
    let Some(bed) = Bed::new() else { return };
    bed.serves();
    let sandbox = Sandbox::start().await;
    let client = sandbox.client();
    let (informers, stop) = (Informers::new(client.clone()), CancellationToken::new());
    let (served, mut told) = watch::channel(Served::new());
    let running = tokio::spawn({
        let (settings, client) = (settings(bed.nft()), client.clone());
        let (informers, stop) = (informers.clone(), stop.clone());
        async move {
            let proxy = run(settings, client, informers.clone(), served, stop.clone());
            tokio::join!(proxy, informers.run(stop)).0
        }
    });
    let read = |it: Value| serde_json::from_value::<Service>(it).unwrap();
    let service = read(json!({
        "metadata": {"namespace": "default", "name": "web"},
        "spec": {"ports": [{"name": "http", "port": 80}]},
    }));
    let service = client.create(&service).await.unwrap();
    let address: IpAddr = service.spec.unwrap().cluster_ip.unwrap().parse().unwrap();
    let address = SocketAddr::new(address, 80).to_string();
    let hears = async |wanted: Result<&str, ErrorKind>| {
        let becomes = async {
            loop {
                let heard = bed.ask("node", &address);
                if heard.as_ref().map(|it| it.split(' ').next().unwrap()).map_err(|it| *it)
                    == wanted
                {
                    return;
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, becomes).await.expect("heard in time");
    };
    hears(Err(ErrorKind::ConnectionRefused)).await;
    let mut slice = slice("web-a", "IPv4", only("10.42.1.5"));
    slice["metadata"]["namespace"] = "default".into();
    let mut slice: EndpointSlice =
        client.create(&serde_json::from_value(slice).unwrap()).await.unwrap();
    hears(Ok("one")).await;
    let one: IpAddr = "10.42.1.5".parse().unwrap();
    told.wait_for(|served| served.contains(&one)).await.unwrap();
    let endpoints = slice.endpoints.as_mut().unwrap();
    endpoints[0].addresses = vec!["10.42.1.6".into()];
    client.update(&slice).await.unwrap();
    // Whoever waits for a pod to be let go of finds that packets are led elsewhere by then.
    told.wait_for(|served| !served.contains(&one)).await.unwrap();
    assert!(bed.ask("node", &address).unwrap().starts_with("two"));
    stop.cancel();
    running.await.unwrap().unwrap();
    // Without an agent they are still led.
    hears(Ok("two")).await;
    sandbox.stop().await;
}
