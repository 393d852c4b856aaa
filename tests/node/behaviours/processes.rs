//! Processes of containers: what they are started with, as whom, how they are asked, and how they end.

use serde_json::{Value, json};

use super::{BUSYBOX, machine, once, pod, runs, said, says};
use crate::DEMO;
use crate::kubectl::{condition, is_ready};

fn state(pod: &Value, at: usize) -> &Value {
    &pod["status"]["containerStatuses"][at]["state"]
}

#[tokio::test]
async fn containers_get_their_environment_words_and_rights() {
    let mut machine = machine().await;
    let settings = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"},
        "data": {"one": "1", "a.b": "dotted"}});
    let hidden = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hidden"},
        "stringData": {"key": "value"}});
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "shop-window"},
        "spec": {"ports": [{"port": 8765, "targetPort": 8080}]}});
    for object in [&settings, &hidden, &service] {
        machine.apply(object).await;
    }
    let field = |name: &str, path: &str| {
        let from = json!({"fieldRef": {"fieldPath": path}});
        json!({"name": name, "valueFrom": from})
    };
    let amount = |name: &str, resource: &str| {
        let from = json!({"resourceFieldRef": {"resource": resource}});
        json!({"name": name, "valueFrom": from})
    };
    let env = json!([
        {"name": "ONE", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "one"}}},
        {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "hidden", "key": "key"}}},
        {"name": "BOTH", "value": "$(ONE)-$(KEY)-$$(ONE)-$(NOBODY)"},
        field("POD", "metadata.name"), field("SPACE", "metadata.namespace"),
        field("ADDRESS", "status.podIP"), field("HOST", "status.hostIP"),
        field("HOSTS", "status.hostIPs"), field("ID", "metadata.uid"),
        amount("CPU", "limits.cpu"), amount("LEAST", "requests.cpu"),
        amount("MEMORY", "limits.memory"), amount("RESERVED", "requests.memory"),
    ]);
    let from = json!([
        {"configMapRef": {"name": "settings"}, "prefix": "map_"},
        {"secretRef": {"name": "hidden"}, "prefix": "secret_"},
        {"secretRef": {"name": "hidden"}},
        {"configMapRef": {"name": "nothing", "optional": true}},
    ]);
    let script = "echo $ONE $KEY $BOTH $POD $SPACE $map_one $secret_key $key; \
                  tr '\\0' '\\n' < /proc/1/environ | grep dotted; \
                  echo $CPU $LEAST $MEMORY $RESERVED; \
                  test $HOST = 127.0.0.1 && test $HOSTS = $HOST && echo host; \
                  echo $ADDRESS | grep -c ^10.42.; echo ${#ID}; \
                  echo $SHOP_WINDOW_SERVICE_PORT $SHOP_WINDOW_PORT_8765_TCP_PROTO";
    let resources = super::amounts();
    let more = json!({"env": env, "envFrom": from, "resources": resources});
    machine.apply(&once("environment", runs(script, more), json!({}))).await;
    let less = json!({"env": [amount("CPU", "limits.cpu"), amount("MEMORY", "limits.memory")]});
    machine.apply(&once("unlimited", runs("echo $CPU $MEMORY", less), json!({}))).await;
    // Words of the image's, of the pod's, and of both.
    let image = json!({"name": "main", "image": BUSYBOX});
    machine.apply(&once("default", image, json!({}))).await;
    let env = json!([{"name": "WORD", "value": "well"}]);
    let args = json!({"name": "main", "image": BUSYBOX, "args": ["echo", "$(WORD)"], "env": env});
    machine.apply(&once("arguments", args, json!({}))).await;
    let both = json!({"name": "main", "image": BUSYBOX, "command": ["sh", "-c"], "env": env,
        "args": ["echo $0 $1", "$(WORD)", "$$(WORD)"]});
    machine.apply(&once("both", both, json!({}))).await;
    let command =
        json!({"name": "main", "image": BUSYBOX, "command": ["busybox", "echo", "alone"]});
    machine.apply(&once("command", command, json!({}))).await;

    let rights = "id -u; id -g; grep NoNewPrivs /proc/self/status; touch /file && echo writes";
    let context = |more: Value| json!({"securityContext": more});
    let container = runs(rights, context(json!({"readOnlyRootFilesystem": false})));
    machine.apply(&once("anybody", container, json!({}))).await;
    let nobody = json!({"runAsUser": 65534, "runAsGroup": 7, "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true});
    let container = runs(&format!("{rights} || echo does not"), context(nobody));
    machine.apply(&once("nobody", container, json!({}))).await;
    let group = context(json!({"runAsUser": 1001, "runAsGroup": 2002,
        "sysctls": [{"name": "kernel.shm_rmid_forced", "value": "1"}]}));
    let script = "id -u; id -g; cat /proc/sys/kernel/shm_rmid_forced; \
                  busybox ip link add dummy0 type dummy 2>/dev/null || echo unprivileged";
    machine.apply(&once("group", runs(script, json!({})), group)).await;
    let aliases = json!({"hostAliases": [{"ip": "192.0.2.9", "hostnames": ["foo", "bar"]}],
        "hostname": "called", "subdomain": "under"});
    let script = "grep -c 'Kubernetes-managed hosts file\\.' /etc/hosts; \
                  grep 192.0.2.9 /etc/hosts | tr '\\t' ' '; \
                  cat /etc/hostname; busybox hostname -f";
    machine.apply(&once("hosts", runs(script, json!({})), aliases)).await;
    // Who is on the node's network, or brings a file of its own, has that one.
    let script = "grep -c 'Kubernetes-managed hosts file\\.' /etc/hosts || echo the nodes";
    let node = json!({"hostNetwork": true});
    machine.apply(&once("on-the-node", runs(script, json!({})), node)).await;
    let own =
        json!({"volumeMounts": [{"name": "own", "mountPath": "/etc/hosts", "subPath": "one"}]});
    let volumes = json!({"volumes": [{"name": "own", "configMap": {"name": "settings"}}]});
    machine.apply(&once("brings-its-own", runs("cat /etc/hosts; echo", own), volumes)).await;

    says(
        &said(&machine, "environment").await,
        &[
            "1 value 1-value-$(ONE)-$(NOBODY) environment default 1 value value",
            "map_a.b=dotted",
            "2 1 67108864 33554432",
            "host",
            "1",
            "36",
            "8765 tcp",
        ],
    );
    let unlimited = said(&machine, "unlimited").await;
    let amounts: Vec<u64> = unlimited.split_whitespace().map(|it| it.parse().unwrap()).collect();
    assert!(amounts[0] >= 1 && amounts[1] > 1 << 20, "{unlimited}");
    for (name, lines) in [
        ("default", &["of the image"][..]),
        ("arguments", &["well"]),
        ("both", &["well $(WORD)"]),
        ("command", &["alone"]),
        ("anybody", &["0", "0", "NoNewPrivs:\t0", "writes"]),
        ("group", &["1001", "2002", "1", "unprivileged"]),
        ("hosts", &["1", "192.0.2.9 foo bar", "called", "called.under.default.svc.cluster.local"]),
        ("on-the-node", &["0", "the nodes"]),
        ("brings-its-own", &["1"]),
    ] {
        says(&said(&machine, name).await, lines);
    }
    let nobody = said(&machine, "nobody").await;
    for line in ["65534", "7", "NoNewPrivs:\t1", "does not"] {
        assert!(nobody.lines().any(|it| it == line), "{line}: {nobody}");
    }
    assert_eq!(machine.stop().await, Some(0), "{}", machine.log());
}

#[tokio::test]
async fn containers_end_and_say_why_and_others_wait_for_them() {
    let mut machine = machine().await;
    // The last words: of a file, of the log, or none.
    let words = |name: &str, script: &str, more: Value| once(name, runs(script, more), json!({}));
    let fallback = json!({"terminationMessagePolicy": "FallbackToLogsOnError"});
    machine.apply(&words("logged", "echo DONE; exit 1", fallback.clone())).await;
    machine.apply(&words("unsaid", "echo DONE", fallback.clone())).await;
    let filed = "echo -n OK > /dev/termination-log; echo DONE";
    machine.apply(&words("filed", filed, fallback)).await;
    let elsewhere = json!({"terminationMessagePath": "/dev/my-own-words",
        "securityContext": {"runAsUser": 1000}});
    machine.apply(&words("elsewhere", "echo -n OK > /dev/my-own-words", elsewhere)).await;

    // Those before the others.
    let before = |script: &str| {
        let mut container =
            runs(script, json!({"volumeMounts": [{"name": "d", "mountPath": "/d"}]}));
        container["name"] = format!("before-{}", script.len()).into();
        container
    };
    let volumes = json!([{"name": "d", "emptyDir": {}}]);
    let reads = runs("cat /d/all", json!({"volumeMounts": [{"name": "d", "mountPath": "/d"}]}));
    let both = json!([before("echo one > /d/all"), before("sleep 1; echo two >> /d/all")]);
    let more = json!({"initContainers": both, "volumes": volumes});
    machine.apply(&once("in-order", reads.clone(), more)).await;
    let fails = json!({"initContainers": [before("exit 1")], "volumes": volumes});
    machine.apply(&once("never-begins", reads.clone(), fails.clone())).await;
    let mut always = once("always-tries", reads, fails);
    always["spec"]["restartPolicy"] = "Always".into();
    machine.apply(&always).await;

    let over =
        |pod: &Value| matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    for (name, phase, reason, message) in [
        ("logged", "Failed", "Error", json!("DONE\n")),
        ("unsaid", "Succeeded", "Completed", Value::Null),
        ("filed", "Succeeded", "Completed", json!("OK")),
        ("elsewhere", "Succeeded", "Completed", json!("OK")),
    ] {
        let pod = machine.until(&["pod", name], over).await;
        let ended = &state(&pod, 0)["terminated"];
        assert_eq!(pod["status"]["phase"], phase, "{name}");
        assert_eq!((&ended["reason"], &ended["message"]), (&json!(reason), &message), "{name}");
    }
    let logs = machine.json(&["pod", "in-order"]).await;
    assert_eq!(logs["spec"]["initContainers"].as_array().unwrap().len(), 2);
    machine.until(&["pod", "in-order"], over).await;
    says(&machine.does(&["logs", "in-order"]).await, &["one", "two"]);
    let never = machine.until(&["pod", "never-begins"], over).await;
    assert_eq!(never["status"]["phase"], "Failed");
    assert_eq!(condition(&never, "Initialized"), "False");
    assert_eq!(state(&never, 0)["waiting"]["reason"], "PodInitializing");
    let tries =
        |pod: &Value| pod["status"]["initContainerStatuses"][0]["restartCount"].as_i64() >= Some(2);
    let always = machine.until(&["pod", "always-tries"], tries).await;
    assert_eq!(always["status"]["phase"], "Pending");
    assert_eq!(state(&always, 0)["waiting"]["reason"], "PodInitializing");

    // A time limit, also one that comes later.
    machine.apply(&once("limited", runs("sleep 10000", json!({})), json!({}))).await;
    machine.until(&["pod", "limited"], is_ready).await;
    let patch = r#"{"spec": {"activeDeadlineSeconds": 1}}"#;
    machine.does(&["patch", "pod", "limited", "-p", patch]).await;
    let limited = machine.until(&["pod", "limited"], over).await;
    assert_eq!(limited["status"]["reason"], "DeadlineExceeded");
    // One that fails at once can be taken away at any time.
    let mut fails = once("fails", runs("exit 1", json!({})), json!({}));
    fails["spec"]["restartPolicy"] = "Always".into();
    machine.apply(&fails).await;
    machine
        .until(&["pod", "fails"], |pod| {
            state(pod, 0)["terminated"].is_object()
                || pod["status"]["containerStatuses"][0]["restartCount"].as_i64() >= Some(1)
        })
        .await;
    machine.does(&["delete", "pod", "fails", "--timeout=60s"]).await;
    assert_eq!(machine.stop().await, Some(0), "{}", machine.log());
}

#[tokio::test]
async fn probes_and_hooks_are_asked_and_run() {
    let mut machine = machine().await;
    let serve = |name: &str, more: Value| {
        let mut container = json!({"name": "main", "image": DEMO});
        super::extend(&mut container, more);
        pod(name, json!({"containers": [container], "terminationGracePeriodSeconds": 3}))
    };
    let often = |mut probe: Value| {
        super::extend(&mut probe, json!({"periodSeconds": 1, "failureThreshold": 1}));
        probe
    };
    let http = |path: &str| often(json!({"httpGet": {"path": path, "port": 8080}}));
    machine.apply(&serve("http", json!({"livenessProbe": http("/healthz")}))).await;
    machine.apply(&serve("wrong", json!({"livenessProbe": http("/nowhere")}))).await;
    machine
        .apply(&serve("tcp", json!({"livenessProbe": often(json!({"tcpSocket": {"port": 8080}}))})))
        .await;
    let health = often(json!({"exec": {"command": ["cat", "/health"]}}));
    let loses = runs(
        "touch /health; sleep 2; busybox rm /health; sleep 10000",
        json!({"livenessProbe": health}),
    );
    machine
        .apply(&pod("loses", json!({"containers": [loses], "terminationGracePeriodSeconds": 1})))
        .await;
    let keeps = runs(
        "touch /health; sleep 10000",
        json!({"livenessProbe": {
        "exec": {"command": ["cat", "/health"]}, "periodSeconds": 1, "initialDelaySeconds": 2}}),
    );
    machine
        .apply(&pod("keeps", json!({"containers": [keeps], "terminationGracePeriodSeconds": 1})))
        .await;
    let late = json!({"readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080},
        "initialDelaySeconds": 4, "periodSeconds": 1}});
    machine.apply(&serve("late", late)).await;
    machine.apply(&serve("never", json!({"readinessProbe": http("/nowhere")}))).await;

    // Hooks: what is run says so in a file, or asks a server that writes down who asked.
    machine.apply(&serve("server", json!({}))).await;
    let server = machine.until(&["pod", "server"], is_ready).await;
    let address = server["status"]["podIP"].as_str().unwrap().to_owned();
    let asks = |path: &str| json!({"httpGet": {"path": path, "port": 8080, "host": address}});
    let hooked = runs(
        "until test -e /begun; do sleep 0.1; done; sleep 10000",
        json!({"lifecycle": {
            "postStart": {"exec": {"command": ["touch", "/begun"]}},
            "preStop": {"exec": {"command":
                ["get", format!("http://{address}:8080/healthz?exec-at-the-end")]}},
        }}),
    );
    let asked = runs(
        "sleep 10000",
        json!({"lifecycle": {
        "postStart": asks("/healthz?http-at-the-beginning"),
        "preStop": asks("/healthz?http-at-the-end")}}),
    );
    for (name, container) in [("hooked", hooked), ("asked", asked)] {
        machine
            .apply(&pod(
                name,
                json!({"containers": [container], "terminationGracePeriodSeconds": 5}),
            ))
            .await;
        machine.until(&["pod", name], is_ready).await;
    }
    machine.does(&["exec", "hooked", "--", "test", "-e", "/begun"]).await;
    machine.does(&["delete", "pod", "hooked", "asked", "--timeout=60s"]).await;
    let heard = machine.does(&["logs", "server"]).await;
    for path in ["?exec-at-the-end", "?http-at-the-end"] {
        assert!(heard.contains(path), "{path}: {heard}");
    }
    assert!(heard.contains("?http-at-the-beginning"), "{heard}");

    let restarts = |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"].as_i64();
    for name in ["wrong", "loses"] {
        machine.until(&["pod", name], |pod| restarts(pod) >= Some(1)).await;
    }
    let late = machine.until(&["pod", "late"], is_ready).await;
    let at = |text: &Value| text.as_str().unwrap()[17..19].parse::<i64>().unwrap();
    let begun = at(&state(&late, 0)["running"]["startedAt"]);
    let conditions = late["status"]["conditions"].as_array().unwrap();
    let ready = conditions.iter().find(|it| it["type"] == "Ready").unwrap();
    let took = (at(&ready["lastTransitionTime"]) - begun).rem_euclid(60);
    assert!(took >= 4, "ready after {took} s");
    for name in ["http", "tcp", "keeps", "late", "never"] {
        assert_eq!(restarts(&machine.json(&["pod", name]).await), Some(0), "{name}");
    }
    assert_eq!(condition(&machine.json(&["pod", "never"]).await, "Ready"), "False");
    assert_eq!(machine.stop().await, Some(0), "{}", machine.log());
}

#[tokio::test]
async fn people_look_into_pods_that_run_and_pods_that_have_ended() {
    let mut machine = machine().await;
    let script = "echo first; sleep 0.5; echo second >&2; touch /said; \
                  until test -e /end; do sleep 0.1; done; exit 4";
    let ready = json!({"exec": {"command": ["cat", "/said"]}, "periodSeconds": 1});
    let ticks = runs(script, json!({"readinessProbe": ready}));
    machine
        .apply(&pod("ticks", json!({"containers": [ticks], "terminationGracePeriodSeconds": 1})))
        .await;
    machine.until(&["pod", "ticks"], is_ready).await;
    says(&machine.does(&["logs", "ticks", "--tail=1"]).await, &["second"]);
    says(&machine.does(&["logs", "ticks", "--limit-bytes=3"]).await, &["fir"]);
    says(&machine.does(&["logs", "ticks", "--since=1h"]).await, &["first", "second"]);
    let since = ["logs", "ticks", "--since-time=2999-01-01T00:00:00Z"];
    says(&machine.does(&since).await, &[]);
    assert!(machine.does(&["logs", "ticks", "--timestamps"]).await.contains("Z first"));
    // A container that is added to look around sees the processes of the one it is for.
    let script = "busybox ps | grep -c 'until test'; exit 0";
    let flags = ["--image", BUSYBOX, "--target", "main", "--container", "looking"];
    machine.does(&[&["debug", "ticks"], &flags[..], &["--", "sh", "-c", script]].concat()).await;
    let looked = |pod: &Value| {
        pod["status"]["ephemeralContainerStatuses"][0]["state"]["terminated"].is_object()
    };
    machine.until(&["pod", "ticks"], looked).await;
    let seen = machine.does(&["logs", "ticks", "-c", "looking"]).await;
    assert_ne!(seen.trim(), "0", "{seen}");
    // One that ended is still asked for.
    machine.does(&["exec", "ticks", "-c", "main", "--", "touch", "/end"]).await;
    let again = |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"] == 1;
    machine.until(&["pod", "ticks"], again).await;
    let before = machine.does(&["logs", "ticks", "-c", "main", "--previous"]).await;
    assert!(before.contains("first"), "{before}");
    // What is typed arrives, and what is answered comes back.
    let run = ["run", "echoes", "-i", "--rm", "--restart=Never", "--image", BUSYBOX, "--"];
    let words = [&run[..], &["sh", "-c", "read x; echo heard $x"]].concat();
    let output = machine.run(&words, "it\n").await;
    assert!(String::from_utf8_lossy(&output.stdout).contains("heard it"), "{output:?}");

    // A page of a pod, of a service and of the node, through the API.
    machine.does(&["run", "web", "--image", DEMO, "--port", "8080", "--expose"]).await;
    machine.until(&["pod", "web"], is_ready).await;
    let ready = |slices: &Value| slices["items"][0]["endpoints"][0]["conditions"]["ready"] == true;
    machine.until(&["endpointslices", "-l", "kubernetes.io/service-name=web"], ready).await;
    let namespace = "/api/v1/namespaces/default";
    for path in [
        format!("{namespace}/pods/web:8080/proxy/healthz"),
        format!("{namespace}/pods/http:web:8080/proxy/healthz"),
        format!("{namespace}/services/web:8080/proxy/healthz"),
        format!("{namespace}/services/http:web:8080/proxy/healthz"),
        "/api/v1/nodes/machine/proxy/healthz".to_owned(),
    ] {
        assert_eq!(machine.does(&["get", "--raw", &path]).await.trim(), "ok", "{path}");
    }
    assert_eq!(machine.stop().await, Some(0), "{}", machine.log());
}
