//! What pods reach: each other, services of every kind, names, ports of their node.

use serde_json::{Value, json};

use super::{BUSYBOX, machine, pod};
use crate::kubectl::{Kubectl, is_ready};
use crate::{DEMO, Machine};

/// The node, as its pods see it.
const GATEWAY: &str = "10.42.0.1";

fn serves(name: &str, labels: Value) -> Value {
    let ready = json!({"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1});
    let container = json!({"name": "main", "image": DEMO, "readinessProbe": ready});
    let mut pod = pod(name, json!({"containers": [container], "terminationGracePeriodSeconds": 3}));
    pod["metadata"]["labels"] = labels;
    pod
}

fn service(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

/// Runs a script in the pod `inside` until it ends well, and returns what it said then.
async fn becomes(kubectl: &Kubectl, script: &str) -> String {
    let until = format!(
        "for i in $(busybox seq 150); do out=$({script}) && echo \"$out\" && exit; \
                         sleep 0.2; done; echo \"$out\"; exit 1"
    );
    kubectl.does(&["exec", "inside", "--", "sh", "-c", &until]).await.trim().to_owned()
}

async fn with_pods() -> Machine {
    let machine = machine().await;
    for name in ["one", "two"] {
        machine.apply(&serves(name, json!({"app": "web", "name": name}))).await;
    }
    let inside = json!({"containers": [{"name": "main", "image": BUSYBOX,
        "command": ["sleep", "10000"]}], "terminationGracePeriodSeconds": 1});
    machine.apply(&pod("inside", inside)).await;
    for name in ["one", "two", "inside"] {
        machine.until(&["pod", name], is_ready).await;
    }
    machine
}

#[tokio::test]
async fn services_lead_to_their_pods_however_they_change() {
    let mut machine = with_pods().await;
    let get = |url: &str| format!("get http://{url}");
    // Two ports of one service, each another's; one port for two protocols.
    let ports = json!([
        {"name": "a", "port": 80, "targetPort": 8080},
        {"name": "b", "port": 81, "targetPort": 8080},
        {"name": "datagrams", "port": 80, "protocol": "UDP", "targetPort": 8080},
    ]);
    machine.apply(&service("web", json!({"selector": {"app": "web"}, "ports": ports}))).await;
    for port in [80, 81] {
        for name in ["one", "two"] {
            let script = format!("{} | grep {name}", get(&format!("web:{port}")));
            assert_eq!(becomes(&machine, &script).await, format!("Hello from {name}"));
        }
    }
    let heard = machine.does(&["exec", "one", "--", "demo", "send", "web:80", "hello"]).await;
    assert!(heard.trim().ends_with("heard hello"), "{heard}");
    // Endpoints that nobody selects, in two slices.
    machine.apply(&service("by-hand", json!({"ports": [{"name": "http", "port": 80}]}))).await;
    for name in ["one", "two"] {
        let pod = machine.json(&["pod", name]).await;
        machine
            .apply(&json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": format!("by-hand-{name}"),
                "labels": {"kubernetes.io/service-name": "by-hand"}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            "endpoints": [{"addresses": [pod["status"]["podIP"]]}]}))
            .await;
    }
    for name in ["one", "two"] {
        becomes(&machine, &format!("{} | grep {name}", get("by-hand"))).await;
    }
    // An endpoint that goes is led to no more, one that comes is.
    machine.does(&["label", "pod", "two", "app=other", "--overwrite"]).await;
    becomes(
        &machine,
        &format!(
            "for i in 1 2 3 4 5 6 7 8; do {} | grep -q one || exit 1; done; \
                                echo one",
            get("web")
        ),
    )
    .await;
    machine.does(&["label", "pod", "two", "app=web", "--overwrite"]).await;
    becomes(&machine, &format!("{} | grep two", get("web"))).await;

    // By a port of the node, with clients that stay where they were.
    let open = json!({"type": "NodePort", "selector": {"app": "web"}, "sessionAffinity": "ClientIP",
        "ports": [{"port": 80, "targetPort": 8080, "nodePort": 30123}]});
    machine.apply(&service("open", open)).await;
    let address = machine.json(&["service", "open"]).await["spec"]["clusterIP"].clone();
    let address = address.as_str().unwrap();
    let gateway = "$(busybox ip route | grep default | cut -d' ' -f3)";
    for url in [format!("{address}/"), format!("{gateway}:30123/")] {
        let stays = format!(
            "a=$({0}) && for i in 1 2 3 4 5 6 7 8 9 10; do b=$({0}) && \
                             test \"$a\" = \"$b\" || exit 1; done; echo $a",
            get(&url)
        );
        assert!(becomes(&machine, &stays).await.starts_with("Hello from"), "{url}");
        let patch = r#"{"spec": {"sessionAffinity": "None"}}"#;
        machine.does(&["patch", "service", "open", "-p", patch]).await;
        for name in ["one", "two"] {
            becomes(&machine, &format!("{} | grep {name}", get(&url))).await;
        }
        let patch = r#"{"spec": {"sessionAffinity": "ClientIP"}}"#;
        machine.does(&["patch", "service", "open", "-p", patch]).await;
    }

    // A service that becomes another's name, and one again.
    let alias = json!({"type": "ExternalName", "externalName": "web.default.svc.cluster.local"});
    machine.apply(&service("turns", alias.clone())).await;
    becomes(&machine, &get("turns:80")).await;
    for kind in ["ClusterIP", "NodePort"] {
        let spec = json!({"type": kind, "externalName": null, "selector": {"name": "two"},
            "ports": [{"port": 8000, "targetPort": 8080}]});
        let patch = json!({"spec": spec}).to_string();
        machine.does(&["patch", "service", "turns", "-p", &patch]).await;
        assert_eq!(becomes(&machine, &get("turns:8000")).await, "Hello from two");
        let patch = json!({"spec": {"type": "ExternalName", "selector": null, "clusterIP": null,
            "clusterIPs": null, "externalName": "web.default.svc.cluster.local", "ports": null}});
        machine.does(&["patch", "service", "turns", "-p", &patch.to_string()]).await;
        becomes(&machine, &get("turns:80")).await;
    }
    assert_eq!(machine.stop().await, Some(0), "{}", machine.log());
}

#[tokio::test]
async fn names_are_found_as_the_specification_says() {
    let mut machine = with_pods().await;
    let headless = json!({"clusterIP": "None", "selector": {"app": "web"},
        "ports": [{"name": "http", "port": 80, "targetPort": 8080}]});
    machine
        .apply(&service(
            "plain",
            json!({"selector": {"app": "web"},
        "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}),
        ))
        .await;
    machine.apply(&service("headless", headless)).await;
    let mut named = serves("named", json!({"app": "named"}));
    named["spec"]["hostname"] = "called".into();
    named["spec"]["subdomain"] = "under".into();
    machine.apply(&named).await;
    machine
        .apply(&service(
            "under",
            json!({"clusterIP": "None", "selector": {"app": "named"},
        "ports": [{"port": 80}]}),
        ))
        .await;
    machine.until(&["pod", "named"], is_ready).await;
    let full = "svc.cluster.local";
    for (url, answers) in [
        ("plain/".to_owned(), "Hello from"),
        ("plain.default/".into(), "Hello from"),
        ("plain.default.svc/".into(), "Hello from"),
        (format!("plain.default.{full}/"), "Hello from"),
        ("headless:8080/".into(), "Hello from"),
        (format!("called.under.default.{full}:8080/"), "Hello from called"),
    ] {
        let heard = becomes(&machine, &format!("get http://{url}")).await;
        assert!(heard.starts_with(answers), "{url}: {heard}");
    }
    // The server of names is there under its own, and speaks another language.
    let script = "get http://kube-dns.kube-system:53/ 2>&1 | grep -v 'lookup address'";
    becomes(&machine, script).await;
    // Servers and endings of a pod's own.
    let own = json!({"containers": [{"name": "main", "image": BUSYBOX,
            "command": ["cat", "/etc/resolv.conf"]}],
        "restartPolicy": "Never", "dnsPolicy": "None", "dnsConfig": {
            "nameservers": ["192.0.2.53"], "searches": ["resolv.test"],
            "options": [{"name": "ndots", "value": "2"}]}});
    machine.apply(&pod("own-dns", own)).await;
    let said = super::said(&machine, "own-dns").await;
    for line in ["nameserver 192.0.2.53", "search resolv.test", "options ndots:2"] {
        assert!(said.lines().any(|it| it == line), "{line}: {said}");
    }
    assert_eq!(machine.stop().await, Some(0), "{}", machine.log());
}

#[tokio::test]
async fn pods_have_ports_of_their_node_and_of_each_other() {
    let mut machine = with_pods().await;
    // The same number at other addresses and for another protocol.
    for (name, address, protocol) in
        [("at-one", "127.0.0.1", "TCP"), ("at-two", GATEWAY, "TCP"), ("by-udp", GATEWAY, "UDP")]
    {
        let port = json!({"containerPort": 8080, "hostPort": 54321, "hostIP": address,
            "protocol": protocol});
        let container = json!({"name": "main", "image": DEMO, "ports": [port]});
        machine.apply(&pod(name, json!({"containers": [container]}))).await;
    }
    for name in ["at-one", "at-two", "by-udp"] {
        machine.until(&["pod", name], is_ready).await;
    }
    let script = |address: &str| format!("get http://{address}:54321/");
    let on_the_node = json!({"hostNetwork": true, "containers": [{"name": "main", "image": BUSYBOX,
        "command": ["sleep", "10000"]}], "terminationGracePeriodSeconds": 1});
    machine.apply(&pod("on-the-node", on_the_node)).await;
    machine.until(&["pod", "on-the-node"], is_ready).await;
    for (address, name) in [("127.0.0.1", "at-one"), (GATEWAY, "at-two")] {
        let ask = ["exec", "on-the-node", "--", "sh", "-c", &script(address)];
        assert_eq!(machine.does(&ask).await.trim(), format!("Hello from {name}"));
    }
    // A process of the node reaches pods, by TCP and by datagrams; and pods each other.
    let two = machine.json(&["pod", "two"]).await["status"]["podIP"].clone();
    let two = two.as_str().unwrap();
    for from in ["on-the-node", "inside"] {
        let url = format!("http://{two}:8080/");
        let heard = machine.does(&["exec", from, "--", "get", &url]).await;
        assert_eq!(heard.trim(), "Hello from two", "{from}");
    }
    let demo = json!({"hostNetwork": true, "containers": [{"name": "main", "image": DEMO}],
        "terminationGracePeriodSeconds": 1});
    machine.apply(&pod("beside", demo)).await;
    machine.until(&["pod", "beside"], is_ready).await;
    for from in ["beside", "one"] {
        let there = format!("{two}:8080");
        let heard = machine.does(&["exec", from, "--", "demo", "send", &there, "hello"]).await;
        assert_eq!(heard.trim(), "two heard hello", "{from}");
    }
    assert_eq!(machine.stop().await, Some(0), "{}", machine.log());
}
