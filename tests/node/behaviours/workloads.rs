//! Jobs and sets whose pods really run, and what can be done to a single pod.

use serde_json::{Value, json};

use super::{BUSYBOX, machine, pod, runs, said};
use crate::DEMO;
use crate::kubectl::{Kubectl, condition, is_ready};

fn job(name: &str, spec: Value, script: &str, policy: &str) -> Value {
    let volumes = json!([{"name": "data", "emptyDir": {}}]);
    let mounts = json!({"volumeMounts": [{"name": "data", "mountPath": "/data"}]});
    let mut object = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
        "spec": {"template": {"spec": {"restartPolicy": policy, "volumes": volumes,
            "terminationGracePeriodSeconds": 1, "containers": [runs(script, mounts)]}}}});
    super::extend(&mut object["spec"], spec);
    object
}

#[tokio::test]
async fn jobs_run_their_pods_to_the_end_that_was_asked_for() {
    let mut machine = machine().await;
    let index = "$JOB_COMPLETION_INDEX";
    let indexed = |count: u32| {
        let mode = "Indexed";
        json!({"completionMode": mode, "completions": count, "parallelism": count})
    };
    let with = |mut spec: Value, more: Value| {
        super::extend(&mut spec, more);
        spec
    };
    let again = "test -e /data/tried && exit 0; touch /data/tried; exit 1";
    let tries = json!({"completions": 2, "parallelism": 2});
    let names = format!("busybox hostname; echo {index}");
    let per_index = with(indexed(3), json!({"backoffLimitPerIndex": 0}));
    let most = with(
        indexed(4),
        json!({"backoffLimitPerIndex": 0, "maxFailedIndexes": 1,
        "parallelism": 1}),
    );
    let on_exit = |action: &str| {
        json!({"podFailurePolicy": {"rules": [{"action": action,
            "onExitCodes": {"operator": "In", "values": [42]}}]}})
    };
    let early = with(json!({"backoffLimit": 6}), on_exit("FailJob"));
    let fails_index =
        with(with(indexed(2), json!({"backoffLimitPerIndex": 3})), on_exit("FailIndex"));
    let succeeds = |rule: Value| with(indexed(3), json!({"successPolicy": {"rules": [rule]}}));
    let first_ends = format!("test {index} = 0 && exit 0; sleep 10000");
    for (object, wanted) in [
        (job("tries", tries, again, "OnFailure"), "Complete"),
        (job("names", indexed(2), &names, "Never"), "Complete"),
        (job("some", per_index, &format!("test {index} != 1"), "Never"), "Failed"),
        (job("many", most, "exit 1", "Never"), "Failed"),
        (job("early", early, "exit 42", "Never"), "Failed"),
        (job("one-index", fails_index, &format!("test {index} = 0 || exit 42"), "Never"), "Failed"),
        (job("all", succeeds(json!({"succeededIndexes": "0-2"})), "exit 0", "Never"), "Complete"),
        (
            job("index", succeeds(json!({"succeededIndexes": "0"})), &first_ends, "Never"),
            "Complete",
        ),
        (job("count", succeeds(json!({"succeededCount": 1})), &first_ends, "Never"), "Complete"),
    ] {
        machine.apply(&object).await;
        let name = object["metadata"]["name"].as_str().unwrap();
        let ends =
            |job: &Value| ["Complete", "Failed"].iter().any(|it| condition(job, it) == "True");
        let job = machine.until(&["job", name], ends).await;
        assert_eq!(condition(&job, wanted), "True", "{name}: {:#}", job["status"]);
        let status = &job["status"];
        match name {
            "tries" => {
                assert_eq!((&status["succeeded"], &status["failed"]), (&json!(2), &Value::Null))
            }
            "some" => assert_eq!(
                (&status["completedIndexes"], &status["failedIndexes"]),
                (&json!("0,2"), &json!("1"))
            ),
            "one-index" => assert_eq!(status["failedIndexes"], "1"),
            "early" => assert_eq!(status["failed"], 1),
            _ => {}
        }
    }
    let mut names = machine.does(&["logs", "-l", "job-name=names", "--prefix=false"]).await;
    names = names.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(names.contains("names-0 0") && names.contains("names-1 1"), "{names}");

    // A pod that is evicted is none that has failed.
    let ignore = json!({"backoffLimit": 0, "podFailurePolicy": {"rules": [{"action": "Ignore",
        "onPodConditions": [{"type": "DisruptionTarget"}]}]}});
    let script = "until test -e /data/end; do sleep 0.1; done";
    machine.apply(&job("evicted", ignore, script, "Never")).await;
    let running = |pods: &Value| {
        pods["items"].as_array().is_some_and(|all| {
            all.iter().any(|it| is_ready(it) && it["metadata"]["deletionTimestamp"].is_null())
        })
    };
    let of = ["pods", "-l", "job-name=evicted"];
    let pods = machine.until(&of, running).await;
    let first = pods["items"][0]["metadata"]["name"].as_str().unwrap().to_owned();
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"name": first, "namespace": "default"}});
    let path = format!("/api/v1/namespaces/default/pods/{first}/eviction");
    let evicted = machine.run(&["create", "--raw", &path, "-f", "-"], &eviction.to_string()).await;
    assert!(evicted.status.success(), "{evicted:?}");
    let another = |pods: &Value| {
        pods["items"].as_array().is_some_and(|all| {
            all.iter().any(|it| is_ready(it) && it["metadata"]["name"] != first.as_str())
        })
    };
    let pods = machine.until(&of, another).await;
    let all = pods["items"].as_array().unwrap();
    let second = all.iter().find(|it| it["metadata"]["name"] != first.as_str()).unwrap();
    let second = second["metadata"]["name"].as_str().unwrap();
    machine.does(&["exec", second, "--", "touch", "/data/end"]).await;
    machine.until(&["job", "evicted"], |job| condition(job, "Complete") == "True").await;
    assert_eq!(machine.stop().await, Some(0), "{}", machine.log());
}

/// Names and images of the pods of a set, in the order of the names.
async fn pods_of(kubectl: &Kubectl, app: &str) -> Vec<(String, String)> {
    let pods =
        kubectl.json(&["pods", "-l", &format!("app={app}"), "--sort-by=metadata.name"]).await;
    let text = |it: &Value| it.as_str().unwrap_or_default().to_owned();
    let of = |it: &Value| {
        let colour = &it["spec"]["containers"][0]["env"][0]["value"];
        (text(&it["metadata"]["name"]), text(colour))
    };
    pods["items"].as_array().unwrap().iter().map(of).collect()
}

#[tokio::test]
async fn sets_of_pods_that_run_keep_their_order_and_are_rolled_by_it() {
    let mut machine = machine().await;
    let template = |app: &str, colour: &str| {
        let script = "touch /healthy; sleep 10000";
        let ready = json!({"exec": {"command": ["cat", "/healthy"]}, "periodSeconds": 1});
        let env = json!([{"name": "COLOUR", "value": colour}]);
        json!({"metadata": {"labels": {"app": app}}, "spec": {"terminationGracePeriodSeconds": 1,
            "containers": [runs(script, json!({"readinessProbe": ready, "env": env}))]}})
    };
    let set = |name: &str, replicas: u32, colour: &str, more: Value| {
        let mut object = json!({"apiVersion": "apps/v1", "kind": "StatefulSet",
            "metadata": {"name": name}, "spec": {"serviceName": name, "replicas": replicas,
                "selector": {"matchLabels": {"app": name}}, "template": template(name, colour)}});
        super::extend(&mut object["spec"], more);
        object
    };
    let all_ready = |count: u64| {
        move |it: &Value| {
            it["status"]["readyReplicas"].as_u64() == Some(count)
                && it["status"]["replicas"].as_u64() == Some(count)
                && it["status"]["observedGeneration"] == it["metadata"]["generation"]
        }
    };
    // One after the other, and no further than the first that is not well.
    machine.apply(&set("calm", 1, "red", json!({}))).await;
    machine.until(&["statefulset", "calm"], all_ready(1)).await;
    machine.does(&["exec", "calm-0", "--", "rm", "/healthy"]).await;
    machine.until(&["pod", "calm-0"], |pod| condition(pod, "Ready") == "False").await;
    machine.does(&["scale", "statefulset", "calm", "--replicas=3"]).await;
    // A set that does not wait has all of its pods by now, and was told later.
    let hasty = json!({"podManagementPolicy": "Parallel"});
    machine.apply(&set("hasty", 3, "red", hasty)).await;
    machine.until(&["statefulset", "hasty"], all_ready(3)).await;
    assert_eq!(pods_of(&machine, "calm").await.len(), 1);
    machine.does(&["exec", "calm-0", "--", "touch", "/healthy"]).await;
    machine.until(&["statefulset", "calm"], all_ready(3)).await;
    machine.does(&["scale", "statefulset", "hasty", "--replicas=0"]).await;

    // A canary, the rest by and by, and back.
    let canary =
        json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}});
    machine.apply(&set("calm", 3, "blue", canary)).await;
    let updated = |count: u64| {
        move |it: &Value| {
            all_ready(3)(it) && it["status"]["updatedReplicas"].as_u64() == Some(count)
        }
    };
    machine.until(&["statefulset", "calm"], updated(1)).await;
    let colours = async || -> Vec<String> {
        pods_of(&machine, "calm").await.into_iter().map(|(_, colour)| colour).collect()
    };
    assert_eq!(colours().await, ["red", "red", "blue"]);
    // One that is taken away comes back as what it was.
    machine.does(&["delete", "pod", "calm-0", "calm-2", "--timeout=60s"]).await;
    machine.until(&["statefulset", "calm"], updated(1)).await;
    assert_eq!(colours().await, ["red", "red", "blue"]);
    let rest =
        json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}});
    machine.apply(&set("calm", 3, "blue", rest)).await;
    machine.does(&["rollout", "status", "statefulset/calm", "--timeout=100s"]).await;
    assert_eq!(colours().await, ["blue", "blue", "blue"]);
    machine.does(&["rollout", "undo", "statefulset/calm"]).await;
    machine.does(&["rollout", "status", "statefulset/calm", "--timeout=100s"]).await;
    assert_eq!(colours().await, ["red", "red", "red"]);

    // A ReplicationController and a ReplicaSet whose pods answer, described as people read it.
    let selects = |kind: &str, version: &str, selector: Value| {
        json!({"apiVersion": version, "kind": kind, "metadata": {"name": kind.to_lowercase()},
            "spec": {"replicas": 2, "selector": selector, "template": {
                "metadata": {"labels": {"app": kind}},
                "spec": {"terminationGracePeriodSeconds": 1,
                    "containers": [{"name": "main", "image": DEMO}]}}}})
    };
    machine
        .apply(&selects("ReplicationController", "v1", json!({"app": "ReplicationController"})))
        .await;
    let labels = json!({"matchLabels": {"app": "ReplicaSet"}});
    machine.apply(&selects("ReplicaSet", "apps/v1", labels)).await;
    for kind in ["ReplicationController", "ReplicaSet"] {
        let name = kind.to_lowercase();
        let ready = |it: &Value| it["status"]["readyReplicas"] == 2;
        machine.until(&[&name, &name], ready).await;
        for (pod, _) in pods_of(&machine, kind).await {
            let path = format!("/api/v1/namespaces/default/pods/{pod}:8080/proxy/");
            let answer = machine.does(&["get", "--raw", &path]).await;
            assert_eq!(answer.trim(), format!("Hello from {pod}"));
        }
        machine.does(&["scale", &name, &name, "--replicas=1"]).await;
        machine.until(&[&name, &name], |it| it["status"]["replicas"] == 1).await;
    }
    let described = machine.does(&["describe", "rc", "replicationcontroller"]).await;
    for words in ["Replicas:", "1 current / 1 desired", "Pods Status:", "SuccessfulCreate"] {
        assert!(described.contains(words), "{words}: {described}");
    }
    let (pod, _) = pods_of(&machine, "ReplicationController").await.remove(0);
    let described = machine.does(&["describe", "pod", &pod]).await;
    for words in ["Controlled By:", "Container ID:", "Image ID:", "Ready:", "Started container"] {
        let words = if words == "Started container" { "Container started" } else { words };
        assert!(described.contains(words), "{words}: {described}");
    }
    machine.does(&["delete", "rc", "replicationcontroller", "--timeout=60s"]).await;
    machine
        .until(&["pods", "-l", "app=ReplicationController"], |pods| {
            pods["items"].as_array().is_some_and(Vec::is_empty)
        })
        .await;
    assert_eq!(machine.stop().await, Some(0), "{}", machine.log());
}

#[tokio::test]
async fn a_pod_is_changed_looked_at_and_taken_away() {
    let mut machine = machine().await;
    let sleeps = |name: &str| {
        let mut pod = pod(
            name,
            json!({"terminationGracePeriodSeconds": 2,
            "containers": [{"name": "main", "image": BUSYBOX,
                "command": ["sleep", "10000"]}]}),
        );
        pod["metadata"]["labels"] = json!({"kind": "many"});
        pod
    };
    let mut watch = machine.starts(&[
        "get",
        "pods",
        "-w",
        "--output-watch-events",
        "-o",
        r#"jsonpath={.type} {.object.metadata.name} {.object.status.phase}{"\n"}"#,
    ]);
    for name in ["one", "two", "three"] {
        machine.apply(&sleeps(name)).await;
    }
    for name in ["one", "two", "three"] {
        machine.until(&["pod", name], is_ready).await;
    }
    let one = machine.json(&["pod", "one"]).await;
    assert_eq!(one["metadata"]["generation"], 1);
    assert_eq!(one["status"]["observedGeneration"], 1);
    // What may be changed of a pod that runs is, and is counted.
    machine.does(&["label", "pod", "one", "colour=red"]).await;
    assert_eq!(machine.json(&["pod", "one"]).await["metadata"]["generation"], 1);
    machine.does(&["set", "image", "pod/one", &format!("main={DEMO}")]).await;
    let changed = |pod: &Value| {
        pod["status"]["observedGeneration"] == 2
            && pod["status"]["containerStatuses"][0]["image"] == DEMO
    };
    let one = machine.until(&["pod", "one"], changed).await;
    assert_eq!(one["metadata"]["generation"], 2);
    assert_eq!(one["metadata"]["labels"]["colour"], "red");
    // Conditions of others stay beside the node's.
    let patch = r#"{"status": {"conditions": [{"type": "Mine", "status": "True"}]}}"#;
    machine.does(&["patch", "pod", "two", "--subresource=status", "-p", patch]).await;
    machine.does(&["exec", "two", "--", "true"]).await;
    let two = machine.until(&["pod", "two"], |pod| condition(pod, "Mine") == "True").await;
    assert_eq!(condition(&two, "Ready"), "True");
    machine.does(&["delete", "pods", "-l", "kind=many", "--timeout=60s"]).await;
    let mut gone = Vec::new();
    while gone.len() < 3 {
        let line = watch.line().await.expect("the watch goes on");
        if line.starts_with("DELETED") {
            gone.push(line.split(' ').nth(1).unwrap().to_owned());
        }
    }
    gone.sort();
    assert_eq!(gone, ["one", "three", "two"]);
    // One that ends by itself says so.
    machine.apply(&super::once("ends", json!({"name": "main", "image": BUSYBOX}), json!({}))).await;
    said(&machine, "ends").await;
    assert_eq!(machine.stop().await, Some(0), "{}", machine.log());
}
