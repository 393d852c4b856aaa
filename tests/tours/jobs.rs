//! Jobs that end well or badly, wait, count, and come again.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::bed::{Tour, is_true, merge, name, template};

fn job(name: &str, orders: Value, more: Value) -> Value {
    let mut template = template(name, "work:1", orders);
    template["spec"]["restartPolicy"] = "Never".into();
    let mut job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
        "spec": {"template": template}});
    merge(&mut job["spec"], more);
    job
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_complete_fail_wait_and_count_their_indexes() {
    let tour = Tour::with_nodes(2).await;
    let spec = json!({"completions": 4, "parallelism": 2});
    let witness = tour
        .witness(|pods| {
            let active = pods.iter().filter(|pod| {
                let phase = pod["status"]["phase"].as_str().unwrap_or_default();
                !matches!(phase, "Succeeded" | "Failed")
            });
            let active = active.count();
            (active > 2).then(|| format!("{active} at once"))
        })
        .await;
    tour.kubectl.apply(&job("sum", json!({"does": "succeed", "after": "100ms"}), spec)).await;
    tour.run("wait --for=condition=complete job/sum --timeout=60s").await;
    witness.end();
    let done = tour.get::<Job>("sum").await.unwrap();
    assert_eq!(done["status"]["succeeded"], 4);
    assert!(tour.run("get job sum").await.contains("4/4"));

    tour.kubectl.apply(&job("bad", json!({"does": "fail"}), json!({"backoffLimit": 0}))).await;
    tour.run("wait --for=condition=failed job/bad --timeout=60s").await;
    let described = tour.run("describe job/bad").await;
    assert!(described.contains("BackoffLimitExceeded"), "{described}");

    let spec = json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed",
        "suspend": true});
    tour.kubectl.apply(&job("parts", json!({"does": "succeed"}), spec)).await;
    tour.run("wait --for=condition=suspended job/parts --timeout=60s").await;
    assert!(tour.list::<Pod>("app=parts").await.is_empty());
    tour.run("patch job parts -p {\"spec\":{\"suspend\":false}}").await;
    tour.run("wait --for=condition=complete job/parts --timeout=60s").await;
    let done = tour.get::<Job>("parts").await.unwrap();
    assert_eq!(done["status"]["completedIndexes"], "0-2");

    tour.run("delete job sum bad parts").await;
    tour.until_all::<Pod>("", <[_]>::is_empty).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cron_job_starts_when_it_is_due_by_hand_and_not_while_it_is_suspended() {
    let tour = Tour::with_nodes(1).await;
    let spec = job("report", json!({"does": "succeed"}), json!({}))["spec"].clone();
    let cron = json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "report"},
        "spec": {"schedule": "0 * * * *", "suspend": true, "successfulJobsHistoryLimit": 1,
            "jobTemplate": {"spec": spec}}});
    tour.kubectl.apply(&cron).await;
    tour.run("create job by-hand --from=cronjob/report").await;
    tour.run("wait --for=condition=complete job/by-hand --timeout=60s").await;
    // As if it had not run for hours: due at once, once for all that was missed.
    let due = json!({"status": {"lastScheduleTime": "2020-01-01T00:00:00Z"}});
    tour.run(&format!("patch cronjob report --subresource=status --type=merge -p {due}")).await;
    tour.run("patch cronjob report -p {\"spec\":{\"suspend\":false}}").await;
    let scheduled = |jobs: &[Value]| {
        jobs.iter().filter(|it| name(it).starts_with("report-")).any(|it| is_true(it, "Complete"))
    };
    let jobs = tour.until_all::<Job>("", scheduled).await;
    assert_eq!(jobs.iter().filter(|it| name(it).starts_with("report-")).count(), 1, "{jobs:?}");
    let described = tour.run("describe cronjob/report").await;
    assert!(described.contains("SuccessfulCreate"), "{described}");
}
