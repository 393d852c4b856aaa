//! Saving the store while it runs, and the ways back from a lost cluster.

use std::fs;

use crate::support::{Cluster, Master, kontiki, refused, text, wait_for};

#[tokio::test]
async fn a_saved_store_is_whole_says_what_it_holds_and_damage_is_found() {
    let cluster = Cluster::of_one().await;
    let master = &cluster.masters[0];
    master.token("node").await;
    let file = cluster.root.path().join("store.kontiki");
    let path = file.to_str().unwrap();
    let revision = |status: serde_json::Value| status["revision"].as_u64().unwrap();
    let before = revision(master.status().await.unwrap());
    let said = master.ask(&["snapshot", "save", path]).await.unwrap();
    let after = revision(master.status().await.unwrap());
    assert!(said.contains("revision"), "{said}");
    let inspect = ["snapshot", "inspect", path];
    let output = crate::support::kontiki(inspect.iter().chain(&["--output", "json"])).await;
    let contents: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    // Controllers write as well.
    let saved = contents["revision"].as_u64().unwrap();
    assert!((before..=after).contains(&saved), "{before}..={after}: {contents}");

    let error = master.ask(&["snapshot", "save", path]).await.unwrap_err();
    assert!(error.contains("there already"), "{error}");

    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).unwrap();
    let (code, said) = refused(inspect).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(path), "{said}");
}

#[tokio::test]
async fn archives_are_made_by_themselves_and_the_oldest_go() {
    let root = tempfile::tempdir().unwrap();
    let master = Master::new(root.path(), "m1");
    let mut master = master.with(["--snapshot-interval", "1s", "--snapshot-retention", "2"]);
    master.start_ready().await;
    let folder = master.directory.join("backups");
    let names = || -> Vec<String> {
        let found = fs::read_dir(&folder).into_iter().flatten();
        let mut names: Vec<String> =
            found.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name.ends_with(".kontiki"));
        names.sort();
        names
    };
    let mut seen: Vec<String> = Vec::new();
    while seen.len() < 4 {
        master.token("node").await;
        let newest = wait_for("an archive", || async {
            let newest = names().pop().filter(|name| !seen.contains(name));
            newest.ok_or_else(|| format!("{:?}\n{}", names(), master.log()))
        })
        .await;
        seen.push(newest);
    }
    wait_for("retention", || async {
        let names = names();
        if names.len() <= 2 { Ok(()) } else { Err(format!("{names:?}")) }
    })
    .await;
}

async fn ids(master: &Master) -> Vec<String> {
    let listed = master.ask_json(&["token", "list"]).await.unwrap();
    let mut ids: Vec<String> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|token| token["id"].as_str().unwrap().to_owned())
        .collect();
    ids.sort();
    ids
}

#[tokio::test]
async fn a_lost_cluster_comes_back_from_a_saved_store_and_grows_again() {
    let root = tempfile::tempdir().unwrap();
    let mut first = Master::new(root.path(), "m1").with(["--service-cidr", "10.60.0.0/16"]);
    first.start_ready().await;
    let mut cluster = Cluster { root, masters: vec![first] };
    let token = cluster.masters[0].token("master").await;
    let held = ids(&cluster.masters[0]).await;
    let before = cluster.masters[0].status().await.unwrap();
    let file = cluster.root.path().join("store.kontiki");
    cluster.masters[0].ask(&["snapshot", "save", file.to_str().unwrap()]).await.unwrap();
    cluster.masters[0].kill().await;

    let old = cluster.masters[0].directory.clone();
    let restored = Master::new(cluster.root.path(), "m1-restored");
    let target = restored.directory.to_str().unwrap().to_owned();
    let pki = old.join("pki");
    let restore = ["snapshot", "restore", file.to_str().unwrap(), "--data-dir", &target];
    let restore: Vec<&str> = restore
        .into_iter()
        .chain(["--name", "m1-restored", "--pki", pki.to_str().unwrap()])
        .collect();
    let output = kontiki(&restore).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    // A second time there is something in the way.
    let (code, said) = refused(&restore).await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("holds a master already"), "{said}");

    cluster.masters.push(restored);
    cluster.masters[1].start_ready().await;
    wait_for("its present address", || async {
        let members = cluster.masters[1].ask(&["member", "list"]).await?;
        let address = format!("127.0.0.1:{}", cluster.masters[1].port("peer"));
        if members.contains(&address) { Ok(()) } else { Err(members) }
    })
    .await;
    let after = cluster.masters[1].status().await.unwrap();
    assert_eq!(ids(&cluster.masters[1]).await, held);
    assert_eq!(after["settings"]["service_cidr"], "10.60.0.0/16");
    assert_ne!(after["cluster"], before["cluster"]);
    let revision = |status: &serde_json::Value| status["revision"].as_u64().unwrap();
    assert!(revision(&after) > revision(&before) + 1_000_000, "{after}");
    // With its CAs, its tokens are good again, too.
    let joiner = Master::new(cluster.root.path(), "m2");
    let mut joiner = joiner.with(["--join", &cluster.masters[1].api(), "--token", &token]);
    joiner.start_ready().await;
    joiner.until_voters(2).await;
    assert_eq!(ids(&joiner).await, held);
}

#[tokio::test]
async fn a_restore_that_fails_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("store.kontiki");
    fs::write(&file, "this is no archive").unwrap();
    let target = root.path().join("data");
    let (file, target_path) = (file.to_str().unwrap(), target.to_str().unwrap());
    let (code, said) = refused(["snapshot", "restore", file, "--data-dir", target_path]).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("is no snapshot of Kontiki"), "{said}");
    assert!(!target.exists());
}

#[tokio::test]
async fn when_a_quorum_is_lost_for_good_one_member_goes_on_alone_if_it_is_told_to() {
    let mut cluster = Cluster::of(3).await;
    let created = cluster.masters[0].ask_json(&["token", "create"]).await.unwrap();
    let id = created["id"].as_str().unwrap().to_owned();
    for master in &cluster.masters {
        master.until_voters(3).await;
    }
    wait_for("the write on the one that will be left", || async {
        if ids(&cluster.masters[2]).await.contains(&id) { Ok(()) } else { Err("not yet".into()) }
    })
    .await;
    for master in &mut cluster.masters {
        master.kill().await;
    }
    let directory = cluster.masters[2].directory.to_str().unwrap().to_owned();
    let recover = ["member", "recover", "--data-dir", &directory];
    let (code, said) = refused(recover).await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("--accept-loss"), "{said}");
    let output = kontiki(recover.into_iter().chain(["--accept-loss"])).await;
    assert!(output.status.success(), "{}", text(&output.stderr));

    cluster.masters[2].start_ready().await;
    cluster.masters[2].until_voters(1).await;
    assert!(ids(&cluster.masters[2]).await.contains(&id));
    let fresh = cluster.join("m4", 2).await;
    cluster.masters[fresh].until_voters(2).await;
    // The lost ones may have given ids that the one that is left never heard of.
    let id = cluster.masters[fresh].status().await.unwrap()["id"].as_str().unwrap().to_owned();
    assert!(u64::from_str_radix(&id, 16).unwrap() > 1000, "{id}");
    let next = cluster.join("m5", fresh).await;
    let next = cluster.masters[next].status().await.unwrap()["id"].as_str().unwrap().to_owned();
    assert_ne!(next, id);
}
