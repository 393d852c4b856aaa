//! API priority and fairness: the levels and schemas of every cluster.

use serde_json::{Value, json};

use super::Wanted;
use super::reconcile::Rule;

const GROUP: &str = "flowcontrol.apiserver.k8s.io";

/// Name, shares, lendable percent, queues, hand size.
const LEVELS: [(&str, u32, u32, u32, u32); 6] = [
    ("system", 30, 33, 64, 6),
    ("node-high", 40, 25, 64, 6),
    ("leader-election", 10, 0, 16, 4),
    ("workload-high", 40, 50, 128, 6),
    ("workload-low", 100, 90, 128, 6),
    ("global-default", 20, 50, 128, 6),
];
const QUEUE_LENGTH: u32 = 50;

pub(super) fn levels() -> Vec<Wanted> {
    let exempt = json!({
        "type": "Exempt",
        "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0},
    });
    let catch_all = json!({
        "type": "Limited",
        "limited": {"nominalConcurrencyShares": 5, "lendablePercent": 0,
                    "limitResponse": {"type": "Reject"}},
    });
    let mut all = vec![
        level("exempt", Rule::Mandatory, exempt),
        level("catch-all", Rule::Mandatory, catch_all),
    ];
    all.extend(LEVELS.iter().map(|(name, shares, lendable, queues, hand)| {
        let queuing = json!({"queues": queues, "handSize": hand, "queueLengthLimit": QUEUE_LENGTH});
        let spec = json!({
            "type": "Limited",
            "limited": {
                "nominalConcurrencyShares": shares,
                "lendablePercent": lendable,
                "limitResponse": {"type": "Queue", "queuing": queuing},
            },
        });
        level(name, Rule::Suggested, spec)
    }));
    all
}

fn flow(kind: &str, name: &str, rule: Rule, spec: Value) -> Wanted {
    let object = json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": kind,
        "metadata": {"name": name, "annotations": {"apf.kubernetes.io/autoupdate-spec": "true"}},
        "spec": spec,
    });
    let resource = format!("{}s", kind.to_lowercase());
    Wanted::new(GROUP, "v1", &resource, rule, object)
}

fn level(name: &str, rule: Rule, spec: Value) -> Wanted {
    flow("PriorityLevelConfiguration", name, rule, spec)
}

pub(super) fn schemas() -> Vec<Wanted> {
    let everyone = || groups(&["system:unauthenticated", "system:authenticated"]);
    let nodes = || groups(&["system:nodes"]);
    let user = |name: &str| vec![json!({"kind": "User", "user": {"name": name}})];
    let account = json!({"kind": "ServiceAccount",
        "serviceAccount": {"name": "*", "namespace": "kube-system"}});
    let mut electors = user("system:kube-controller-manager");
    electors.extend(user("system:kube-scheduler"));
    electors.push(account.clone());
    let leases = |verbs: &[&str]| rule(verbs, "coordination.k8s.io", &["leases"], false);
    let paths = json!({"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]});
    let probes = json!({"subjects": everyone(), "nonResourceRules": [paths]});
    let elections = json!({"subjects": electors,
        "resourceRules": [leases(&["get", "create", "update"])]});
    let beats = json!({"subjects": nodes(), "resourceRules": [
        rule(&["*"], "", &["nodes", "nodes/status"], true), leases(&["*"]),
    ]});
    let suggested: [(&str, &str, u32, &str, Value); 9] = [
        ("probes", "exempt", 2, "", probes),
        ("system-leader-election", "leader-election", 100, "ByUser", elections),
        ("system-node-high", "node-high", 400, "ByUser", beats),
        ("system-nodes", "system", 500, "ByUser", all_of(nodes())),
        (
            "kube-controller-manager",
            "workload-high",
            800,
            "ByNamespace",
            all_of(user("system:kube-controller-manager")),
        ),
        (
            "kube-scheduler",
            "workload-high",
            800,
            "ByNamespace",
            all_of(user("system:kube-scheduler")),
        ),
        (
            "kube-system-service-accounts",
            "workload-high",
            900,
            "ByNamespace",
            all_of(vec![account]),
        ),
        (
            "service-accounts",
            "workload-low",
            9000,
            "ByUser",
            all_of(groups(&["system:serviceaccounts"])),
        ),
        ("global-default", "global-default", 9900, "ByUser", all_of(everyone())),
    ];
    let masters = all_of(groups(&["system:masters"]));
    let mut all = vec![
        schema("exempt", "exempt", 1, "", masters, Rule::Mandatory),
        schema("catch-all", "catch-all", 10000, "ByUser", all_of(everyone()), Rule::Mandatory),
    ];
    all.extend(suggested.into_iter().map(|(name, level, precedence, by, rules)| {
        schema(name, level, precedence, by, rules, Rule::Suggested)
    }));
    all
}

fn schema(name: &str, level: &str, precedence: u32, by: &str, rules: Value, rule: Rule) -> Wanted {
    let mut spec = json!({
        "priorityLevelConfiguration": {"name": level},
        "matchingPrecedence": precedence,
        "rules": [rules],
    });
    if !by.is_empty() {
        spec["distinguisherMethod"] = json!({ "type": by });
    }
    flow("FlowSchema", name, rule, spec)
}

fn groups(names: &[&str]) -> Vec<Value> {
    names.iter().map(|name| json!({"kind": "Group", "group": {"name": name}})).collect()
}

fn rule(verbs: &[&str], group: &str, resources: &[&str], cluster_scope: bool) -> Value {
    let mut rule = json!({
        "verbs": verbs, "apiGroups": [group], "resources": resources, "namespaces": ["*"],
    });
    if cluster_scope {
        rule["clusterScope"] = true.into();
    }
    rule
}

/// Whatever these subjects ask.
fn all_of(subjects: Vec<Value>) -> Value {
    json!({
        "subjects": subjects,
        "resourceRules": [rule(&["*"], "*", &["*"], true)],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
    })
}
