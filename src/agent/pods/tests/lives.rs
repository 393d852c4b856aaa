//! Lives of pods on a runtime of plain values.

use std::sync::Arc;

use kontiki_api::object::time::{Clock, Timestamp};
use serde_json::{Value, json};

use super::{Stage, condition, phase};
use crate::agent::cri::fake::Fake;
use crate::agent::cri::v1::NamespaceMode;

fn stage() -> (Arc<Fake>, Stage, Clock) {
    let fake = Arc::new(Fake::default());
    let clock = Clock::set_at(Timestamp::from_seconds(1_700_000_000));
    let stage = Stage::new(fake.clone(), clock.clone());
    (fake, stage, clock)
}

fn container(name: &str) -> Value {
    json!({"name": name, "image": "image:1"})
}

fn running(pod: &Value) -> bool {
    condition(pod, "Ready") == "True"
}

fn waits_for(pod: &Value, reason: &str) -> bool {
    pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == reason
}

#[tokio::test(start_paused = true)]
async fn a_pod_runs_is_told_of_and_goes() {
    let (fake, stage, _) = stage();
    stage.put("web", json!({"containers": [container("one"), container("two")]}));
    let pod = stage.until("web", running).await;
    assert_eq!(phase(&pod), "Running");
    assert_eq!(fake.told(), ["run sandbox", "start one/0", "start two/0"]);
    let status = &pod["status"];
    assert_eq!(status["podIP"], "10.0.0.9");
    assert_eq!(status["hostIP"], "192.0.2.7");
    assert_eq!(status["qosClass"], "BestEffort");
    assert_eq!(status["containerStatuses"][0]["containerID"], "fake://container-002");
    assert_eq!(condition(&pod, "PodReadyToStartContainers"), "True");
    stage.delete("web", 5);
    stage.until_gone("web").await;
    assert!(fake.is_empty());
    assert!(!stage.folder.path().join("pods/uid-web").exists());
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_services_lead_to_is_stopped_when_they_have_let_go_of_it() {
    let (fake, stage, _) = stage();
    let hook = json!({"preStop": {"sleep": {"seconds": 1}}});
    let mut main = container("one");
    main["lifecycle"] = hook;
    stage.put("web", json!({"containers": [main]}));
    stage.until("web", running).await;
    fake.told();
    stage.served.send_replace(["10.0.0.9".parse().unwrap()].into());
    stage.delete("web", 30);
    // The clock of this test stands still as long as anybody has work to do.
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(fake.told(), [""; 0], "its hook is over, and it is still led to");
    stage.served.send_replace([].into());
    stage.until_gone("web").await;
    assert_eq!(fake.told()[0], "stop one");

    // Who is in a hurry is not held up, nor is anybody for ever.
    for (name, grace_s) in [("soon", 1), ("later", 30)] {
        stage.put(name, json!({"containers": [container("one")]}));
        stage.until(name, running).await;
        stage.served.send_replace(["10.0.0.9".parse().unwrap()].into());
        stage.delete(name, grace_s);
        stage.until_gone(name).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_container_that_is_added_to_look_around_runs_once_beside_its_target() {
    let (fake, stage, _) = stage();
    stage.put("web", json!({"containers": [container("main")]}));
    let pod = stage.until("web", running).await;
    fake.told();
    let mut looking = container("looking");
    looking["targetContainerName"] = "main".into();
    let mut spec = pod["spec"].clone();
    spec["ephemeralContainers"] = json!([looking]);
    stage.change("web", spec);
    let shown = |state: &'static str| {
        move |pod: &Value| {
            let status = &pod["status"]["ephemeralContainerStatuses"][0];
            status["name"] == "looking" && status["state"][state].is_object()
        }
    };
    let pod = stage.until("web", shown("running")).await;
    assert_eq!(pod["status"]["containerStatuses"].as_array().unwrap().len(), 1);
    assert_eq!(fake.told(), ["start looking/0"]);
    let security = fake.config("looking").unwrap().linux.unwrap().security_context.unwrap();
    let namespaces = security.namespace_options.unwrap();
    assert_eq!(namespaces.pid(), NamespaceMode::Target);
    let main = pod["status"]["containerStatuses"][0]["containerID"].as_str().unwrap();
    assert_eq!(format!("fake://{}", namespaces.target_id), main);
    fake.exit("looking", 1);
    let pod = stage.until("web", shown("terminated")).await;
    assert!(running(&pod), "the pod goes on");
    assert_eq!(fake.told(), [""; 0], "and it is not started again");
    stage.delete("web", 5);
    stage.until_gone("web").await;
    assert!(fake.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_container_whose_image_is_changed_is_begun_anew_with_it() {
    let (fake, stage, _) = stage();
    stage.put("web", json!({"containers": [container("one")]}));
    let pod = stage.until("web", running).await;
    fake.told();
    let mut spec = pod["spec"].clone();
    spec["containers"][0]["image"] = "image:2".into();
    stage.change("web", spec);
    let restarted =
        |pod: &Value| running(pod) && pod["status"]["containerStatuses"][0]["restartCount"] == 1;
    stage.until("web", restarted).await;
    assert_eq!(fake.told(), ["stop one", "start one/1"]);
}

#[tokio::test(start_paused = true)]
async fn init_containers_run_in_order_and_sidecars_stay() {
    let (fake, stage, _) = stage();
    stage.put(
        "web",
        json!({
            "restartPolicy": "Never",
            "initContainers": [
                container("first"),
                {"name": "side", "image": "image:1", "restartPolicy": "Always"},
                container("second"),
            ],
            "containers": [container("main")],
        }),
    );
    let begun = |name: &'static str, at: usize| {
        move |pod: &Value| {
            let status = &pod["status"]["initContainerStatuses"][at];
            status["name"] == name && status["state"]["running"].is_object()
        }
    };
    let pod = stage.until("web", begun("first", 0)).await;
    assert_eq!((phase(&pod), condition(&pod, "Initialized")), ("Pending", "False"));
    assert_eq!(fake.told(), ["run sandbox", "start first/0"]);
    fake.exit("first", 0);
    stage.until("web", begun("second", 2)).await;
    assert_eq!(fake.told(), ["start side/0", "start second/0"]);
    fake.exit("second", 0);
    let pod = stage.until("web", running).await;
    assert_eq!(condition(&pod, "Initialized"), "True");
    assert_eq!(fake.told(), ["start main/0"]);
    fake.exit("main", 0);
    let pod = stage.until("web", |pod| phase(pod) == "Succeeded").await;
    assert_eq!(pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"], 0);
    assert_eq!(fake.told(), ["stop side", "stop sandbox"]);
}

#[tokio::test(start_paused = true)]
async fn a_container_that_crashes_comes_back_later_each_time() {
    let (fake, stage, clock) = stage();
    stage.put("web", json!({"containers": [container("one")]}));
    stage.until("web", running).await;
    // The fake's containers end at its own time, which is that of the clock.
    fake.exit("one", 3);
    let restarts = |count: i64| {
        move |pod: &Value| {
            running(pod) && pod["status"]["containerStatuses"][0]["restartCount"] == count
        }
    };
    let pod = stage.until("web", restarts(1)).await;
    let last = &pod["status"]["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!((&last["exitCode"], &last["reason"]), (&json!(3), &json!("Error")));
    fake.exit("one", 3);
    let pod = stage.until("web", |pod| waits_for(pod, "CrashLoopBackOff")).await;
    let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
    assert!(waiting["message"].as_str().unwrap().contains("back-off 10s"), "{waiting}");
    assert_eq!(phase(&pod), "Running");
    clock.advance_seconds(11);
    stage.until("web", restarts(2)).await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_fails_for_good_is_not_started_again() {
    let (fake, stage, _) = stage();
    stage.put("job", json!({"restartPolicy": "Never", "containers": [container("one")]}));
    stage.until("job", running).await;
    fake.exit("one", 1);
    let pod = stage.until("job", |pod| phase(pod) == "Failed").await;
    assert_eq!(condition(&pod, "Ready"), "False");
    assert_eq!(fake.told(), ["run sandbox", "start one/0", "stop sandbox"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_missing_is_said_in_the_status() {
    let (fake, stage, _) = stage();
    let mut one = container("one");
    one["env"] = json!([
        {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "absent", "key": "k"}}},
    ]);
    stage.put("config", json!({"containers": [one]}));
    let pod = stage.until("config", |pod| waits_for(pod, "CreateContainerConfigError")).await;
    assert!(
        pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"]
            .as_str()
            .unwrap()
            .contains("absent")
    );
    fake.without_image("docker.io/library/image:1");
    stage.put("image", json!({"containers": [container("one")]}));
    stage.until("image", |pod| waits_for(pod, "ErrImagePull")).await;
    let mut never = container("one");
    never["imagePullPolicy"] = "Never".into();
    stage.put("never", json!({"containers": [never]}));
    stage.until("never", |pod| waits_for(pod, "ErrImageNeverPull")).await;
}

#[tokio::test(start_paused = true)]
async fn an_image_that_cannot_be_pulled_is_tried_less_and_less_often() {
    let (fake, stage, clock) = stage();
    fake.without_image("docker.io/library/image:1");
    stage.put("image", json!({"containers": [container("one")]}));
    stage.until("image", |pod| waits_for(pod, "ErrImagePull")).await;
    clock.advance_seconds(2);
    stage.until("image", |pod| waits_for(pod, "ImagePullBackOff")).await;
    let pulls = |told: Vec<String>| told.iter().filter(|it| it.starts_with("pull")).count();
    assert_eq!(pulls(fake.told()), 1);
    clock.advance_seconds(10);
    stage.until("image", |pod| waits_for(pod, "ErrImagePull")).await;
    assert_eq!(pulls(fake.told()), 1);
}

#[tokio::test(start_paused = true)]
async fn a_container_sees_its_environment_and_its_volumes() {
    let (fake, stage, _) = stage();
    let mut one = container("one");
    one["command"] = json!(["run", "$(GREETING)", "$$(GREETING)"]);
    one["env"] = json!([
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "HIDDEN", "valueFrom": {"secretKeyRef": {"name": "secret", "key": "key"}}},
        {"name": "GREETING", "value": "from $(NODE)"},
        {"name": "CORES", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
    ]);
    one["envFrom"] = json!([{"prefix": "M_", "configMapRef": {"name": "map"}}]);
    one["resources"] =
        json!({"limits": {"cpu": "1500m", "memory": "64Mi"}, "requests": {"cpu": "500m"}});
    one["volumeMounts"] = json!([
        {"name": "all", "mountPath": "/all", "readOnly": true},
        {"name": "scratch", "mountPath": "/scratch", "subPath": "below"},
    ]);
    let sources = json!([
        {"configMap": {"name": "map", "items": [{"key": "key", "path": "a/b"}]}},
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
        {"downwardAPI": {"items": [
            {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
        ]}},
    ]);
    stage.put(
        "web",
        json!({
            "serviceAccountName": "me",
            "containers": [one],
            "volumes": [
                {"name": "all", "projected": {"sources": sources}},
                {"name": "scratch", "emptyDir": {}},
            ],
        }),
    );
    stage.until("web", running).await;
    let config = fake.config("one").unwrap();
    let variable = |name: &str| {
        config.envs.iter().find(|it| it.key == name).map(|it| it.value.clone()).unwrap_or_default()
    };
    for (name, value) in [
        ("NODE", "node"),
        ("IP", "10.0.0.9"),
        ("HIDDEN", "hidden"),
        ("GREETING", "from node"),
        ("CORES", "2"),
        ("M_key", "value"),
        ("KUBERNETES_SERVICE_HOST", "10.43.0.1"),
        ("KUBERNETES_SERVICE_PORT_HTTPS", "443"),
    ] {
        assert_eq!(variable(name), value, "{name}");
    }
    assert_eq!(config.command, ["run", "from node", "$(GREETING)"]);
    let mount = |path: &str| {
        let found = config.mounts.iter().find(|it| it.container_path == path).unwrap();
        (std::path::PathBuf::from(&found.host_path), found.readonly)
    };
    let (all, read_only) = mount("/all");
    assert!(read_only);
    let read = |path: &str| std::fs::read_to_string(all.join(path)).unwrap();
    assert_eq!(
        (read("a/b"), read("token"), read("labels")),
        ("value".into(), "token of me".into(), "app=\"web\"".into())
    );
    assert!(mount("/scratch").0.ends_with("scratch/below"));
    let (hosts, _) = mount("/etc/hosts");
    assert!(std::fs::read_to_string(hosts).unwrap().contains("10.0.0.9\tweb"));
    let linux = config.linux.unwrap().resources.unwrap();
    assert_eq!(
        (linux.cpu_shares, linux.cpu_quota, linux.memory_limit_in_bytes),
        (512, 150_000, 64 << 20)
    );
}

#[tokio::test(start_paused = true)]
async fn probes_decide_about_readiness_and_life() {
    let (fake, stage, _) = stage();
    let probe = |command: &str| json!({"exec": {"command": [command]}, "failureThreshold": 1});
    let mut one = container("one");
    one["readinessProbe"] = probe("ready");
    one["livenessProbe"] = probe("alive");
    fake.answer_exec("ready", 1);
    stage.put("web", json!({"containers": [one]}));
    let begun = |pod: &Value| pod["status"]["containerStatuses"][0]["started"] == true;
    let pod = stage.until("web", begun).await;
    assert!(!running(&pod));
    fake.answer_exec("ready", 0);
    stage.until("web", running).await;
    fake.answer_exec("alive", 1);
    let again = |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"] == 1;
    stage.until("web", again).await;
    assert!(fake.told().contains(&"stop one".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_new_agent_takes_over_what_runs_and_clears_what_nobody_knows() {
    let (fake, stage, clock) = stage();
    stage.put("stays", json!({"containers": [container("one")]}));
    stage.put("goes", json!({"containers": [container("two")]}));
    let stays = stage.until("stays", running).await;
    stage.until("goes", running).await;
    let Stage { folder, .. } = stage;
    fake.told();
    let stage = Stage::in_folder(folder, fake.clone(), clock, vec![super::object(stays)]);
    // What is left is what runs in the runtime; it is told to the test by a stop.
    let gone = async {
        while !fake.told().contains(&"stop two".to_owned()) {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(super::PATIENCE, gone).await.unwrap();
    let pod = stage.until("stays", running).await;
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_takes_too_long_is_ended() {
    let (_, stage, clock) = stage();
    stage.put("slow", json!({"activeDeadlineSeconds": 30, "containers": [container("one")]}));
    stage.until("slow", running).await;
    clock.advance_seconds(31);
    let pod = stage.until("slow", |pod| phase(pod) == "Failed").await;
    assert_eq!(pod["status"]["reason"], "DeadlineExceeded");
}
