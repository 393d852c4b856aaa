//! Tokens: made, listed, used up, taken back; and what a wrong one leads to.

use crate::support::{Cluster, Master, refused};

/// Tries to join, and says how it was refused.
async fn refusal(cluster: &Cluster, api: &str, token: &str) -> (Option<i32>, String) {
    let joiner = Master::new(cluster.root.path(), "joiner").with(["--join", api, "--token", token]);
    let answer = refused(joiner.arguments()).await;
    assert!(!joiner.directory.exists(), "something was written: {answer:?}");
    answer
}

#[tokio::test]
async fn a_bad_token_is_refused_in_one_line_and_nothing_is_written() {
    let cluster = Cluster::of_one().await;
    let master = &cluster.masters[0];
    let (api, good) = (master.api(), master.token("master").await);

    let (code, said) = refusal(&cluster, &api, &good[..good.len() - 3]).await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("cut off"), "{said}");

    let (first, secret) = good.rsplit_once('.').unwrap();
    let forged = format!("{first}.{}", secret.chars().rev().collect::<String>());
    let node = master.token("node").await;
    master.ask(&["token", "revoke", &good]).await.unwrap();
    for token in [&forged, &node, &good] {
        let (code, said) = refusal(&cluster, &api, token).await;
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("the token is not accepted"), "{said}");
    }

    // The token of another cluster: nothing is sent to whom it does not name.
    let other = Cluster::of_one().await;
    let foreign = other.masters[0].token("master").await;
    let (code, said) = refusal(&cluster, &api, &foreign).await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("no master of the cluster that the token is for"), "{said}");

    let members = master.ask_json(&["member", "list"]).await.unwrap();
    assert_eq!(members.as_array().unwrap().len(), 1, "{members}");
}

#[tokio::test]
async fn a_token_is_listed_with_what_is_left_of_it_and_ends_when_it_is_used_up() {
    let mut cluster = Cluster::of_one().await;
    let create = ["token", "create", "--role", "master", "--ttl", "2h", "--uses", "1"];
    let created = cluster.masters[0].ask_json(&create).await.unwrap();
    let token = created["token"].as_str().unwrap().to_owned();
    let listed = cluster.masters[0].ask_json(&["token", "list"]).await.unwrap();
    assert_eq!(listed[0]["uses_left"], 1, "{listed}");
    assert!(listed[0].get("token").is_none() && listed[0].get("hash").is_none(), "{listed}");
    let left = listed[0]["expires_in_s"].as_i64().unwrap();
    assert!((7000..=7200).contains(&left), "{left}");

    let api = cluster.masters[0].api();
    let joiner = Master::new(cluster.root.path(), "m2");
    let mut joiner = joiner.with(["--join", &api, "--token", &token]);
    joiner.start_ready().await;
    cluster.masters.push(joiner);
    let (code, said) = refusal(&cluster, &api, &token).await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("used up"), "{said}");
}

#[tokio::test]
async fn a_name_that_is_taken_is_refused_before_the_token_is_used_up() {
    let cluster = Cluster::of_one().await;
    let master = &cluster.masters[0];
    let create = ["token", "create", "--role", "master", "--uses", "1"];
    let token = master.ask(&create).await.unwrap().trim().to_owned();
    let elsewhere = cluster.root.path().join("elsewhere");
    let twin = Master::new(&elsewhere, "m1").with(["--join", &master.api(), "--token", &token]);
    let (code, said) = refused(twin.arguments()).await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("--name") && said.contains("member remove 1"), "{said}");
    let listed = master.ask_json(&["token", "list"]).await.unwrap();
    assert_eq!(listed[0]["uses_left"], 1, "{listed}");
}
