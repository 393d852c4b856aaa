//! Files that pods find: from config maps, secrets and their own object, empty folders, parts of volumes.

use serde_json::{Value, json};

use super::{machine, once, runs, said, says};
use crate::kubectl::is_ready;

/// Prints mode and content of files.
const SHOW: &str = "show() { for f in $@; do echo $f $(stat -L -c %a $f) $(cat $f); done; }; ";

fn settings() -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"},
        "data": {"one": "1", "two": "2"}, "binaryData": {"bytes": "AP/+gA=="}})
}

fn hidden() -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hidden"},
        "stringData": {"key": "value", "other": "another"}})
}

fn mounts(names: &[&str]) -> Value {
    let one = |name: &&str| json!({"name": name, "mountPath": format!("/{name}")});
    names.iter().map(one).collect()
}

fn own(path: &str, field: &str) -> Value {
    json!({"path": path, "fieldRef": {"fieldPath": field}})
}

/// For its owner alone.
fn strict(mut item: Value) -> Value {
    item["mode"] = 0o400.into();
    item
}

fn amount(path: &str, resource: &str) -> Value {
    json!({"path": path, "resourceFieldRef": {"containerName": "main", "resource": resource}})
}

#[tokio::test]
async fn files_come_from_config_maps_secrets_and_the_pod_itself_as_they_were_asked_for() {
    let mut machine = machine().await;
    machine.apply(&settings()).await;
    machine.apply(&hidden()).await;
    // One of the same name elsewhere is another.
    machine.does(&["create", "namespace", "elsewhere"]).await;
    let mut another = hidden();
    another["metadata"]["namespace"] = "elsewhere".into();
    another["stringData"] = json!({"key": "of others", "other": "of others"});
    machine.apply(&another).await;
    let item = json!([{"key": "one", "path": "deep/uno", "mode": 0o400}]);
    let secret_item = json!([{"key": "key", "path": "deep/k", "mode": 0o400}]);
    let names = [
        "plain",
        "strict",
        "items",
        "again",
        "secret",
        "guarded",
        "picked",
        "twice",
        "projected",
        "own",
        "lacks",
    ];
    let volumes = json!([
        {"name": "plain", "configMap": {"name": "settings"}},
        {"name": "strict", "configMap": {"name": "settings", "defaultMode": 0o400}},
        {"name": "items", "configMap": {"name": "settings", "items": item}},
        {"name": "again", "configMap": {"name": "settings"}},
        {"name": "secret", "secret": {"secretName": "hidden"}},
        {"name": "guarded", "secret": {"secretName": "hidden", "defaultMode": 0o400}},
        {"name": "picked", "secret": {"secretName": "hidden", "items": secret_item}},
        {"name": "twice", "secret": {"secretName": "hidden"}},
        {"name": "projected", "projected": {"defaultMode": 0o440, "sources": [
            {"configMap": {"name": "settings", "items": [{"key": "two", "path": "map/two"}]}},
            {"secret": {"name": "hidden", "items": [{"key": "key", "path": "secret/key"}]}},
            {"downwardAPI": {"items": [own("pod/name", "metadata.name")]}},
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 600}},
        ]}},
        {"name": "own", "downwardAPI": {"defaultMode": 0o444, "items": [
            own("name", "metadata.name"), own("labels", "metadata.labels"),
            strict(own("annotations", "metadata.annotations")),
            amount("cpu", "limits.cpu"), amount("least", "requests.cpu"),
            amount("memory", "limits.memory"), amount("reserved", "requests.memory"),
        ]}},
        {"name": "lacks", "configMap": {"name": "nothing", "optional": true}},
    ]);
    let script = format!(
        "{SHOW} show /plain/one /strict/one /items/deep/uno /again/two; \
         od -An -tx1 /plain/bytes; \
         show /secret/key /guarded/key /picked/deep/k /twice/other; \
         show /projected/map/two /projected/secret/key /projected/pod/name; \
         test -s /projected/token && echo a token; \
         show /own/name /own/labels /own/annotations; \
         show /own/cpu /own/least /own/memory /own/reserved; \
         ls /lacks"
    );
    let resources = super::amounts();
    let container = runs(&script, json!({"volumeMounts": mounts(&names), "resources": resources}));
    let mut files = once("files", container, json!({"volumes": volumes}));
    files["metadata"]["labels"] = json!({"colour": "red"});
    files["metadata"]["annotations"] = json!({"shape": "round"});
    // kubectl's own annotation would be among them.
    let created = machine.run(&["create", "-f", "-"], &files.to_string()).await;
    assert!(created.status.success(), "{created:?}");

    // Limits that are not there are what the node has; and who is not root sees what its group may.
    let less = json!([
        {"name": "own", "downwardAPI": {"items": [
            amount("cpu", "limits.cpu"), amount("memory", "limits.memory")]}},
        {"name": "plain", "configMap": {"name": "settings"}},
        {"name": "secret", "secret": {"secretName": "hidden", "defaultMode": 0o440}},
        {"name": "projected", "projected": {"defaultMode": 0o440, "sources": [
            {"secret": {"name": "hidden"}}, {"configMap": {"name": "settings"}}]}},
    ]);
    let script = "id -u; cat /own/cpu; echo; test $(cat /own/memory) -gt 1000000 && echo much; \
                  cat /plain/one /secret/key /projected/key /projected/two; echo; \
                  stat -L -c '%a %g' /secret/key /projected/key";
    let names = ["own", "plain", "secret", "projected"];
    let container = runs(script, json!({"volumeMounts": mounts(&names)}));
    let user = json!({"volumes": less, "securityContext": {"runAsUser": 1000, "fsGroup": 1001}});
    machine.apply(&once("user", container, user)).await;

    says(
        &said(&machine, "files").await,
        &[
            "/plain/one 644 1",
            "/strict/one 400 1",
            "/items/deep/uno 400 1",
            "/again/two 644 2",
            " 00 ff fe 80",
            "/secret/key 644 value",
            "/guarded/key 400 value",
            "/picked/deep/k 400 value",
            "/twice/other 644 another",
            "/projected/map/two 440 2",
            "/projected/secret/key 440 value",
            "/projected/pod/name 440 files",
            "a token",
            "/own/name 444 files",
            "/own/labels 444 colour=\"red\"",
            "/own/annotations 400 shape=\"round\"",
            "/own/cpu 444 2",
            "/own/least 444 1",
            "/own/memory 444 67108864",
            "/own/reserved 444 33554432",
        ],
    );
    let node = machine.json(&["node", "machine"]).await;
    let cpu = node["status"]["allocatable"]["cpu"].as_str().unwrap();
    says(
        &said(&machine, "user").await,
        &["1000", cpu, "much", "1valuevalue2", "440 1001", "440 1001"],
    );
    assert_eq!(machine.stop().await, Some(0), "{}", machine.log());
}

#[tokio::test]
async fn files_follow_what_they_are_made_of() {
    let mut machine = machine().await;
    machine.apply(&settings()).await;
    machine.apply(&hidden()).await;
    let volumes = json!([
        {"name": "plain", "configMap": {"name": "settings"}},
        {"name": "secret", "secret": {"secretName": "hidden"}},
        {"name": "later", "configMap": {"name": "later", "optional": true}},
        {"name": "own", "downwardAPI": {"items": [own("labels", "metadata.labels")]}},
        {"name": "projected", "projected": {"sources": [
            {"configMap": {"name": "settings"}}, {"secret": {"name": "later", "optional": true}},
            {"downwardAPI": {"items": [own("annotations", "metadata.annotations")]}}]}},
    ]);
    let names = ["plain", "secret", "later", "own", "projected"];
    let container = runs("sleep 10000", json!({"volumeMounts": mounts(&names)}));
    machine.apply(&once("follows", container, json!({"volumes": volumes}))).await;
    machine.until(&["pod", "follows"], is_ready).await;

    let mut changed = settings();
    changed["data"] = json!({"one": "11", "three": "3"});
    machine.apply(&changed).await;
    let mut changed = hidden();
    changed["stringData"] = json!({"key": "changed"});
    machine.apply(&changed).await;
    for (kind, field) in [("ConfigMap", "data"), ("Secret", "stringData")] {
        let mut later = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "later"}});
        later[field] = json!({"late": "here"});
        machine.apply(&later).await;
    }
    machine.does(&["label", "pod", "follows", "colour=blue"]).await;
    machine.does(&["annotate", "pod", "follows", "shape=square"]).await;
    let wait = "until grep -q 11 /plain/one && ! test -e /plain/two && test -e /plain/three && \
                grep -q changed /secret/key && grep -q here /later/late && \
                grep -q blue /own/labels && grep -q 11 /projected/one && \
                grep -q here /projected/late && grep -q square /projected/annotations; \
                do sleep 0.2; done; echo all of it";
    let heard = machine.does(&["exec", "follows", "--", "sh", "-c", wait]).await;
    says(&heard, &["all of it"]);
    assert_eq!(machine.stop().await, Some(0), "{}", machine.log());
}

#[tokio::test]
async fn folders_are_shared_kept_in_memory_and_mounted_in_parts() {
    let mut machine = machine().await;
    machine.apply(&settings()).await;
    machine.apply(&hidden()).await;
    let empty = json!([
        {"name": "disk", "emptyDir": {}},
        {"name": "memory", "emptyDir": {"medium": "Memory"}},
    ]);
    let script = "for d in /disk /memory; do echo $d $(stat -c %a $d); \
                  for m in 0644 0666 0777; do echo x > $d/$m && chmod $m $d/$m && \
                  stat -c '%a %u' $d/$m; done; done; \
                  grep -c ' /memory tmpfs' /proc/mounts";
    for (name, user) in [("root", 0), ("user", 1001)] {
        let container = runs(script, json!({"volumeMounts": mounts(&["disk", "memory"])}));
        let more = json!({"volumes": empty, "securityContext": {"runAsUser": user}});
        machine.apply(&once(name, container, more)).await;
    }
    // One container writes what another waits for.
    let mut reads = runs(
        "until test -s /disk/word; do sleep 0.1; done; cat /disk/word",
        json!({"volumeMounts": mounts(&["disk"])}),
    );
    reads["name"] = "reads".into();
    let writes = runs("echo word > /disk/word", json!({"volumeMounts": mounts(&["disk"])}));
    let both = json!({"volumes": empty, "containers": [writes, reads]});
    machine.apply(&once("both", json!({}), both)).await;
    // Single files and folders of volumes, some by a name that the environment gives.
    let volumes = json!([
        {"name": "disk", "emptyDir": {}},
        {"name": "map", "configMap": {"name": "settings"}},
        {"name": "secret", "secret": {"secretName": "hidden"}},
        {"name": "own", "downwardAPI": {"items": [own("name", "metadata.name")]}},
        {"name": "all", "projected": {"sources": [{"configMap": {"name": "settings"}}]}},
    ]);
    let part = |name: &str, path: &str, part: &str| {
        let mut mount = json!({"name": name, "mountPath": path});
        mount["subPath"] = part.into();
        mount
    };
    let parts = json!([
        part("map", "/a/one", "one"), part("secret", "/a/key", "key"),
        part("own", "/a/name", "name"), part("all", "/a/two", "two"),
        part("map", "/bin/demo", "two"),
        {"name": "disk", "mountPath": "/whole"},
        {"name": "disk", "mountPath": "/mine", "subPathExpr": "of-$(WHO)"},
    ]);
    let script = "cat /a/one /a/key /a/name /a/two /bin/demo; echo; \
                  echo seen > /mine/file; cat /whole/of-parts/file";
    let who = json!([{"name": "WHO", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]);
    let container = runs(script, json!({"volumeMounts": parts, "env": who}));
    machine.apply(&once("parts", container, json!({"volumes": volumes}))).await;

    for (name, user) in [("root", "0"), ("user", "1001")] {
        let file = |mode: &str| format!("{mode} {user}");
        let (a, b, c) = (file("644"), file("666"), file("777"));
        let wanted = ["/disk 777", &a, &b, &c, "/memory 777", &a, &b, &c, "1"];
        says(&said(&machine, name).await, &wanted);
    }
    says(&said(&machine, "both").await, &["word"]);
    says(&said(&machine, "parts").await, &["1valueparts22", "seen"]);

    // What leads out of a volume is refused, whoever asks.
    let outward = |name: &str, part: &str| {
        let mount = json!([{"name": "disk", "mountPath": "/mine", "subPathExpr": part}]);
        let env = json!([{"name": "WHERE", "value": "/tmp"}]);
        let container = runs("true", json!({"volumeMounts": mount, "env": env}));
        once(name, container, json!({"volumes": [{"name": "disk", "emptyDir": {}}]}))
    };
    machine.apply(&outward("absolute", "$(WHERE)")).await;
    let refused = |pod: &Value| {
        let waits = &pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"];
        waits == "CreateContainerConfigError"
    };
    machine.until(&["pod", "absolute"], refused).await;
    assert_eq!(machine.stop().await, Some(0), "{}", machine.log());
}

#[tokio::test]
async fn programs_find_the_certificates_that_the_cluster_tells_them_to_believe() {
    let mut machine = machine().await;
    let certificate = |name: &str| {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
    };
    let bundle = |name: &str, signer: Option<&str>, label: &str, text: &str| {
        json!({"apiVersion": "certificates.k8s.io/v1", "kind": "ClusterTrustBundle",
            "metadata": {"name": name, "labels": {"live": label}},
            "spec": {"signerName": signer, "trustBundle": text}})
    };
    let signer = "test.kontiki/signer";
    let all: Vec<String> = ["a", "b", "c"].map(certificate).to_vec();
    machine.apply(&bundle("alone", None, "no", &all.concat())).await;
    for (at, label) in [(0, "yes"), (1, "yes"), (2, "no")] {
        let name = format!("test.kontiki:signer:{at}");
        machine.apply(&bundle(&name, Some(signer), label, &all[at])).await;
    }
    let projected = |name: &str, source: Value| {
        let mut source = source;
        source["path"] = "roots".into();
        json!({"name": name, "projected": {"sources": [{"clusterTrustBundle": source}]}})
    };
    let live = json!({"matchLabels": {"live": "yes"}});
    let none = json!({"matchLabels": {"live": "never"}});
    let asked = [
        ("named", json!({"name": "alone"})),
        ("signed", json!({"signerName": signer, "labelSelector": {}})),
        ("picked", json!({"signerName": signer, "labelSelector": live})),
        ("nothing", json!({"signerName": signer, "optional": true})),
        ("nobody", json!({"signerName": signer, "labelSelector": none, "optional": true})),
    ];
    let names: Vec<&str> = asked.iter().map(|(name, _)| *name).collect();
    let volumes: Vec<Value> =
        asked.iter().map(|(name, source)| projected(name, source.clone())).collect();
    let script = "for n in named signed picked nothing nobody; do \
                  echo $n $(grep -c BEGIN /$n/roots); done; true";
    let container = runs(script, json!({"volumeMounts": mounts(&names)}));
    machine.apply(&once("believes", container, json!({"volumes": volumes}))).await;
    says(
        &said(&machine, "believes").await,
        &["named 3", "signed 3", "picked 2", "nothing 0", "nobody 0"],
    );
    // What is not there keeps a pod waiting, until it is.
    for (name, source) in [
        ("by-name", json!({"name": "later"})),
        ("by-labels", json!({"signerName": signer, "labelSelector": none})),
    ] {
        let container = runs("grep -c BEGIN /v/roots", json!({"volumeMounts": mounts(&["v"])}));
        let volumes = json!([projected("v", source)]);
        machine.apply(&once(name, container, json!({"volumes": volumes}))).await;
    }
    let refused = |events: &Value| {
        ["by-name", "by-labels"].iter().all(|name| {
            let mut all = events["items"].as_array().into_iter().flatten();
            all.any(|it| it["involvedObject"]["name"] == *name && it["reason"] == "FailedMount")
        })
    };
    machine.until(&["events"], refused).await;
    machine.apply(&bundle("later", None, "no", &all[0])).await;
    says(&said(&machine, "by-name").await, &["1"]);
    assert_eq!(machine.json(&["pod", "by-labels"]).await["status"]["phase"], "Pending");
    assert_eq!(machine.stop().await, Some(0), "{}", machine.log());
}
