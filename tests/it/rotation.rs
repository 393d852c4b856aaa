//! New CAs for a cluster that goes on all the while.

use crate::support::https::{Client, get};
use crate::support::{Cluster, kontiki, refused, text};

/// Does a step for every master and restarts it, one after the other.
async fn step(cluster: &mut Cluster, words: &[&str]) {
    for at in 0..cluster.masters.len() {
        let directory = cluster.masters[at].directory.display().to_string();
        let said = kontiki(words.iter().copied().chain(["--data-dir", &directory])).await;
        assert!(said.status.success(), "{words:?}: {}", text(&said.stderr));
        assert_eq!(cluster.masters[at].stop().await, Some(0), "{}", cluster.masters[at].log());
        cluster.masters[at].start_ready().await;
        cluster.masters[at].until_voters(cluster.masters.len()).await;
        // Across certificates that two CAs have signed.
        for master in &cluster.masters {
            master.ask(&["token", "create"]).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_cluster_changes_its_cas_step_by_step_and_serves_meanwhile() {
    let mut cluster = Cluster::of(2).await;
    let folder = cluster.root.path().join("new");
    let new = folder.display().to_string();
    let made = kontiki(["ca", "new", &new]).await;
    assert!(made.status.success(), "{}", text(&made.stderr));
    let (code, said) = refused(["ca", "new", &new]).await;
    assert!(code == Some(1) && said.contains("there already"), "{said}");

    // What does not believe it yet must not sign by it.
    let directory = cluster.masters[0].directory.display().to_string();
    let (_, said) = refused(["ca", "use", &new, "--data-dir", &directory]).await;
    assert!(said.contains("kontiki ca trust"), "{said}");

    let pki = |at: usize, file: &str| cluster.masters[at].directory.join("pki").join(file);
    let old = pki(0, "cluster/ca.crt");
    let kept = cluster.root.path().join("old.crt");
    std::fs::copy(&old, &kept).unwrap();
    let (before, store) = (Client::trusting(&kept), cluster.root.path().join("old-store"));
    std::fs::create_dir(&store).unwrap();
    for file in ["ca.crt", "client.crt", "client.key"] {
        std::fs::copy(pki(0, &format!("store/{file}")), store.join(file)).unwrap();
    }

    step(&mut cluster, &["ca", "trust", &new]).await;
    assert!(get(cluster.masters[0].port("api"), "/readyz", &before).await.is_ok());
    step(&mut cluster, &["ca", "use", &new]).await;
    let after = Client::trusting(&folder.join("cluster/ca.crt"));
    let old_client = |ca: &std::path::Path| {
        Client::showing(ca, &store.join("client.crt"), &store.join("client.key"))
    };
    let bundle = cluster.masters[0].directory.join("pki/store/ca.crt");
    for master in &cluster.masters {
        assert!(get(master.port("api"), "/readyz", &after).await.is_ok());
        assert!(get(master.port("api"), "/readyz", &before).await.is_err());
        // Who shows a certificate of before is still let in.
        assert!(get(master.port("store"), "/version", &old_client(&bundle)).await.is_ok());
    }

    step(&mut cluster, &["ca", "forget"]).await;
    for master in &cluster.masters {
        assert!(get(master.port("store"), "/version", &old_client(&bundle)).await.is_err());
    }
    let joined = cluster.join("m3", 1).await;
    cluster.masters[joined].until_voters(3).await;
}

#[tokio::test]
async fn a_key_of_another_ca_is_noticed_before_anything_is_signed() {
    let mut cluster = Cluster::of_one().await;
    assert_eq!(cluster.masters[0].stop().await, Some(0));
    let pki = cluster.masters[0].directory.join("pki");
    std::fs::copy(pki.join("store/ca.key"), pki.join("peer/ca.key")).unwrap();
    let (code, said) = refused(cluster.masters[0].arguments()).await;
    assert_ne!(code, Some(0));
    assert!(said.contains("the CA's key is not that of the first certificate"), "{said}");
}
