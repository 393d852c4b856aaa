//! One session after the other, with whichever master answers.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use kontiki_api::node::{Channel, PROTOCOL};
use kontiki_api::tunnel::wire::{self, Beat, FromNode, Hello, ToNode, from_node, to_node};
use rand::RngExt as _;
use rustls::ClientConfig;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use super::{Ends, carry};

const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(8);
/// A session that lasted as long was none that failed.
const LASTED_MIN: Duration = Duration::from_secs(30);
const WELCOME_WAIT_MAX: Duration = Duration::from_secs(15);
/// How much longer than the wait it named itself a master may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(20);
/// A little more than a master would ask for.
const TUNNELS_MAX: usize = 160;
const MASTERS_MAX: usize = 16;
const WORDS_MAX: usize = 4;

/// The way to masters.
pub enum Door {
    /// There is one in this process.
    Here(Channel),
    /// `https://HOST:PORT` each; more are learned from those.
    Masters { servers: Vec<String>, tls: Arc<ClientConfig> },
}

impl Door {
    async fn channel(&self, turn: usize) -> Result<Channel, String> {
        match self {
            Door::Here(channel) => Ok(channel.clone()),
            Door::Masters { servers, tls } => {
                let server =
                    servers.get(turn % servers.len().max(1)).ok_or("no master is known")?;
                let connected = Channel::connect(server, tls).await;
                connected.map_err(|why| format!("{server}: {why}"))
            }
        }
    }

    /// Takes over where masters are, as a master has told it.
    fn learn(&mut self, told: Vec<String>) {
        if let Door::Masters { servers, .. } = self
            && !told.is_empty()
        {
            // Those that were given stay: who has moved is found by them.
            let new = told.into_iter().filter(|it| !servers.contains(it)).collect::<Vec<_>>();
            servers.extend(new.into_iter().take(MASTERS_MAX.saturating_sub(servers.len())));
        }
    }
}

/// Holds a session, as long as there is a master, until `stop`.
pub async fn run(mut door: Door, ends: Arc<Ends>, stop: CancellationToken) {
    let mut turn: usize = rand::rng().random_range(0..MASTERS_MAX);
    let mut pause = PAUSE_MIN;
    loop {
        let begun = Instant::now();
        let mut told = Vec::new();
        let ended = tokio::select! {
            ended = hold(&door, turn, &ends, &mut told) => ended,
            () = stop.cancelled() => return,
        };
        door.learn(told);
        let why = ended.err().unwrap_or_else(|| "the master ended it".into());
        if begun.elapsed() >= LASTED_MIN {
            pause = PAUSE_MIN;
        }
        tracing::info!(why, "there is no session with a master; another is begun");
        let wait = pause.mul_f64(rand::rng().random_range(0.0..1.0));
        tokio::select! {
            () = sleep(wait) => {}
            () = stop.cancelled() => return,
        }
        pause = (pause * 2).min(PAUSE_MAX);
        turn = turn.wrapping_add(1);
    }
}

/// One session, from its hello to its end. `told` is where masters are.
async fn hold(
    door: &Door,
    turn: usize,
    ends: &Arc<Ends>,
    told: &mut Vec<String>,
) -> Result<(), String> {
    let channel = door.channel(turn).await?;
    let (words, said) = mpsc::channel(WORDS_MAX);
    say(&words, from_node::Message::Hello(hello(&ends.node))).await?;
    let mut client = channel.client();
    let opening = async {
        let mut messages = client.session(ReceiverStream::new(said)).await?.into_inner();
        let first = messages.message().await?;
        Ok::<_, tonic::Status>((messages, first))
    };
    let opened = timeout(WELCOME_WAIT_MAX, opening).await.map_err(|_| "no welcome in time")?;
    let (mut messages, first) = opened.map_err(|status| status.message().to_owned())?;
    let Some(ToNode { message: Some(to_node::Message::Welcome(welcome)) }) = first else {
        return Err("a session that does not begin with a welcome".into());
    };
    tracing::info!(master = welcome.master, "a session with a master");
    *told = welcome.masters;
    let mut next = Instant::now() + wait(welcome.next_ms);
    let mut silent_at = next + SILENCE_MAX;
    let mut number = 0;
    let mut tunnels = JoinSet::new();
    loop {
        let heard = tokio::select! {
            heard = hear(&mut messages) => heard?,
            Some(_) = tunnels.join_next() => continue,
            () = sleep_until(silent_at) => return Err("the master is silent".into()),
            () = sleep_until(next) => {
                number += 1;
                say(&words, from_node::Message::Beat(Beat { number })).await?;
                // Until the answer says when the next is wanted.
                next = silent_at + SILENCE_MAX;
                continue;
            }
        };
        match heard {
            None => return Ok(()),
            Some(to_node::Message::Open(order)) => {
                let carried = carry::order(channel.client(), order, ends.clone());
                match tunnels.len() {
                    0..TUNNELS_MAX => {
                        tunnels.spawn(carried);
                    }
                    // The master waits for the answer in vain, which it knows how to say.
                    _ => tracing::warn!("a master wants more tunnels than an agent opens"),
                }
            }
            Some(to_node::Message::Heard(heard)) => {
                next = Instant::now() + wait(heard.next_ms);
                silent_at = next + SILENCE_MAX;
                if !heard.masters.is_empty() {
                    *told = heard.masters;
                }
            }
            Some(to_node::Message::Welcome(_)) => {}
        }
    }
}

async fn say(words: &mpsc::Sender<FromNode>, message: from_node::Message) -> Result<(), String> {
    let said = words.send(FromNode { message: Some(message) }).await;
    said.map_err(|_| "the connection broke".to_owned())
}

async fn hear(messages: &mut Streaming<ToNode>) -> Result<Option<to_node::Message>, String> {
    // A kind of message that this agent does not know yet is passed over.
    while let Some(heard) = messages.next().await {
        let heard = heard.map_err(|status| status.message().to_owned())?;
        if heard.message.is_some() {
            return Ok(heard.message);
        }
    }
    Ok(None)
}

/// The wait a master has named, within reason.
fn wait(millis: u32) -> Duration {
    Duration::from_millis(millis.into()).clamp(Duration::from_millis(100), Duration::from_secs(600))
}

fn hello(node: &str) -> Hello {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    Hello {
        node: node.to_owned(),
        release: env!("CARGO_PKG_VERSION").into(),
        protocol: PROTOCOL,
        capabilities: ["exec", "attach", "port-forward", "logs", "dial", "kubelet"]
            .map(str::to_owned)
            .into(),
        boot_id: boot.trim().to_owned(),
    }
}

/// What a refusal needs to be known by.
pub(super) fn refusal(key: bytes::Bytes, status: kontiki_api::Status) -> wire::Refused {
    wire::Refused { key, ..status.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masters_that_are_told_of_are_added_to_those_that_were_given() {
        let tls = crate::pki::client_config(crate::pki::Trust::Fingerprint([0; 32]), None).unwrap();
        let mut door = Door::Masters { servers: vec!["https://a:1".into()], tls };
        door.learn(vec!["https://b:1".into(), "https://a:1".into()]);
        door.learn((0..100).map(|port| format!("https://c:{port}")).collect());
        let Door::Masters { servers, .. } = door else { panic!("masters") };
        assert_eq!(servers[..3], ["https://a:1", "https://b:1", "https://c:0"]);
        assert_eq!(servers.len(), MASTERS_MAX);
    }

    #[test]
    fn a_master_cannot_make_an_agent_beat_without_pause_or_never() {
        assert_eq!(wait(0), Duration::from_millis(100));
        assert_eq!(wait(u32::MAX), Duration::from_secs(600));
    }
}
