//! The life of a cluster: it grows, loses masters, gets them back or replaces them.

use crate::support::{Cluster, Master, kontiki, text, wait_for};

/// Writes something that every master must come to hold: a token. Returns its id.
async fn write(master: &Master) -> String {
    let created = wait_for("a write", || master.ask_json(&["token", "create"])).await;
    created["id"].as_str().unwrap().to_owned()
}

async fn ids(master: &Master) -> Result<Vec<String>, String> {
    let listed = master.ask_json(&["token", "list"]).await?;
    let listed = listed.as_array().unwrap().iter();
    Ok(listed.map(|token| token["id"].as_str().unwrap().to_owned()).collect())
}

async fn until_it_knows_the_others(master: &Master) {
    let peers = master.directory.join("pki/peers.json");
    wait_for("what it knows of the others", || async {
        let text = std::fs::read_to_string(&peers).map_err(|error| error.to_string())?;
        if text.matches("address").count() == 2 { Ok(()) } else { Err(text) }
    })
    .await;
}

#[tokio::test]
async fn three_masters_survive_the_loss_of_their_leader_and_take_it_back() {
    let mut cluster = Cluster::of(3).await;
    for master in &cluster.masters {
        master.until_voters(3).await;
    }
    let mut written = vec![write(&cluster.masters[2]).await];

    let lost = cluster.leader().await;
    cluster.masters[lost].kill().await;
    let helper = &cluster.masters[(lost + 1) % 3];
    written.push(write(helper).await);
    helper.until_ready().await;
    let words = helper.ask(&["status"]).await.unwrap();
    assert!(words.contains("does not answer") && words.contains("2 of 3 voters"), "{words}");

    // The same flags, token and all: it is a member, and just starts.
    cluster.masters[lost].start_ready().await;
    cluster.masters[lost].until_voters(3).await;
    written.push(write(&cluster.masters[lost]).await);
    for master in &cluster.masters {
        let held = ids(master).await.unwrap();
        assert!(written.iter().all(|id| held.contains(id)), "{held:?} of {written:?}");
    }
    let helper = &cluster.masters[(lost + 1) % 3];
    wait_for("health", || async {
        let words = helper.ask(&["status"]).await?;
        if words.contains("all is well") { Ok(()) } else { Err(words) }
    })
    .await;
}

#[tokio::test]
async fn a_leader_that_is_stopped_hands_over_and_a_cluster_that_is_stopped_comes_back() {
    let mut cluster = Cluster::of(3).await;
    let first = cluster.leader().await;
    let term = cluster.masters[first].status().await.unwrap()["term"].as_u64().unwrap();
    assert_eq!(cluster.masters[first].stop().await, Some(0), "{}", cluster.masters[first].log());
    let second = cluster.leader().await;
    let status = cluster.masters[second].status().await.unwrap();
    // Handed over, not fought over: one new term.
    assert_eq!(status["term"].as_u64().unwrap(), term + 1, "{status}");
    let id = write(&cluster.masters[second]).await;

    for at in 0..3 {
        if at != first {
            assert_eq!(cluster.masters[at].stop().await, Some(0), "{}", cluster.masters[at].log());
        }
    }
    for master in &mut cluster.masters {
        master.start().await;
    }
    for master in &cluster.masters {
        master.until_ready().await;
        assert!(ids(master).await.unwrap().contains(&id));
    }
}

#[tokio::test]
async fn a_member_is_replaced_and_its_id_does_not_come_back() {
    let mut cluster = Cluster::of(3).await;
    let lost = (cluster.leader().await + 1) % 3;
    let id = cluster.masters[lost].status().await.unwrap()["id"].as_str().unwrap().to_owned();
    let name = cluster.masters[lost].name.clone();
    cluster.masters[lost].kill().await;
    let helper = (lost + 1) % 3;
    cluster.masters[helper].ask(&["member", "remove", &name]).await.unwrap();
    cluster.masters[helper].until_voters(2).await;

    // The one that was removed says so and stays out, whatever it is told.
    let output = kontiki(cluster.masters[lost].arguments()).await;
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("removed"), "{said}");

    let fresh = cluster.join("m4", helper).await;
    let fresh_id = cluster.masters[fresh].status().await.unwrap()["id"].clone();
    assert_ne!(fresh_id, id.as_str());
    cluster.masters[helper].until_voters(3).await;
    let id = write(&cluster.masters[fresh]).await;
    assert!(ids(&cluster.masters[helper]).await.unwrap().contains(&id));
}

#[tokio::test]
async fn leadership_goes_where_an_operator_sends_it() {
    let cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let wanted = (leader + 1) % 3;
    let name = cluster.masters[wanted].name.clone();
    // Asked of a master that does not lead.
    let asked = &cluster.masters[(leader + 2) % 3];
    asked.ask(&["member", "transfer-leader", &name]).await.unwrap();
    assert_eq!(cluster.leader().await, wanted);
    let error = asked.ask(&["member", "transfer-leader", "nobody"]).await.unwrap_err();
    assert!(error.contains("nobody") && error.contains("member list"), "{error}");
}

#[tokio::test]
async fn a_cluster_shrinks_to_the_master_that_is_left() {
    let mut cluster = Cluster::of(2).await;
    let error = {
        let master = &cluster.masters[0];
        master.ask(&["status"]).await.unwrap()
    };
    assert!(error.contains("two voters are no safer than one"), "{error}");
    cluster.masters[0].ask(&["member", "remove", "m2"]).await.unwrap();
    cluster.masters[0].until_voters(1).await;
    // It hears that it was let go, and ends.
    assert_eq!(cluster.masters[1].ended().await, Some(1), "{}", cluster.masters[1].log());
    write(&cluster.masters[0]).await;
    let error = cluster.masters[0].ask(&["member", "remove", "m1"]).await.unwrap_err();
    assert!(error.contains("last voter"), "{error}");
}

#[tokio::test]
async fn a_member_that_lost_its_log_comes_back_by_itself_under_a_new_id() {
    let mut cluster = Cluster::of(3).await;
    for master in &cluster.masters {
        master.until_voters(3).await;
    }
    let lost = (cluster.leader().await + 1) % 3;
    let helper = (lost + 1) % 3;
    let id = cluster.masters[lost].status().await.unwrap()["id"].clone();
    write(&cluster.masters[helper]).await;
    until_it_knows_the_others(&cluster.masters[lost]).await;
    cluster.masters[lost].kill().await;
    for entry in std::fs::read_dir(cluster.masters[lost].directory.join("log")).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }

    cluster.masters[lost].start_ready().await;
    cluster.masters[lost].until_voters(3).await;
    let fresh = cluster.masters[lost].status().await.unwrap()["id"].clone();
    assert_ne!(fresh, id);
    let written = write(&cluster.masters[lost]).await;
    assert!(ids(&cluster.masters[helper]).await.unwrap().contains(&written));

    // It is an ordinary member now.
    cluster.masters[lost].kill().await;
    cluster.masters[lost].start_ready().await;
    assert_eq!(cluster.masters[lost].status().await.unwrap()["id"], fresh);
}

/// Changes what a master that is down holds of the keys that there are now: a start does not read them, and
/// the next write of one does.
fn damage_rows(master: &Master) {
    let state = master.directory.join("state/0000000000000001");
    let live = |bytes: &[u8]| bytes.windows(8).any(|it| it == b"namelive");
    let mut damaged = 0;
    for entry in std::fs::read_dir(state).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|it| it != "sst") {
            continue;
        }
        let mut bytes = std::fs::read(&path).unwrap();
        if live(&bytes) {
            // Rows come first in a table, and what leads to them last.
            let rows = bytes.len() / 2;
            bytes[..rows].iter_mut().step_by(512).for_each(|byte| *byte ^= 0x10);
            std::fs::write(path, bytes).unwrap();
            damaged += 1;
        }
    }
    assert!(damaged > 0, "a master that is stopped leaves its rows in tables");
}

#[tokio::test]
async fn a_member_that_meets_damage_ends_and_comes_back_under_a_new_id() {
    let mut cluster = Cluster::of(3).await;
    for master in &cluster.masters {
        master.until_voters(3).await;
    }
    let hurt = (cluster.leader().await + 1) % 3;
    let helper = (hurt + 1) % 3;
    let id = cluster.masters[hurt].status().await.unwrap()["id"].clone();
    until_it_knows_the_others(&cluster.masters[hurt]).await;
    assert_eq!(cluster.masters[hurt].stop().await, Some(0), "{}", cluster.masters[hurt].log());
    damage_rows(&cluster.masters[hurt]);
    cluster.masters[hurt].start().await;
    let doubt = cluster.masters[hurt].directory.join("doubt");
    wait_for("the damage to be met", || async {
        cluster.masters[helper].ask_json(&["token", "create"]).await.ok();
        if doubt.exists() { Ok(()) } else { Err(cluster.masters[hurt].log()) }
    })
    .await;
    assert_eq!(cluster.masters[hurt].ended().await, Some(1), "{}", cluster.masters[hurt].log());

    cluster.masters[hurt].start_ready().await;
    cluster.masters[hurt].until_voters(3).await;
    assert_ne!(cluster.masters[hurt].status().await.unwrap()["id"], id);
    assert!(!doubt.exists());
    let written = write(&cluster.masters[hurt]).await;
    assert!(ids(&cluster.masters[helper]).await.unwrap().contains(&written));
}

#[tokio::test]
async fn a_master_that_moved_tells_the_others_where_it_is() {
    let mut cluster = Cluster::of(3).await;
    let moved = (cluster.leader().await + 1) % 3;
    let helper = (moved + 1) % 3;
    for master in &cluster.masters {
        master.until_voters(3).await;
    }
    let former = cluster.masters[moved].port("peer");
    assert_eq!(cluster.masters[moved].stop().await, Some(0));
    // Somebody else has its port now.
    let _taken = std::net::TcpListener::bind(("127.0.0.1", former)).unwrap();
    cluster.masters[moved].start_ready().await;
    let address = format!("127.0.0.1:{}", cluster.masters[moved].port("peer"));
    assert_ne!(address, format!("127.0.0.1:{former}"));
    wait_for("its new address", || async {
        let members = cluster.masters[helper].ask(&["member", "list"]).await?;
        if members.contains(&address) { Ok(()) } else { Err(members) }
    })
    .await;
    let id = write(&cluster.masters[helper]).await;
    assert!(ids(&cluster.masters[moved]).await.unwrap().contains(&id));
}
