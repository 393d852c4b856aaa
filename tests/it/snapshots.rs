//! Saving the store while it runs.

use std::fs;

use crate::support::{Cluster, Master, refused, wait_for};

#[tokio::test]
async fn a_saved_store_is_whole_says_what_it_holds_and_damage_is_found() {
    let cluster = Cluster::of_one().await;
    let master = &cluster.masters[0];
    master.token("node").await;
    let file = cluster.root.path().join("store.kontiki");
    let path = file.to_str().unwrap();
    let said = master.ask(&["snapshot", "save", path]).await.unwrap();
    assert!(said.contains("revision"), "{said}");
    let inspect = ["snapshot", "inspect", path];
    let output = crate::support::kontiki(inspect.iter().chain(&["--output", "json"])).await;
    let contents: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let revision = master.status().await.unwrap()["revision"].clone();
    assert_eq!(contents["revision"], revision, "{contents}");

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
