//! What services come to, as text; and, in `namespaces`, as packets.

mod namespaces;
mod view;

use std::collections::BTreeSet;

use serde_json::json;

use super::flows::{self, COMMANDS_MAX};
use super::rules::Rules;
use super::ruleset::{Before, Names, Ruleset, step};
use super::*;
use view::{View, endpoint, slice};

/// The rules of the chain that chooses for a service's port, or what there is instead.
fn chain(rules: &Rules, name: &str) -> Vec<String> {
    let chain = rules.ruleset.chains.get(name);
    chain.map_or_else(|| vec!["none".to_owned()], |chain| chain.rules.clone())
}

fn element(rules: &Rules, set: &str, key: &str) -> String {
    let elements = rules.ruleset.sets[set].elements.as_ref().unwrap();
    elements.get(key).cloned().unwrap_or_else(|| "none".into())
}

fn dice(endpoints: &[&str]) -> String {
    let sides: Vec<_> = endpoints
        .iter()
        .enumerate()
        .map(|(side, it)| format!("{side} : {}", it.replace(':', " . ")))
        .collect();
    let count = endpoints.len();
    let sides = sides.join(", ");
    format!("meta l4proto tcp dnat ip addr . port to numgen random mod {count} map {{ {sides} }}")
}

const WEB: &str = "shop/web/tcp/80";

#[test]
fn a_service_leads_to_each_of_its_ready_endpoints() {
    let view = View::new().web(json!({})).slice(json!([
        endpoint("10.42.1.5", "here", "ready"),
        endpoint("10.42.2.6", "there", "ready"),
        endpoint("10.42.2.7", "there", "starting"),
    ]));
    let rules = view.rules();
    assert_eq!(
        element(&rules, "service-ips4", "10.43.0.80 . tcp . 80"),
        format!("goto cluster4/{WEB}")
    );
    assert_eq!(
        chain(&rules, &format!("cluster4/{WEB}")),
        [dice(&["10.42.1.5:8080", "10.42.2.6:8080"])]
    );
    // The one that is here may meet itself.
    assert_eq!(element(&rules, "hairpins4", "10.42.1.5 . 10.42.1.5 . tcp . 8080"), "");
    assert_eq!(element(&rules, "hairpins4", "10.42.2.6 . 10.42.2.6 . tcp . 8080"), "none");
    assert_eq!(element(&rules, "silent-ips4", "10.43.0.80 . tcp . 80"), "none");
}

#[test]
fn a_service_that_leads_nowhere_is_refused() {
    let open = json!({"type": "NodePort", "externalIPs": ["192.0.2.9"],
        "ports": [{"name": "http", "port": 80, "nodePort": 30080}]});
    let rules = View::new().web(open).rules();
    for address in ["10.43.0.80", "192.0.2.9"] {
        let key = format!("{address} . tcp . 80");
        assert_eq!(element(&rules, "silent-ips4", &key), "goto refused");
        assert_eq!(element(&rules, "service-ips4", &key), "none");
    }
    assert_eq!(element(&rules, "silent-ports4", "tcp . 30080"), "goto refused");
    assert_eq!(chain(&rules, &format!("external4/{WEB}")), ["none"]);
}

#[test]
fn endpoints_that_end_serve_only_where_no_other_does() {
    let ending = endpoint("10.42.2.7", "there", "ending");
    let view = View::new().web(json!({}));
    let alone = view.clone().slice(json!([ending, endpoint("10.42.2.8", "there", "gone")]));
    assert_eq!(chain(&alone.rules(), &format!("cluster4/{WEB}")), [dice(&["10.42.2.7:8080"])]);
    let beside = view.slice(json!([ending, endpoint("10.42.1.5", "here", "ready")]));
    assert_eq!(chain(&beside.rules(), &format!("cluster4/{WEB}")), [dice(&["10.42.1.5:8080"])]);
}

#[test]
fn what_comes_from_outside_is_masqueraded_unless_it_stays_here() {
    let ports = json!([{"name": "http", "port": 80, "nodePort": 30080}]);
    let both =
        json!([endpoint("10.42.1.5", "here", "ready"), endpoint("10.42.2.6", "there", "ready"),]);
    let spec = json!({"type": "NodePort", "ports": ports});
    let cluster = View::new().web(spec).slice(both.clone()).rules();
    let external = format!("external4/{WEB}");
    let anywhere = format!("goto cluster4/{WEB}");
    let mark = "meta mark set meta mark or 0x4000";
    assert_eq!(element(&cluster, "service-ports4", "tcp . 30080"), format!("goto {external}"));
    assert_eq!(chain(&cluster, &external), [mark, &anywhere]);

    let spec = json!({"type": "NodePort", "externalTrafficPolicy": "Local", "ports": ports});
    let local = View::new().web(spec.clone()).slice(both).rules();
    assert_eq!(
        chain(&local, &external),
        [
            format!("ip saddr @pods4 {anywhere}"),
            format!("fib saddr type local {mark}"),
            format!("fib saddr type local {anywhere}"),
            format!("goto local4/{WEB}"),
        ]
    );
    assert_eq!(chain(&local, &format!("local4/{WEB}")), [dice(&["10.42.1.5:8080"])]);

    // None here: what begins here is still served, what comes from outside is left without a word.
    let away = json!([endpoint("10.42.2.6", "there", "ready")]);
    let rules = View::new().web(spec).slice(away).rules();
    assert_eq!(chain(&rules, &external).len(), 3);
    assert_eq!(element(&rules, "silent-ports4", "tcp . 30080"), "drop");
    assert_eq!(element(&rules, "service-ports4", "tcp . 30080"), format!("goto {external}"));
}

#[test]
fn an_internal_policy_of_local_keeps_to_this_node() {
    let both =
        json!([endpoint("10.42.1.5", "here", "ready"), endpoint("10.42.2.6", "there", "ready"),]);
    let view = View::new().web(json!({"internalTrafficPolicy": "Local"}));
    let rules = view.clone().slice(both).rules();
    assert_eq!(
        element(&rules, "service-ips4", "10.43.0.80 . tcp . 80"),
        format!("goto local4/{WEB}")
    );
    assert_eq!(chain(&rules, &format!("local4/{WEB}")), [dice(&["10.42.1.5:8080"])]);
    assert_eq!(chain(&rules, &format!("cluster4/{WEB}")), ["none"]);
    let rules = view.slice(json!([endpoint("10.42.2.6", "there", "ready")])).rules();
    assert_eq!(element(&rules, "silent-ips4", "10.43.0.80 . tcp . 80"), "drop");
}

#[test]
fn a_client_stays_with_its_endpoint() {
    let spec = json!({"sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 7}}});
    let one = json!([endpoint("10.42.1.5", "here", "ready")]);
    let rules = View::new().web(spec).slice(one).rules();
    let (set, to) = (format!("clients4/{WEB}/10.42.1.5/8080/7"), "10.42.1.5/8080");
    assert_eq!(
        chain(&rules, &format!("cluster4/{WEB}")),
        [
            format!("ip saddr @{set} goto endpoint4/{WEB}/{to}"),
            format!("numgen random mod 1 vmap {{ 0 : goto endpoint4/{WEB}/{to} }}"),
        ]
    );
    assert_eq!(
        chain(&rules, &format!("endpoint4/{WEB}/{to}")),
        [
            format!("update @{set} {{ ip saddr }}"),
            "meta l4proto tcp dnat ip to 10.42.1.5:8080".into()
        ]
    );
    let clients = &rules.ruleset.sets[&set];
    assert_eq!(clients.declaration, "type ipv4_addr; flags dynamic, timeout; timeout 7s;");
    assert_eq!(clients.elements, None);
}

#[test]
fn only_who_is_let_comes_by_a_load_balancer() {
    let spec = json!({"type": "LoadBalancer", "loadBalancerSourceRanges":
        ["198.51.100.0/24", "198.51.100.7/32", "192.0.2.0/24", "nonsense", "2001:db8::/32"]});
    let view = View::new()
        .web(spec)
        .balancers(json!([{"ip": "203.0.113.1"}, {"ip": "203.0.113.2", "ipMode": "Proxy"}]))
        .slice(json!([endpoint("10.42.2.6", "there", "ready")]));
    let rules = view.rules();
    // The node is let in, and so is the balancer's address, behind which it may be.
    assert_eq!(
        chain(&rules, &format!("sources4/{WEB}")),
        ["ip saddr != { 192.0.2.0/24, 198.51.100.0/24, 203.0.113.1/32 } drop"]
    );
    let key = "203.0.113.1 . tcp . 80";
    assert_eq!(element(&rules, "source-ips4", key), format!("goto sources4/{WEB}"));
    assert_eq!(element(&rules, "service-ips4", key), format!("goto external4/{WEB}"));
    assert_eq!(element(&rules, "service-ips4", "203.0.113.2 . tcp . 80"), "none");
}

#[test]
fn hints_are_followed_only_where_every_endpoint_has_one_and_one_is_for_here() {
    let chosen = |endpoints: serde_json::Value| {
        let rules = View::new().web(json!({})).slice(endpoints).rules();
        chain(&rules, &format!("cluster4/{WEB}")).concat()
    };
    let hinted = |address: &str, hints: serde_json::Value| {
        let mut it = endpoint(address, "there", "ready");
        it["hints"] = hints;
        it
    };
    let zone = |name: &str| json!({"forZones": [{"name": name}]});
    let node = |name: &str| json!({"forZones": [{"name": "z1"}], "forNodes": [{"name": name}]});
    let (a, b) = ("10.42.2.6", "10.42.2.7");
    let (a8, b8) = ("10.42.2.6:8080", "10.42.2.7:8080");
    assert_eq!(chosen(json!([hinted(a, zone("z1")), hinted(b, zone("z2"))])), dice(&[a8]));
    assert_eq!(chosen(json!([hinted(a, zone("z3")), hinted(b, zone("z2"))])), dice(&[a8, b8]));
    let bare = endpoint(b, "there", "ready");
    assert_eq!(chosen(json!([hinted(a, zone("z1")), bare])), dice(&[a8, b8]));
    assert_eq!(chosen(json!([hinted(a, node("there")), hinted(b, node("here"))])), dice(&[b8]));
    // A node's hint that is for others leaves the zone's.
    assert_eq!(chosen(json!([hinted(a, node("x")), hinted(b, node("y"))])), dice(&[a8, b8]));
}

#[test]
fn both_families_of_a_service_are_led_to_their_own_endpoints() {
    let view = View::new()
        .web(json!({"clusterIP": "10.43.0.80", "clusterIPs": ["10.43.0.80", "fd43::80"]}))
        .slice(json!([endpoint("10.42.1.5", "here", "ready")]))
        .slices(slice("six", "IPv6", json!([endpoint("fd42::5", "here", "ready")])));
    let rules = view.rules();
    assert_eq!(chain(&rules, &format!("cluster4/{WEB}")), [dice(&["10.42.1.5:8080"])]);
    assert_eq!(
        chain(&rules, &format!("cluster6/{WEB}")),
        ["meta l4proto tcp dnat ip6 addr . port to numgen random mod 1 map { 0 : fd42::5 . 8080 }"]
    );
    assert_eq!(
        element(&rules, "service-ips6", "fd43::80 . tcp . 80"),
        format!("goto cluster6/{WEB}")
    );
}

#[test]
fn what_is_not_ours_has_no_rules() {
    let one = json!([endpoint("10.42.1.5", "here", "ready")]);
    for spec in [
        json!({"clusterIP": "None", "clusterIPs": ["None"]}),
        json!({"type": "ExternalName", "externalName": "example.org"}),
        // The node answers there itself.
        json!({"clusterIP": "10.43.0.10", "clusterIPs": ["10.43.0.10"]}),
    ] {
        let rules = View::new().web(spec.clone()).slice(one.clone()).rules();
        assert_eq!(chain(&rules, &format!("cluster4/{WEB}")), ["none"], "{spec}");
        assert_eq!(rules.ruleset, View::new().rules().ruleset, "{spec}");
    }
    let rules = View::new().web(json!({})).others_proxy().slice(one).rules();
    assert_eq!(rules.ruleset, View::new().rules().ruleset);
}

#[test]
fn pods_of_this_node_are_told_of_as_long_as_something_leads_to_them() {
    let mut always = endpoint("10.42.1.8", "here", "ending");
    always["conditions"]["ready"] = true.into();
    let rules = View::new().web(json!({})).slice(json!([
        endpoint("10.42.1.5", "here", "ready"),
        endpoint("10.42.1.6", "here", "ending"),
        endpoint("10.42.1.7", "here", "unready"),
        endpoint("10.42.2.6", "there", "ready"),
        // A service that publishes what is not ready goes on with what ends: that is not waited for.
        always,
    ]));
    assert_eq!(rules.rules().served, ["10.42.1.5".parse().unwrap()].into());
}

#[test]
fn a_load_balancer_that_asks_is_told_how_many_are_here() {
    let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local",
        "healthCheckNodePort": 31000});
    let view = View::new().web(spec).slice(json!([
        endpoint("10.42.1.5", "here", "ready"),
        endpoint("10.42.1.6", "here", "ending"),
        endpoint("10.42.2.6", "there", "ready"),
    ]));
    let health = &view.rules().health[&31000];
    assert_eq!((health.service.to_string(), health.ready), ("shop/web".to_owned(), 1));
}

/// The words at the beginning of each line, and the names that follow.
fn lines(text: &str) -> Vec<String> {
    let line = |it: &str| it.replace(" inet kontiki", "").split(" {").next().unwrap().to_owned();
    text.lines().map(line).collect()
}

#[test]
fn a_step_touches_only_what_differs() {
    let one = json!([endpoint("10.42.1.5", "here", "ready")]);
    let two =
        json!([endpoint("10.42.1.5", "here", "ready"), endpoint("10.42.2.6", "there", "ready"),]);
    let before = View::new().web(json!({})).slice(one).rules().ruleset;
    let after = View::new().web(json!({})).slice(two).rules().ruleset;
    assert_eq!(step(Before::Known(&before), &before).text, "");
    assert_eq!(
        lines(&step(Before::Known(&before), &after).text),
        [
            format!("add chain cluster4/{WEB}"),
            format!("flush chain cluster4/{WEB}"),
            format!(
                "add rule cluster4/{WEB} {}",
                dice(&["10.42.1.5:8080"]).split(" {").next().unwrap()
            )
            .replace("mod 1", "mod 2"),
        ]
    );
    // The service goes: nothing leads to its chain, which is left empty.
    let none = View::new().rules().ruleset;
    let gone = step(Before::Known(&after), &none);
    assert_eq!(gone.emptied, [format!("cluster4/{WEB}")]);
    assert_eq!(
        lines(&gone.text),
        [
            format!("flush chain cluster4/{WEB}"),
            "delete element cluster-ips4".into(),
            "delete element hairpins4".into(),
            "delete element service-ips4".into(),
        ]
    );
}

#[test]
fn what_another_agent_has_left_becomes_ours_without_clients_losing_their_endpoints() {
    let spec = json!({"sessionAffinity": "ClientIP"});
    let one = json!([endpoint("10.42.1.5", "here", "ready")]);
    let after = View::new().web(spec).slice(one).rules().ruleset;
    let clients = format!("clients4/{WEB}/10.42.1.5/8080/10800");
    let left = |name: &str| format!("clients4/{WEB}/10.42.9.9/8080/{name}");
    let mut names = Names::default();
    names.sets.extend(after.sets.iter().map(|(name, set)| (name.clone(), set.kind)));
    names.sets.insert(left("10800"), ruleset::Kind::Set);
    names.chains.insert("endpoint4/shop/web/tcp/80/10.42.9.9/8080".into());
    let step = step(Before::Names(&names), &after);
    let lines = lines(&step.text);
    assert_eq!(lines[0], "add table");
    assert!(!lines.contains(&format!("flush set {clients}")));
    assert!(lines.contains(&"flush map service-ips4".to_owned()));
    assert!(lines.contains(&format!("delete set {}", left("10800"))));
    assert!(!step.text.contains("delete table"));
    assert_eq!(step.emptied, ["endpoint4/shop/web/tcp/80/10.42.9.9/8080"]);
}

#[test]
fn steps_lead_to_the_same_table_whatever_came_before() {
    // Text is applied to a model of the kernel's table: what it holds in the end is what was wanted.
    let ready = |all: &[&str]| -> serde_json::Value {
        all.iter().map(|it| endpoint(it, "here", "ready")).collect()
    };
    let affinity = json!({"sessionAffinity": "ClientIP"});
    let views: Vec<Ruleset> = [
        View::new(),
        View::new().web(json!({})),
        View::new().web(json!({})).slice(ready(&["10.42.1.5"])),
        View::new().web(affinity.clone()).slice(ready(&["10.42.1.5", "10.42.1.6"])),
        View::new().web(affinity).slice(ready(&["10.42.1.6"])),
    ]
    .into_iter()
    .map(|view| view.rules().ruleset)
    .collect();
    for before in &views {
        for after in &views {
            let mut table = view::Model::default();
            table.apply(&step(Before::Nothing, before).text);
            table.apply(&step(Before::Known(before), after).text);
            table.assert_is(after);
            let sets = before.sets.iter().map(|(name, set)| (name.clone(), set.kind));
            let chains = before.chains.keys().cloned();
            let names = Names { sets: sets.collect(), chains: chains.collect() };
            let mut table = view::Model::default();
            table.apply(&step(Before::Nothing, before).text);
            table.apply(&step(Before::Names(&names), after).text);
            table.assert_is(after);
        }
    }
}

#[test]
fn flows_are_forgotten_that_lead_where_nobody_is() {
    let udp = |all: serde_json::Value| {
        let ports = json!([{"name": "dns", "port": 53, "protocol": "UDP", "nodePort": 30053}]);
        let spec = json!({"type": "NodePort", "ports": ports});
        let view = View::new().web(spec);
        let mut slice = slice("a", "IPv4", all);
        slice["ports"] = json!([{"name": "dns", "port": 5353, "protocol": "UDP"}]);
        view.slices(slice).rules().udp
    };
    let (one, two) =
        (endpoint("10.42.1.5", "here", "ready"), endpoint("10.42.1.6", "here", "ready"));
    let words = |before, after| -> BTreeSet<String> {
        flows::stale(before, after).into_iter().map(|it| it.join(" ")).collect()
    };
    let (none, both, first) = (
        udp(json!([])),
        udp(json!([one, two])),
        udp(json!([endpoint("10.42.1.5", "here", "ready")])),
    );
    assert_eq!(words(&both, &both), BTreeSet::new());
    assert_eq!(
        words(&both, &first),
        BTreeSet::from([
            "-D -f ipv4 -p udp --dport 53 --orig-dst 10.43.0.80 --dst-nat 10.42.1.6".to_owned(),
            "-D -f ipv4 -p udp --dport 30053 --dst-nat 10.42.1.6".to_owned(),
        ])
    );
    // Who asked while there was nobody is led nowhere for good.
    assert_eq!(
        words(&none, &first),
        BTreeSet::from([
            "-D -f ipv4 -p udp --dport 53 --orig-dst 10.43.0.80".to_owned(),
            "-D -f ipv4 -p udp --dport 30053".to_owned(),
        ])
    );
    assert_eq!(words(&first, &both), BTreeSet::new());
    let many: serde_json::Value = (0..COMMANDS_MAX)
        .map(|it| endpoint(&format!("10.42.{}.{}", it / 250, it % 250 + 1), "here", "ready"))
        .collect();
    assert_eq!(flows::stale(&udp(many), &none).len(), COMMANDS_MAX);
}
