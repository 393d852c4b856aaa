//! What people write into a status by its own endpoint: it is kept beside what controllers write there, and
//! nothing else of the object can be changed that way.

use serde_json::{Value, json};

use crate::bed::{Tour, merge, template, workload};
use crate::support::wait_for;

#[tokio::test(flavor = "multi_thread")]
async fn conditions_written_by_hand_stay_and_specs_are_out_of_reach() {
    let tour = Tour::with_nodes(1).await;
    let made = |kind: &str, more: Value| {
        workload(
            kind,
            &kind.to_lowercase(),
            &template(&kind.to_lowercase(), "i:1", json!({})),
            more,
        )
    };
    tour.kubectl.apply(&made("ReplicaSet", json!({"replicas": 1}))).await;
    tour.kubectl.apply(&made("Deployment", json!({"replicas": 1}))).await;
    tour.kubectl.apply(&made("StatefulSet", json!({"replicas": 1, "serviceName": "s"}))).await;
    tour.kubectl.apply(&made("DaemonSet", json!({}))).await;
    let mut job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job"},
        "spec": {"template": template("job", "i:1", json!({}))}});
    merge(&mut job["spec"]["template"]["spec"], json!({"restartPolicy": "Never"}));
    tour.kubectl.apply(&job).await;
    for app in ["replicaset", "deployment", "statefulset", "daemonset", "job"] {
        tour.until_ready(&format!("app={app}"), 1).await;
        let patch = json!({
            "metadata": {"annotations": {"by": "hand"}},
            "spec": {"template": {"spec": {"hostNetwork": true}}},
            "status": {"conditions": [{"type": "ByHand", "status": "True"}]},
        });
        let line = format!("patch {app} {app} --subresource=status --type=strategic -p {patch}");
        tour.run(&line).await;
        // It is there still when the controller has written after it.
        let line = format!("label {app} {app} seen=yes");
        tour.run(&line).await;
        wait_for("a status", || async {
            let shown = tour.run(&format!("get {app} {app} -o json --subresource=status")).await;
            let shown: Value = serde_json::from_str(&shown).map_err(|error| error.to_string())?;
            assert_ne!(shown["spec"]["template"]["spec"]["hostNetwork"], true, "{shown:#}");
            let kept = shown["status"]["conditions"].to_string().contains("ByHand");
            if kept { Ok(()) } else { Err(format!("{shown:#}")) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_that_is_reckoned_comes_back_whatever_is_written_there() {
    let tour = Tour::with_nodes(1).await;
    tour.run("create quota q --hard=pods=5").await;
    tour.run("create poddisruptionbudget b --selector=app=none --min-available=1").await;
    let wrong = json!({"status": {"hard": {"pods": "99"}, "used": {"pods": "42"}}});
    tour.run(&format!("patch quota q --subresource=status --type=merge -p {wrong}")).await;
    // It is counted anew when something is gone, and now and then.
    tour.run("create configmap passing").await;
    tour.run("delete configmap passing").await;
    let wrong = json!({"status": {"expectedPods": 42}});
    tour.run(&format!("patch pdb b --subresource=status --type=merge -p {wrong}")).await;
    wait_for("what is true", || async {
        let quota =
            tour.run("get quota q -o jsonpath={.status.hard.pods}/{.status.used.pods}").await;
        let budget = tour.run("get pdb b -o jsonpath={.status.expectedPods}").await;
        let well = quota == "5/0" && budget == "0";
        if well { Ok(()) } else { Err(format!("{quota} {budget}")) }
    })
    .await;
}
