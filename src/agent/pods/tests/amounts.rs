//! What a node has room for: pods that do not fit, and amounts that change while a pod runs. On a runtime of
//! plain values.

use std::sync::Arc;

use kontiki_api::object::time::{Clock, Timestamp};
use serde_json::{Value, json};

use super::{Stage, condition, phase};
use crate::agent::cri::fake::Fake;

fn stage() -> (Arc<Fake>, Stage, Clock) {
    let fake = Arc::new(Fake::default());
    let clock = Clock::set_at(Timestamp::from_seconds(1_700_000_000));
    let stage = Stage::new(fake.clone(), clock.clone());
    stage.has(json!({"cpu": "2", "memory": "1Gi", "pods": "10"}));
    (fake, stage, clock)
}

fn running(pod: &Value) -> bool {
    condition(pod, "Ready") == "True"
}

fn with(more: Value) -> Value {
    let mut container = json!({"name": "main", "image": "image:1"});
    container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"containers": [container]})
}

fn asking(cpu: &str, memory: &str) -> Value {
    let amounts = json!({"cpu": cpu, "memory": memory});
    json!({"resources": {"requests": amounts, "limits": amounts}})
}

/// With the first container's amounts changed to these.
fn resized(pod: &Value, amounts: Value) -> Value {
    let mut spec = pod["spec"].clone();
    spec["containers"][0]["resources"] = amounts["resources"].clone();
    spec
}

fn main(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_does_not_fit_is_refused_and_leaves_the_others_alone() {
    let (fake, stage, _) = stage();
    let port = || with(json!({"ports": [{"containerPort": 80, "hostPort": 80}]}));
    stage.put("first", port());
    stage.until("first", running).await;
    fake.told();
    stage.put("second", port());
    let second = stage.until("second", |pod| phase(pod) == "Failed").await;
    let status = &second["status"];
    assert_eq!(status["reason"], "NodePorts");
    assert_eq!(
        status["message"],
        "Pod was rejected: Predicate NodePorts failed: node(s) didn't have free ports for the \
         requested pod ports"
    );
    assert!(status["containerStatuses"].is_null(), "{status:#}");
    stage.put("large", with(asking("3", "1Mi")));
    let large = stage.until("large", |pod| phase(pod) == "Failed").await;
    assert_eq!(large["status"]["reason"], "OutOfcpu");
    assert_eq!(fake.told(), [""; 0], "nothing of them has run");
    stage.delete("second", 30);
    stage.until_gone("second").await;

    // Who comes when the port is free again gets it.
    stage.delete("first", 1);
    stage.until_gone("first").await;
    stage.put("third", port());
    stage.until("third", running).await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_has_ended_takes_no_room() {
    let (fake, stage, _) = stage();
    let mut once = with(asking("1500m", "1Mi"));
    once["restartPolicy"] = "Never".into();
    stage.put("one", once.clone());
    stage.until("one", running).await;
    fake.exit("main", 0);
    stage.until("one", |pod| phase(pod) == "Succeeded").await;
    stage.put("two", once);
    stage.until("two", running).await;
}

#[tokio::test(start_paused = true)]
async fn a_container_says_what_it_was_given_and_gets_other_amounts_without_an_end() {
    let (fake, stage, _) = stage();
    stage.put("web", with(asking("100m", "64Mi")));
    let pod = stage.until("web", running).await;
    assert_eq!(main(&pod)["allocatedResources"], json!({"cpu": "100m", "memory": "64Mi"}));
    assert_eq!(main(&pod)["resources"], asking("100m", "64Mi")["resources"]);
    assert_eq!(pod["status"]["allocatedResources"], json!({"cpu": "100m", "memory": "64Mi"}));
    fake.told();
    stage.change("web", resized(&pod, asking("200m", "128Mi")));
    let done = |pod: &Value| {
        main(pod)["resources"] == asking("200m", "128Mi")["resources"]
            && condition(pod, "PodResizeInProgress").is_empty()
    };
    let pod = stage.until("web", done).await;
    assert_eq!(main(&pod)["allocatedResources"], json!({"cpu": "200m", "memory": "128Mi"}));
    assert_eq!(main(&pod)["restartCount"], 0);
    assert_eq!(fake.told(), ["update main"]);
    let told = fake.config("main").unwrap().linux.unwrap().resources.unwrap();
    assert_eq!((told.cpu_quota, told.memory_limit_in_bytes), (20_000, 128 << 20));

    // The same amounts in other words are no change.
    stage.change("web", resized(&pod, asking("0.2", "131072Ki")));
    stage.put("other", with(json!({})));
    stage.until("other", running).await;
    assert!(!fake.told().contains(&"update main".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn amounts_that_do_not_fit_wait_until_somebody_has_left() {
    let (fake, stage, _) = stage();
    stage.put("web", with(asking("1", "64Mi")));
    stage.put("other", with(asking("1", "64Mi")));
    let pod = stage.until("web", running).await;
    stage.until("other", running).await;
    stage.change("web", resized(&pod, asking("1500m", "64Mi")));
    let pod = stage.until("web", |pod| condition(pod, "PodResizePending") == "True").await;
    let all = pod["status"]["conditions"].as_array().unwrap();
    let pending = all.iter().find(|it| it["type"] == "PodResizePending").unwrap();
    assert_eq!(pending["reason"], "Deferred");
    assert_eq!(
        pending["message"],
        "Node didn't have enough resource: cpu, requested: 1500, used: 1000, capacity: 2000"
    );
    assert_eq!(main(&pod)["resources"]["limits"]["cpu"], "1", "it has what it had");
    stage.delete("other", 1);
    stage.until_gone("other").await;
    let pod = stage.until("web", |pod| main(pod)["resources"]["limits"]["cpu"] == "1500m").await;
    assert_eq!(condition(&pod, "PodResizePending"), "");
    assert!(fake.told().contains(&"update main".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_container_that_wants_to_begin_anew_with_other_amounts_does_even_if_it_ends_well() {
    let (fake, stage, _) = stage();
    let mut spec = with(asking("100m", "64Mi"));
    spec["restartPolicy"] = "OnFailure".into();
    spec["containers"][0]["resizePolicy"] =
        json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    stage.put("web", spec);
    let pod = stage.until("web", running).await;
    fake.told();
    stage.change("web", resized(&pod, asking("200m", "64Mi")));
    let pod = stage.until("web", |pod| main(pod)["resources"]["limits"]["cpu"] == "200m").await;
    assert_eq!(fake.told(), ["update main"], "of that it did not speak");
    stage.change("web", resized(&pod, asking("200m", "128Mi")));
    let again = |pod: &Value| main(pod)["restartCount"] == 1 && running(pod);
    let pod = stage.until("web", again).await;
    assert_eq!(main(&pod)["resources"]["limits"]["memory"], "128Mi");
    assert_eq!(fake.told(), ["stop main", "start main/1"]);
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_refuses_is_told_again_and_the_pod_says_so() {
    let (fake, stage, clock) = stage();
    stage.put("web", with(asking("100m", "64Mi")));
    let pod = stage.until("web", running).await;
    fake.be_stubborn(true);
    stage.change("web", resized(&pod, asking("200m", "64Mi")));
    let failed = |pod: &Value| {
        let all = pod["status"]["conditions"].as_array().unwrap();
        all.iter().any(|it| it["type"] == "PodResizeInProgress" && it["reason"] == "Error")
    };
    let pod = stage.until("web", failed).await;
    assert_eq!(main(&pod)["allocatedResources"]["cpu"], "200m");
    assert_eq!(main(&pod)["resources"]["limits"]["cpu"], "100m", "as it really is");
    fake.be_stubborn(false);
    clock.advance_seconds(60);
    let pod = stage.until("web", |pod| main(pod)["resources"]["limits"]["cpu"] == "200m").await;
    assert!(!failed(&pod));
}

#[tokio::test(start_paused = true)]
async fn what_a_pod_was_given_outlives_the_agent() {
    let (fake, stage, clock) = stage();
    stage.put("web", with(asking("1", "64Mi")));
    stage.put("other", with(asking("1", "64Mi")));
    stage.until("web", running).await;
    let other = stage.until("other", running).await;
    // Asked for while there is no room; the agent that comes next knows what it has.
    stage.change("other", resized(&other, asking("2", "64Mi")));
    stage.until("other", |pod| condition(pod, "PodResizePending") == "True").await;
    let pods = stage.pods();
    let folder = stage.ends();
    fake.told();
    let stage = Stage::in_folder(folder, fake.clone(), clock, pods);
    stage.has(json!({"cpu": "2", "memory": "1Gi", "pods": "10"}));
    stage.put("late", with(asking("1", "64Mi")));
    let late = stage.until("late", |pod| phase(pod) == "Failed").await;
    assert_eq!(late["status"]["reason"], "OutOfcpu");
    let other = stage.pod("other").unwrap();
    assert_eq!(main(&other)["resources"]["limits"]["cpu"], "1");
    assert_eq!(fake.told(), [""; 0], "nobody was begun anew or changed");
}

#[tokio::test(start_paused = true)]
async fn for_a_critical_pod_another_one_is_ended_and_leaves_before_it_begins() {
    let (fake, stage, _) = stage();
    stage.put("small", with(asking("500m", "64Mi")));
    stage.put("large", with(asking("1500m", "64Mi")));
    stage.until("small", running).await;
    stage.until("large", running).await;
    fake.told();
    let mut critical = with(asking("1", "64Mi"));
    critical["priority"] = 2_000_000_000.into();
    stage.put("critical", critical);
    let large = stage.until("large", |pod| phase(pod) == "Failed").await;
    let status = &large["status"];
    assert_eq!(status["reason"], "Preempting");
    assert_eq!(status["message"], "Preempted in order to admit critical pod");
    let conditions = status["conditions"].as_array().unwrap();
    let disruption = conditions.iter().find(|it| it["type"] == "DisruptionTarget").unwrap();
    assert_eq!(disruption["status"], "True");
    assert_eq!(disruption["reason"], "TerminationByKubelet");
    stage.until("critical", running).await;
    let told = fake.told();
    let at = |what: &str| told.iter().position(|it| it == what);
    assert!(at("stop main") < at("run sandbox"), "{told:?}");
    assert!(at("stop main").is_some(), "{told:?}");
    assert!(running(&stage.pod("small").unwrap()), "one was enough");

    // The one that was ended stays ended, and goes as any other.
    stage.delete("large", 1);
    stage.until_gone("large").await;

    // Where it would not be enough nobody ends.
    let mut other = with(asking("1100m", "64Mi"));
    other["priority"] = 2_000_000_000.into();
    stage.put("other", other);
    let other = stage.until("other", |pod| phase(pod) == "Failed").await;
    assert_eq!(other["status"]["reason"], "UnexpectedAdmissionError", "a critical pod stays");
    assert!(running(&stage.pod("small").unwrap()), "it would not have been enough");
}
