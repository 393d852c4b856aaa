//! Three members over real sockets, TLS and disks.

use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use kontiki_storage::request::{Command, Put};
use tempfile::TempDir;

use super::cluster::{get, put};
use super::real::{Member, PATIENCE, Place, free_address, identity, small};
use crate::error::Error;
use crate::network::grpc::authority::Authority;
use crate::replica::{Config, Freshness, Role, Status};
use crate::types::NodeId;

struct Cluster {
    places: Vec<Place>,
    members: Vec<Option<Member>>,
    config: Config,
    _root: TempDir,
}

impl Cluster {
    async fn of_three(config: Config) -> Cluster {
        let authority = Authority::new("peers");
        let root = tempfile::tempdir().unwrap();
        let mut places = Vec::new();
        for id in 1..=3 {
            let path = root.path().join(id.to_string());
            let tls = authority.of(identity(id));
            places.push(Place { id, path, address: free_address().await, tls });
        }
        let members = vec![None, None, None];
        let mut cluster = Cluster { places, members, config, _root: root };
        for at in 0..3 {
            cluster.start(at).await;
        }
        let founder = &cluster.member(0).replica;
        founder.bootstrap(cluster.member(0).peer.clone()).await.unwrap();
        for at in 1..3 {
            let id = NodeId(at as u64 + 1);
            founder.add_learner(id, cluster.member(at).peer.clone()).await.unwrap();
            loop {
                match founder.promote(id).await {
                    Ok(()) => break,
                    Err(Error::Membership(_)) => {
                        tokio::time::sleep(Duration::from_millis(50)).await
                    }
                    Err(other) => panic!("promote: {other}"),
                }
            }
            cluster.until(at, |status| status.ready).await;
        }
        cluster
    }

    async fn start(&mut self, at: usize) {
        self.members[at] = Some(self.places[at].start(self.config.clone()).await);
    }

    async fn kill(&mut self, at: usize) {
        self.members[at].take().expect("it is up").kill().await;
    }

    fn member(&self, at: usize) -> &Member {
        self.members[at].as_ref().expect("it is up")
    }

    async fn until(&self, at: usize, what: impl Fn(&Status) -> bool) -> Status {
        let replica = &self.member(at).replica;
        match replica.wait(PATIENCE, what).await {
            Some(status) => status,
            None => panic!("member {} stays at {:?}", at + 1, *replica.status().borrow()),
        }
    }

    async fn leader(&self) -> usize {
        let look = async {
            loop {
                for (at, member) in self.members.iter().enumerate() {
                    let leads = |m: &Member| m.replica.status().borrow().role == Role::Leader;
                    if member.as_ref().is_some_and(leads) {
                        return at;
                    }
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, look).await.expect("somebody leads")
    }

    async fn put(&self, at: usize, key: &str) {
        // While leadership changes an answer may be open; these writes may be made twice.
        loop {
            match self.member(at).replica.propose(put(key, "v")).await {
                Ok(_) => return,
                Err(Error::Unknown(_) | Error::NoLeader(_)) => {}
                Err(other) => panic!("{other}"),
            }
        }
    }

    /// All members show the same.
    async fn converge(&self) {
        let leader = self.leader().await;
        self.member(leader).replica.read_barrier().await.unwrap();
        let target = self.member(leader).replica.status().borrow().applied;
        let mut digests = Vec::new();
        for at in 0..3 {
            self.until(at, |status| status.applied >= target).await;
            digests.push(self.member(at).replica.store().digest());
        }
        assert!(digests.windows(2).all(|two| two[0] == two[1]), "members differ: {digests:?}");
    }

    async fn stop(mut self) {
        for member in self.members.iter_mut().filter_map(Option::take) {
            member.kill().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_go_on_without_their_leader_and_take_it_back() {
    let mut cluster = Cluster::of_three(small()).await;
    for at in 0..3 {
        cluster.put(at, &format!("a{at}")).await;
        let (key, reader) = (format!("a{at}"), &cluster.member(2 - at).replica);
        let found = get(reader, &key, Freshness::Linearizable).await.unwrap();
        assert_eq!(found.as_deref(), Some("v"), "written by {at}");
    }
    let old = cluster.leader().await;
    cluster.kill(old).await;
    let new = cluster.leader().await;
    cluster.put(new, "after").await;
    let other = (0..3).find(|at| *at != old && *at != new).unwrap();
    let found = get(&cluster.member(other).replica, "after", Freshness::Linearizable).await;
    assert_eq!(found.unwrap().as_deref(), Some("v"));
    cluster.start(old).await;
    cluster.until(old, |status| status.ready).await;
    cluster.put(old, "back").await;
    cluster.converge().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_away_for_long_is_filled_by_a_stream_of_files() {
    let mut cluster = Cluster::of_three(Config { log_entries_kept: 20, ..small() }).await;
    let leader = cluster.leader().await;
    let away = (leader + 1) % 3;
    let reached = cluster.until(away, |status| status.ready).await.last;
    cluster.kill(away).await;
    let large = |number: u64| {
        Command::Put(Put {
            key: format!("large{number}").into(),
            value: Bytes::from(vec![number as u8; 100 << 10]),
            ..Put::default()
        })
    };
    for number in 0..150 {
        cluster.member(leader).replica.propose(large(number)).await.unwrap();
    }
    cluster.until(leader, |status| status.purged > reached).await;
    cluster.start(away).await;
    cluster.until(away, |status| status.ready).await;
    cluster.converge().await;
    // What it was sent is its own: it starts from it, and is followed by nobody's help.
    cluster.kill(away).await;
    cluster.start(away).await;
    cluster.until(away, |status| status.ready).await;
    cluster.converge().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_of_megabytes_in_flight_call_no_election() {
    let config = Config { request_bytes_max: 9 << 20, ..small() };
    let cluster = Cluster::of_three(config).await;
    let leader = cluster.leader().await;
    let term = cluster.member(leader).replica.header().term;
    let replica = &cluster.member(leader).replica;
    let writes = (0..12u8).map(|number| {
        let put = Put {
            key: Bytes::from(vec![b'k', number]),
            value: Bytes::from(vec![number; 8 << 20]),
            ..Put::default()
        };
        replica.propose(Command::Put(put))
    });
    for written in join_all(writes).await {
        written.unwrap();
    }
    cluster.converge().await;
    assert_eq!(cluster.leader().await, leader);
    assert_eq!(replica.header().term, term, "an election was called while entries were sent");
    cluster.stop().await;
}
