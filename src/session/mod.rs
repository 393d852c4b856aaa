//! The agent's side of the node protocol: one session after the other, with whichever master answers.
//!
//! Three streams on one connection: beats and orders ([`control`]), what the node is to run ([`set`]), and
//! how it is ([`outbox`]). `docs/node-protocol.md` tells the whole. Agents that run containers and hollow
//! ones speak by the same code.
//!
//! Keeps: a session that breaks is begun anew at another master, after a pause that grows and is never the
//! same. What was assigned last is kept on disk, and goes on being true while no master answers. What was
//! not acknowledged is said again.
//! Never: knows what a pod is.

mod control;
mod door;
mod kept;
mod outbox;
mod set;

pub use door::{Door, Masters};
pub use outbox::{Outbox, named};
pub use set::{Held, Name, Origin, Set};

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use kontiki_api::node::Channel;
use kontiki_api::tunnel::wire::node_client::NodeClient;
use kontiki_api::tunnel::wire::{Open, Reported};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::kept::AFTER;
use set::{Incoming, Taken};

const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(8);
/// A session that lasted as long was none that failed.
const LASTED_MIN: Duration = Duration::from_secs(30);
/// Until a master has written a message of reports: thousands of agents may have begun at once, and its beats
/// tell that it lives.
const WRITTEN_MAX: Duration = Duration::from_secs(300);
/// A master that can write nothing for so long is left for another.
const UNWRITTEN_MAX: Duration = Duration::from_secs(30);
const WORDS_MAX: usize = 4;

/// Who carries out what a master orders on a session.
pub trait Orders: Send + Sync + 'static {
    fn carry(&self, client: NodeClient<Channel>, order: Open) -> BoxFuture<'static, ()>;
}

/// A node's tie to its masters.
pub struct Link {
    pub node: String,
    /// Of the machine's start.
    pub boot: String,
    pub door: Door,
    pub set: Arc<Set>,
    pub outbox: Arc<Outbox>,
    pub orders: Arc<dyn Orders>,
    /// Where the set is kept while this process is away.
    pub kept: Option<PathBuf>,
}

/// How this machine's start is known.
#[must_use]
pub fn boot_id() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    boot.trim().to_owned()
}

/// Holds a session, as long as there is a master, until `stop`.
pub async fn run(link: Link, stop: CancellationToken) {
    if let Some(path) = &link.kept {
        kept::read(path, &link.set).await;
    }
    tokio::select! {
        () = stop.cancelled() => {}
        () = async {
            tokio::join!(sessions(&link), trust(&link.set), async {
                match &link.kept {
                    Some(path) => kept::follow(path, &link.set).await,
                    None => std::future::pending().await,
                }
            });
        } => {}
    }
}

/// Takes what is on disk for true when no master says anything else.
async fn trust(set: &Set) {
    sleep(AFTER).await;
    if set.trust() {
        tracing::warn!("no master answers: the pods that were assigned last are run on");
    }
    std::future::pending().await
}

async fn sessions(link: &Link) {
    let mut turn: usize = rand::random_range(0..door::MASTERS_MAX);
    let mut pause = PAUSE_MIN;
    loop {
        let begun = Instant::now();
        let why = hold(link, turn).await;
        if begun.elapsed() >= LASTED_MIN {
            pause = PAUSE_MIN;
        }
        tracing::info!(
            node = link.node,
            why,
            "there is no session with a master; another is begun"
        );
        let part: f64 = rand::random_range(0.0..1.0);
        sleep(pause.mul_f64(part)).await;
        pause = (pause * 2).min(PAUSE_MAX);
        turn = turn.wrapping_add(1);
    }
}

/// One session, from its hello to its end; why it ended.
async fn hold(link: &Link, turn: usize) -> String {
    let begun = async {
        let channel = link.door.channel(turn).await?;
        let begun = control::begin(link, &channel).await?;
        Ok::<_, String>((channel, begun))
    };
    let (channel, begun) = match begun.await {
        Ok(begun) => begun,
        Err(why) => return why,
    };
    // Each goes on until something breaks, and none goes on without the others.
    tokio::select! {
        why = begun.run(link, &channel) => why,
        why = assigned(link, channel.client()) => why.err().unwrap_or_default(),
        why = reporting(link, channel.client()) => why.err().unwrap_or_default(),
    }
}

/// Takes over what is assigned.
async fn assigned(link: &Link, mut client: NodeClient<Channel>) -> Result<(), String> {
    let told = |status: tonic::Status| status.message().to_owned();
    let (asks, asked) = mpsc::channel(WORDS_MAX);
    let ended = |_| "the connection broke".to_owned();
    asks.send(link.set.held()).await.map_err(ended)?;
    let mut messages = client.assignments(ReceiverStream::new(asked)).await.map_err(told)?;
    let messages = messages.get_mut();
    let mut incoming = Incoming::default();
    loop {
        let message = messages.message().await.map_err(told)?;
        let message = message.ok_or("the master has ended the assignments")?;
        let Some(change) = incoming.add(message)? else { continue };
        match link.set.take(change)? {
            Taken::Agreed => {}
            Taken::Differs => {
                tracing::warn!(
                    node = link.node,
                    "the set is not the master's; all of it is asked for"
                );
                asks.send(set::nothing()).await.map_err(ended)?;
            }
        }
    }
}

/// Says how the node and its pods are, one message at a time.
async fn reporting(link: &Link, mut client: NodeClient<Channel>) -> Result<(), String> {
    let told = |status: tonic::Status| status.message().to_owned();
    let (out, said) = mpsc::channel(1);
    let mut written = client.reports(ReceiverStream::new(said)).await.map_err(told)?.into_inner();
    let (mut number, mut well_at) = (0, Instant::now());
    link.outbox.begin();
    loop {
        let batch = link.outbox.next().await;
        number += 1;
        let reports = batch.iter().map(|it| it.report.clone()).collect();
        let message = Reported { number, reports };
        out.send(message).await.map_err(|_| "the connection broke".to_owned())?;
        let answer = timeout(WRITTEN_MAX, written.message()).await;
        let answer = answer.map_err(|_| "the master does not say what it has written")?;
        let answer = answer.map_err(told)?.ok_or("the master has ended the reports")?;
        if answer.number != number {
            return Err("the master acknowledges another message than was sent".into());
        }
        let again = answer.unwritten.iter().filter(|it| it.again).count();
        if again < batch.len() {
            well_at = Instant::now();
        } else if well_at.elapsed() >= UNWRITTEN_MAX {
            return Err("the master can write nothing".into());
        }
        link.outbox.written(&link.node, batch, answer.unwritten);
    }
}

#[cfg(test)]
mod tests;
