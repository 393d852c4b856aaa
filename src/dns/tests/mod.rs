//! Questions and answers as text, over a view that is written down; and in `wire`, over real sockets.

mod view;
mod wire;

use hickory_proto::rr::{Name, RecordType};

use super::zone::{Answer, Zone};
use super::*;
use view::{View, shown};

fn zone() -> Zone {
    Zone {
        domain: Name::from_ascii("cluster.local.").unwrap(),
        server: vec!["10.43.0.10".parse().unwrap()],
        ranges: vec!["10.42.0.0/15".parse().unwrap(), "fd42::/16".parse().unwrap()],
    }
}

fn ask(view: &View, question: &str) -> String {
    let (name, wanted) = question.split_once(' ').unwrap();
    let wanted: RecordType = wanted.parse().unwrap();
    let name = Name::from_ascii(name).unwrap();
    let answer = zone().answer(view, &name, wanted, 0);
    match answer {
        Answer::Found { answers, additionals } => {
            let all = answers
                .iter()
                .map(shown)
                .chain(additionals.iter().map(|it| format!("+ {}", shown(it))));
            let all: Vec<_> = all.collect();
            if all.is_empty() { "nothing".into() } else { all.join("\n") }
        }
        Answer::Missing(zone) => format!("missing in {zone}"),
        Answer::Alias(record) => shown(&record),
        Answer::Elsewhere => "elsewhere".into(),
        Answer::Unknown => "unknown".into(),
    }
}

/// Each line is a question, ` -> ` and what is answered; lines without an arrow go on with the answer. `@` is
/// `svc.cluster.local.`
fn check(view: &View, script: &str) {
    let mut cases: Vec<(String, Vec<String>)> = Vec::new();
    let script = script.replace('@', "svc.cluster.local.");
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        match line.split_once(" -> ") {
            Some((question, answer)) => {
                cases.push((question.trim().into(), vec![answer.trim().into()]));
            }
            None => cases.last_mut().unwrap().1.push(line.into()),
        }
    }
    for (question, answers) in cases {
        assert_eq!(ask(view, &question), answers.join("\n"), "{question}");
    }
}

#[test]
fn a_service_has_its_own_addresses() {
    let view = View::new().service("shop/web", "10.43.0.80,fd42::80", "http:80/TCP dns:53/UDP");
    check(
        &view,
        "web.shop.@ A -> web.shop.@ A 10.43.0.80
         WEB.Shop.SVC.cluster.LOCAL. A -> WEB.Shop.SVC.cluster.LOCAL. A 10.43.0.80
         web.shop.@ AAAA -> web.shop.@ AAAA fd42::80
         web.shop.@ MX -> nothing
         web.default.@ A -> missing in cluster.local.
         other.shop.@ A -> missing in cluster.local.
         a.b.web.shop.@ A -> missing in cluster.local.",
    );
}

#[test]
fn a_name_with_one_family_is_not_said_to_be_missing_in_the_other() {
    let view = View::new()
        .service("shop/web", "10.43.0.80", "http:80/TCP")
        .service("shop/set", "None", "http:80/TCP")
        .slice("shop/set", "10.42.1.5", "http:8080/TCP");
    check(
        &view,
        "web.shop.@ AAAA -> nothing
         set.shop.@ AAAA -> nothing
         shop.@ A -> nothing
         nobody.@ A -> missing in cluster.local.
         @ A -> nothing
         pod.cluster.local. A -> nothing
         cluster.local. A -> nothing",
    );
}

#[test]
fn a_headless_service_has_those_of_its_ready_endpoints() {
    let view = View::new().service("shop/db", "None", "sql:5432/TCP").slice(
        "shop/db",
        "db-0@10.42.1.5 10.42.1.6 db-2@10.42.1.7!",
        "sql:5432/TCP",
    );
    check(
        &view,
        "db.shop.@ A -> db.shop.@ A 10.42.1.5
         db.shop.@ A 10.42.1.6
         db-0.db.shop.@ A -> db-0.db.shop.@ A 10.42.1.5
         10-42-1-6.db.shop.@ A -> 10-42-1-6.db.shop.@ A 10.42.1.6
         10-42-1-5.db.shop.@ A -> missing in cluster.local.
         db-2.db.shop.@ A -> missing in cluster.local.
         _sql._tcp.db.shop.@ SRV -> _sql._tcp.db.shop.@ SRV 0 50 5432 10-42-1-6.db.shop.@
         _sql._tcp.db.shop.@ SRV 0 50 5432 db-0.db.shop.@
         + 10-42-1-6.db.shop.@ A 10.42.1.6
         + db-0.db.shop.@ A 10.42.1.5",
    );
    let none = View::new().service("shop/db", "None", "sql:5432/TCP").slice(
        "shop/db",
        "db-2@10.42.1.7!",
        "sql:5432/TCP",
    );
    check(
        &none,
        "db.shop.@ A -> missing in cluster.local.
         db.shop.@ AAAA -> missing in cluster.local.",
    );
}

#[test]
fn ports_that_have_names_are_found_by_them() {
    let view = View::new().service("shop/web", "10.43.0.80", "http:80/TCP dns:53/UDP :81/TCP");
    check(
        &view,
        "_http._tcp.web.shop.@ SRV -> _http._tcp.web.shop.@ SRV 0 100 80 web.shop.@
         + web.shop.@ A 10.43.0.80
         _HTTP._TCP.web.shop.@ SRV -> _HTTP._TCP.web.shop.@ SRV 0 100 80 web.shop.@
         + web.shop.@ A 10.43.0.80
         _dns._udp.web.shop.@ SRV -> _dns._udp.web.shop.@ SRV 0 100 53 web.shop.@
         + web.shop.@ A 10.43.0.80
         _http._udp.web.shop.@ SRV -> missing in cluster.local.
         _http._tcp.web.shop.@ A -> nothing
         _tcp.web.shop.@ A -> nothing
         _sctp.web.shop.@ A -> missing in cluster.local.
         http._tcp.web.shop.@ SRV -> missing in cluster.local.",
    );
}

#[test]
fn an_external_name_is_an_alias_for_every_type() {
    let view = View::new().external("shop/out", "Example.org");
    check(
        &view,
        "out.shop.@ A -> out.shop.@ CNAME Example.org.
         out.shop.@ TXT -> out.shop.@ CNAME Example.org.
         x.out.shop.@ A -> missing in cluster.local.
         _a._tcp.out.shop.@ SRV -> missing in cluster.local.",
    );
}

#[test]
fn a_pod_is_found_by_the_address_in_its_name() {
    check(
        &View::new(),
        "10-42-1-5.shop.pod.cluster.local. A -> 10-42-1-5.shop.pod.cluster.local. A 10.42.1.5
         10-42-1-5.shop.pod.cluster.local. AAAA -> nothing
         fd42--7.shop.pod.cluster.local. AAAA -> fd42--7.shop.pod.cluster.local. AAAA fd42::7
         10-42-1-500.shop.pod.cluster.local. A -> missing in cluster.local.
         web.shop.pod.cluster.local. A -> missing in cluster.local.",
    );
}

#[test]
fn addresses_have_names_and_those_of_the_cluster_are_asked_nowhere_else() {
    let view = View::new()
        .service("shop/web", "10.43.0.80,fd42::80", "http:80/TCP")
        .slice("shop/web", "web-0@10.42.1.4", "http:8080/TCP")
        .service("shop/db", "None", "sql:5432/TCP")
        .slice("shop/db", "db-0@10.42.1.5 10.42.1.6", "sql:5432/TCP");
    let six = "0.8.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.2.4.d.f.ip6.arpa.";
    check(
        &view,
        &format!(
            "80.0.43.10.in-addr.arpa. PTR -> 80.0.43.10.in-addr.arpa. PTR web.shop.@
             80.0.43.10.IN-ADDR.arpa. A -> nothing
             5.1.42.10.in-addr.arpa. PTR -> 5.1.42.10.in-addr.arpa. PTR db-0.db.shop.@
             6.1.42.10.in-addr.arpa. PTR -> 6.1.42.10.in-addr.arpa. PTR 10-42-1-6.db.shop.@
             4.1.42.10.in-addr.arpa. PTR -> missing in in-addr.arpa.
             {six} PTR -> {six} PTR web.shop.@
             1.2.0.192.in-addr.arpa. PTR -> elsewhere
             42.10.in-addr.arpa. PTR -> elsewhere
             x.y.in-addr.arpa. PTR -> elsewhere"
        ),
    );
}

#[test]
fn the_zone_says_what_it_is() {
    check(
        &View::new(),
        "dns-version.cluster.local. TXT -> dns-version.cluster.local. TXT 1.1.0
         cluster.local. NS -> cluster.local. NS ns.dns.cluster.local.
         ns.dns.cluster.local. A -> ns.dns.cluster.local. A 10.43.0.10
         cluster.local. SOA -> cluster.local. SOA ns.dns.cluster.local. hostmaster.cluster.local. \
         7 7200 1800 86400 5
         nothing.cluster.local. A -> missing in cluster.local.
         example.org. A -> elsewhere
         cluster.local.example.org. A -> elsewhere
         local. A -> elsewhere",
    );
}

#[test]
fn nothing_is_missing_before_all_was_seen() {
    let view = View::new().partial();
    check(
        &view,
        "web.shop.@ A -> unknown
         80.0.43.10.in-addr.arpa. PTR -> unknown
         1.2.0.192.in-addr.arpa. PTR -> elsewhere
         example.org. A -> elsewhere
         ns.dns.cluster.local. A -> ns.dns.cluster.local. A 10.43.0.10",
    );
}

#[test]
fn another_address_comes_first_each_time() {
    let view = View::new().service("shop/db", "None", "sql:5432/TCP").slice(
        "shop/db",
        "10.42.1.5 10.42.1.6 10.42.1.7",
        "sql:5432/TCP",
    );
    let name = Name::from_ascii("db.shop.svc.cluster.local.").unwrap();
    let first = |turn| match zone().answer(&view, &name, RecordType::A, turn) {
        Answer::Found { answers, .. } => {
            shown(&answers[0]).split(' ').next_back().unwrap().to_owned()
        }
        other => panic!("{other:?}"),
    };
    let firsts: Vec<_> = (0..4).map(first).collect();
    assert_eq!(firsts, ["10.42.1.5", "10.42.1.6", "10.42.1.7", "10.42.1.5"]);
}

#[test]
fn the_servers_address_is_the_tenth_of_the_range() {
    let of = |range: &str| address(&range.parse().unwrap()).map(|it| it.to_string());
    assert_eq!(of("10.43.0.0/16").as_deref(), Some("10.43.0.10"));
    assert_eq!(of("fd43::/108").as_deref(), Some("fd43::a"));
    assert_eq!(of("10.43.0.0/29"), None);
}
