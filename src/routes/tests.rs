//! What is wanted, from nodes as they are; and the kernel's own routes, in a network namespace of a thread.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};

use kontiki_api::sandbox::Sandbox;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};

use super::*;

fn me() -> Me {
    Me { node: "here".into(), addresses: vec!["192.0.2.1".parse().unwrap()] }
}

fn node(name: &str, ranges: &[&str], addresses: &[&str]) -> Node {
    let addresses: Vec<Value> =
        addresses.iter().map(|it| json!({"type": "InternalIP", "address": it})).collect();
    serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {"podCIDR": ranges.first(), "podCIDRs": ranges},
        "status": {"addresses": addresses},
    }))
    .unwrap()
}

fn routes(nodes: &[Node]) -> Vec<String> {
    let ways = nodes.iter().map(|it| (it.metadata.name.clone().unwrap(), Way::of(it))).collect();
    wanted(&ways, &me()).iter().map(|(range, by)| format!("{range} by {by}")).collect()
}

#[test]
fn each_other_node_is_reached_at_its_own_address_in_both_families() {
    let nodes = [
        node("here", &["10.42.0.0/24"], &["192.0.2.1"]),
        node("two", &["10.42.1.0/24", "fd42:1::/64"], &["192.0.2.2", "2001:db8::2"]),
        node("three", &["10.42.2.0/24", "fd42:2::/64"], &["127.0.0.1", "192.0.2.3"]),
    ];
    assert_eq!(
        routes(&nodes),
        ["10.42.1.0/24 by 192.0.2.2", "10.42.2.0/24 by 192.0.2.3", "fd42:1::/64 by 2001:db8::2"]
    );
}

#[test]
fn a_node_without_a_range_or_on_this_machine_or_with_our_range_has_no_route() {
    let nodes = [
        node("here", &["10.42.0.0/24"], &["192.0.2.1"]),
        node("new", &[], &["192.0.2.2"]),
        node("beside", &["10.42.1.0/24"], &["192.0.2.1"]),
        node("nowhere", &["10.42.2.0/24"], &[]),
        node("same", &["10.42.0.0/24"], &["192.0.2.3"]),
    ];
    assert_eq!(routes(&nodes), [""; 0]);
}

fn ip(words: &str) -> String {
    let output = std::process::Command::new("ip").args(words.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A network namespace that goes when this is dropped.
struct Network(String);

impl Drop for Network {
    fn drop(&mut self) {
        ip(&format!("netns del {}", self.0));
    }
}

/// On a thread whose network is its own. Making that needs root; without it nothing is tested.
fn in_a_network(act: impl Future<Output = ()> + Send) {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    if !rustix::process::geteuid().is_root() {
        println!("this user may not make network namespaces: nothing is tested here");
        return;
    }
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let network = Network(format!("kontiki-routes-{}-{count}", std::process::id()));
    ip(&format!("netns add {}", network.0));
    let file = std::fs::File::open(format!("/run/netns/{}", network.0)).unwrap();
    let act = || {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        ip("link set lo up");
        ip("link add eth0 type veth peer name eth1");
        ip("addr add 192.0.2.1/24 dev eth0");
        ip("link set eth0 up");
        ip("link set eth1 up");
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(act);
    };
    std::thread::scope(|scope| scope.spawn(act).join().unwrap());
}

fn ours() -> Vec<String> {
    let listed = ip("route show proto 107");
    listed.lines().map(|it| it.split(" dev").next().unwrap().to_owned()).collect()
}

fn wants(pairs: &[(&str, &str)]) -> Routes {
    pairs.iter().map(|(range, by)| (range.parse().unwrap(), by.parse().unwrap())).collect()
}

#[test]
fn routes_come_move_and_go_and_those_of_others_stand() {
    in_a_network(async {
        ip("route add 10.42.9.0/24 via 192.0.2.9");
        let both = wants(&[("10.42.1.0/24", "192.0.2.2"), ("10.42.2.0/24", "192.0.2.3")]);
        assert_eq!(kernel::apply(&both).await.unwrap(), [""; 0]);
        assert_eq!(ours(), ["10.42.1.0/24 via 192.0.2.2", "10.42.2.0/24 via 192.0.2.3"]);
        // A node that has moved, one that is gone, one behind a router, one that somebody else leads to.
        let other = wants(&[
            ("10.42.1.0/24", "192.0.2.4"),
            ("10.42.3.0/24", "198.51.100.1"),
            ("10.42.9.0/24", "192.0.2.5"),
        ]);
        let refused = kernel::apply(&other).await.unwrap();
        assert_eq!(refused.len(), 1, "{refused:?}");
        assert!(refused[0].starts_with("a route to 10.42.3.0/24 by 198.51.100.1"), "{refused:?}");
        assert_eq!(ours(), ["10.42.1.0/24 via 192.0.2.4"]);
        assert_eq!(ip("route show 10.42.9.0/24").trim(), "10.42.9.0/24 via 192.0.2.9 dev eth0");
        // What was taken away comes back.
        ip("route del 10.42.1.0/24");
        kernel::apply(&other).await.unwrap();
        assert_eq!(ours(), ["10.42.1.0/24 via 192.0.2.4"]);
        kernel::apply(&Routes::new()).await.unwrap();
        assert_eq!(ours(), [""; 0]);
    });
}

#[test]
fn the_nodes_of_the_api_are_followed() {
    in_a_network(async {
        let sandbox = Sandbox::start().await;
        let client = sandbox.client();
        let two = node("two", &["10.42.1.0/24"], &["192.0.2.2"]);
        client.create(&two).await.unwrap();
        let stop = CancellationToken::new();
        let running = tokio::spawn(run(me(), client.clone(), None, stop.clone()));
        let becomes = async |wanted: &[&str]| {
            let look = async {
                while ours() != wanted {
                    sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(60), look).await.expect("routes in time");
        };
        becomes(&["10.42.1.0/24 via 192.0.2.2"]).await;
        let three = node("three", &["10.42.2.0/24"], &["192.0.2.3"]);
        client.create(&three).await.unwrap();
        becomes(&["10.42.1.0/24 via 192.0.2.2", "10.42.2.0/24 via 192.0.2.3"]).await;
        client.delete::<Node>("", "two", &Default::default()).await.unwrap();
        becomes(&["10.42.2.0/24 via 192.0.2.3"]).await;
        stop.cancel();
        running.await.unwrap().unwrap();
        assert_eq!(ours(), ["10.42.2.0/24 via 192.0.2.3"], "they stay");
        sandbox.stop().await;
    });
}
