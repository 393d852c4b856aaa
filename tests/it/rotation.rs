//! New CAs for a cluster that goes on all the while.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::Value;

use crate::store::client;
use crate::support::https::{Client, get};
use crate::support::{Cluster, Master, kontiki, refused, text, wait_for};

async fn step(master: &Master, words: &[&str]) -> String {
    let directory = master.directory.display().to_string();
    let said = kontiki(words.iter().copied().chain(["--data-dir", &directory])).await;
    assert!(said.status.success(), "{words:?}: {}\n{}", text(&said.stderr), master.log());
    text(&said.stdout)
}

/// Does a step for every master, one after the other, and looks whether all still believe each other.
async fn step_everywhere(cluster: &Cluster, words: &[&str]) {
    for master in &cluster.masters {
        let said = step(master, words).await;
        assert!(said.contains("in the master that runs as well"), "{said}");
        for master in &cluster.masters {
            master.ask(&["token", "create"]).await.unwrap();
        }
        let seen = master.ask_json(&["status"]).await.unwrap();
        assert_eq!(seen["silent"], Value::Array(Vec::new()), "{seen}");
    }
}

/// One client that writes over connections of its own, again and again, until it is told to stop. Returns
/// how many writes were acknowledged.
fn writing(
    endpoint: etcd_client::Client,
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
) -> tokio::task::JoinHandle<Result<(), String>> {
    tokio::spawn(async move {
        let mut client = endpoint;
        while !stop.load(Ordering::Relaxed) {
            let number = count.load(Ordering::Relaxed);
            let put = client.put("rotation", number.to_string(), None).await;
            // Said at once: who waits for more writes would not ask for it.
            put.map_err(|error| format!("after {number} writes: {error}"))
                .inspect_err(|why| eprintln!("the writer ends {why}"))?;
            count.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    })
}

/// What the API tells everybody of its CA.
async fn published(master: &Master) -> Result<String, String> {
    let mut client = client(&[master]).await;
    let key = "/registry/core/configmaps/default/kube-root-ca.crt";
    let found = client.get(key, None).await.map_err(|error| error.to_string())?;
    let found = found.kvs().first().ok_or("it is not there")?;
    let text = String::from_utf8_lossy(found.value()).into_owned();
    Ok(text)
}

#[tokio::test]
async fn three_masters_change_their_cas_live_while_clients_write() {
    let mut cluster = Cluster::of(3).await;
    cluster.masters[0].until_voters(3).await;
    let folder = cluster.root.path().join("new");
    let new = folder.display().to_string();
    let made = kontiki(["ca", "new", &new]).await;
    assert!(made.status.success(), "{}", text(&made.stderr));
    let (code, said) = refused(["ca", "new", &new]).await;
    assert!(code == Some(1) && said.contains("there already"), "{said}");

    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let masters: Vec<&Master> = cluster.masters.iter().collect();
    let mut early = client(&masters).await;
    early.put("early", "", None).await.unwrap();
    let writer = writing(client(&masters).await, stop.clone(), count.clone());
    let written = |before: u64| {
        let count = count.clone();
        async move {
            wait_for("writes", || async {
                let now = count.load(Ordering::Relaxed);
                if now > before + 20 { Ok(now) } else { Err(now.to_string()) }
            })
            .await
        }
    };
    let pids: Vec<i32> = cluster.masters.iter().map(Master::pid).collect();

    // Whom one master does not believe yet must not sign, here or elsewhere.
    let directory = cluster.masters[0].directory.display().to_string();
    let sign = ["ca", "use", &new, "--data-dir", &directory];
    let (_, said) = refused(sign).await;
    assert!(said.contains("kontiki ca trust"), "{said}");
    step(&cluster.masters[0], &["ca", "trust", &new]).await;
    let (_, said) = refused(sign).await;
    assert!(said.contains("kontiki ca trust") && said.contains("m2"), "{said}");

    let pki = |at: usize, file: &str| cluster.masters[at].directory.join("pki").join(file);
    let kept = cluster.root.path().join("old.crt");
    let old = std::fs::read_to_string(pki(1, "cluster/ca.crt")).unwrap();
    std::fs::write(&kept, &old).unwrap();
    let (before, store) = (Client::trusting(&kept), cluster.root.path().join("old-store"));
    std::fs::create_dir(&store).unwrap();
    for file in ["ca.crt", "client.crt", "client.key"] {
        std::fs::copy(pki(1, &format!("store/{file}")), store.join(file)).unwrap();
    }

    step_everywhere(&cluster, &["ca", "trust", &new]).await;
    let seen = written(count.load(Ordering::Relaxed)).await;
    assert!(get(cluster.masters[0].port("api"), "/readyz", &before).await.is_ok());
    let fresh = std::fs::read_to_string(folder.join("cluster/ca.crt")).unwrap();
    let line = fresh.lines().nth(1).unwrap();
    wait_for("the new CA among those that pods are told of", || async {
        let text = published(&cluster.masters[0]).await?;
        if text.contains(line) { Ok(()) } else { Err(text) }
    })
    .await;

    step_everywhere(&cluster, &["ca", "use", &new]).await;
    let seen = written(seen).await;
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

    stop.store(true, Ordering::Relaxed);
    // Its connections are those of before the first step: who stands is not turned away by these.
    writer.await.unwrap().unwrap();
    early.put("early", "", None).await.unwrap();
    stop.store(false, Ordering::Relaxed);
    let masters: Vec<&Master> = cluster.masters.iter().collect();
    let writer = writing(client(&masters).await, stop.clone(), count.clone());
    let seen = written(seen).await;

    step_everywhere(&cluster, &["ca", "forget"]).await;
    written(seen).await;
    // What proved itself by the old CA is not believed for having come early.
    wait_for("the end of the connections of before", || async {
        match early.clone().put("early", "", None).await {
            Ok(_) => Err("it still writes".to_owned()),
            Err(_) => Ok(()),
        }
    })
    .await;
    for master in &cluster.masters {
        assert!(get(master.port("store"), "/version", &old_client(&bundle)).await.is_err());
    }
    let line = old.lines().nth(1).unwrap();
    wait_for("the old CA gone from what pods are told", || async {
        let text = published(&cluster.masters[0]).await?;
        if text.contains(line) { Err(text) } else { Ok(()) }
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    // Its own are of the new one, and so are those of the masters by now: it noticed nothing.
    writer.await.unwrap().unwrap();
    assert_eq!(cluster.masters.iter().map(Master::pid).collect::<Vec<_>>(), pids);

    // New connections between masters: a follower that comes back, and one more.
    let leader = cluster.leader().await;
    let follower = (leader + 1) % 3;
    assert_eq!(cluster.masters[follower].stop().await, Some(0));
    cluster.masters[follower].start_ready().await;
    cluster.masters[follower].until_voters(3).await;
    let joined = cluster.join("m4", leader).await;
    cluster.masters[joined].until_voters(4).await;
}

#[tokio::test]
async fn a_master_that_does_not_run_takes_a_step_at_its_next_start() {
    let mut cluster = Cluster::of(2).await;
    let folder = cluster.root.path().join("new");
    let new = folder.display().to_string();
    let made = kontiki(["ca", "new", &new]).await;
    assert!(made.status.success(), "{}", text(&made.stderr));
    cluster.masters[0].until_voters(2).await;
    assert_eq!(cluster.masters[1].stop().await, Some(0));
    let said = step(&cluster.masters[1], &["ca", "trust", &new]).await;
    assert!(said.contains("from the next start"), "{said}");
    // Who cannot be asked is named.
    step(&cluster.masters[0], &["ca", "trust", &new]).await;
    let directory = cluster.masters[0].directory.display().to_string();
    let (code, said) = refused(["ca", "use", &new, "--data-dir", &directory]).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("m2") && said.contains("cannot be asked"), "{said}");

    cluster.masters[1].start_ready().await;
    cluster.masters[1].until_voters(2).await;
    for words in [&["ca", "use", &new][..], &["ca", "forget"]] {
        step_everywhere(&cluster, words).await;
    }
    let after = Client::trusting(&folder.join("cluster/ca.crt"));
    assert!(get(cluster.masters[1].port("api"), "/readyz", &after).await.is_ok());
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
