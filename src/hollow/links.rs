//! The sessions of hollow nodes, and what is assigned to each.

use std::collections::HashMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use kontiki_api::Status;
use kontiki_api::error::Reason;
use kontiki_api::node::Channel;
use kontiki_api::tunnel::wire::node_client::NodeClient;
use kontiki_api::tunnel::wire::{FromTunnel, Open, Refused, from_tunnel};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Doors;
use super::pods::Pods;
use crate::reconcile::{Key, Queue};
use crate::session::{self, Held, Link, Name, Orders, Origin, Outbox, Set};

/// What ties a node to its masters.
#[derive(Default)]
pub struct Tie {
    pub set: Arc<Set>,
    pub outbox: Arc<Outbox>,
}

impl Tie {
    /// Of the pods that are assigned to it.
    pub fn keys(&self) -> Vec<Key> {
        let (pods, _) = self.set.list("pods", "");
        pods.iter().map(|(name, _)| key(name)).collect()
    }
}

fn key(name: &Name) -> Key {
    Key::new(&name.namespace, &name.name)
}

/// All nodes of this process.
pub struct Fleet {
    ties: Vec<Tie>,
    /// To which each pod is assigned.
    owners: Mutex<HashMap<Key, usize>>,
}

impl Fleet {
    pub fn new(nodes: usize) -> Fleet {
        let ties = std::iter::repeat_with(Tie::default).take(nodes).collect();
        Fleet { ties, owners: Mutex::default() }
    }

    pub fn tie(&self, number: usize) -> &Tie {
        &self.ties[number]
    }

    /// The pod as it is assigned, and to which node.
    pub fn find(&self, pod: &Key) -> Option<(usize, Held)> {
        let number = self.owners.lock().get(pod).copied()?;
        let held = self.tie(number).set.get("pods", &pod.namespace, &pod.name)?;
        Some((number, held))
    }
}

/// Who begins and ends sessions.
pub struct Links {
    doors: Doors,
    fleet: Arc<Fleet>,
    pods: Arc<Pods>,
    queue: Queue<Key>,
    stop: CancellationToken,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    open: HashMap<usize, CancellationToken>,
    tasks: JoinSet<()>,
}

impl Links {
    pub fn new(
        doors: Doors,
        fleet: Arc<Fleet>,
        pods: Arc<Pods>,
        queue: Queue<Key>,
        stop: CancellationToken,
    ) -> Links {
        Links { doors, fleet, pods, queue, stop, state: Mutex::default() }
    }

    pub fn tie(&self, number: usize) -> &Tie {
        self.fleet.tie(number)
    }

    /// The node has a session from now on.
    pub fn open(&self, number: usize, name: &str) {
        let mut state = self.state.lock();
        while state.tasks.try_join_next().is_some() {}
        if state.open.contains_key(&number) {
            return;
        }
        let stop = self.stop.child_token();
        let tie = self.tie(number);
        let link = Link {
            node: name.to_owned(),
            boot: name.to_owned(),
            door: (self.doors)(name),
            set: tie.set.clone(),
            outbox: tie.outbox.clone(),
            orders: Arc::new(Refusing),
            kept: None,
        };
        let follower = Follower {
            number,
            set: tie.set.clone(),
            fleet: self.fleet.clone(),
            pods: self.pods.clone(),
            queue: self.queue.clone(),
        };
        state.open.insert(number, stop.clone());
        state.tasks.spawn(async move {
            tokio::select! {
                () = session::run(link, stop) => {}
                () = follower.run() => {}
            }
        });
    }

    /// The node says nothing any more.
    pub fn close(&self, number: usize) {
        if let Some(stop) = self.state.lock().open.remove(&number) {
            stop.cancel();
        }
    }
}

/// Tells the loop of pods what has changed for one node.
struct Follower {
    number: usize,
    set: Arc<Set>,
    fleet: Arc<Fleet>,
    pods: Arc<Pods>,
    queue: Queue<Key>,
}

impl Follower {
    async fn run(self) {
        let mut changes = self.set.changes();
        let mut known: HashMap<String, (String, Key)> = HashMap::new();
        while changes.changed().await.is_ok() {
            let (all, origin) = self.set.list("pods", "");
            if origin == Origin::Nobody {
                continue;
            }
            let mut before = std::mem::take(&mut known);
            for (name, held) in all {
                let pod = key(&name);
                let same = before.remove(&held.uid).is_some_and(|(it, _)| it == held.version);
                if !same {
                    self.fleet.owners.lock().insert(pod.clone(), self.number);
                    self.queue.add(pod.clone());
                }
                known.insert(held.uid, (held.version, pod));
            }
            for (uid, (_, pod)) in before {
                self.pods.forget(self.number, &uid);
                let mut owners = self.fleet.owners.lock();
                let is_gone = self.set.get("pods", &pod.namespace, &pod.name).is_none();
                if is_gone && owners.get(&pod) == Some(&self.number) {
                    owners.remove(&pod);
                }
            }
        }
    }
}

/// There is nothing to be opened on a hollow node.
struct Refusing;

impl Orders for Refusing {
    fn carry(&self, mut client: NodeClient<Channel>, order: Open) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let status = Status::new(Reason::BadRequest, "a hollow node runs nothing");
            let refused = Refused { key: order.key, ..status.into() };
            let message = Some(from_tunnel::Message::Refused(refused));
            let said = futures::stream::iter([FromTunnel { message }]);
            if let Err(status) = client.tunnel(said).await {
                tracing::debug!(%status, "a master does not hear that a tunnel is refused");
            }
        })
    }
}
