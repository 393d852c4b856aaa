//! The session proper: hello and beats up, welcome, answers and orders down.

use std::time::Duration;

use futures::StreamExt as _;
use kontiki_api::node::{Channel, MINOR, PROTOCOL};
use kontiki_api::tunnel::wire::{Beat, FromNode, Hello, ToNode, from_node, to_node};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{Link, WORDS_MAX};

const WELCOME_WAIT_MAX: Duration = Duration::from_secs(15);
/// How much longer than the wait it named itself a master may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(20);
/// A little more than a master would ask for.
const TUNNELS_MAX: usize = 160;

/// A session that a master has welcomed.
pub(super) struct Begun {
    words: mpsc::Sender<FromNode>,
    messages: Streaming<ToNode>,
    next_ms: u32,
}

/// Says hello; ready when the master has said welcome.
pub(super) async fn begin(link: &Link, channel: &Channel) -> Result<Begun, String> {
    let (words, said) = mpsc::channel(WORDS_MAX);
    say(&words, from_node::Message::Hello(hello(link))).await?;
    let mut client = channel.client();
    let opening = async {
        let mut messages = client.session(ReceiverStream::new(said)).await?.into_inner();
        let first = messages.message().await?;
        Ok::<_, tonic::Status>((messages, first))
    };
    let opened = timeout(WELCOME_WAIT_MAX, opening).await.map_err(|_| "no welcome in time")?;
    let (messages, first) = opened.map_err(|status| status.message().to_owned())?;
    let Some(ToNode { message: Some(to_node::Message::Welcome(welcome)) }) = first else {
        return Err("a session that does not begin with a welcome".into());
    };
    if welcome.protocol != PROTOCOL {
        return Err(format!(
            "the master speaks version {} of the node protocol, this agent version {PROTOCOL}; \
             upgrade whichever is older",
            welcome.protocol
        ));
    }
    tracing::info!(node = link.node, master = welcome.master, "a session with a master");
    link.door.learn(&welcome.masters);
    Ok(Begun { words, messages, next_ms: welcome.next_ms })
}

impl Begun {
    /// Until something breaks; what.
    pub async fn run(self, link: &Link, channel: &Channel) -> String {
        match self.beats(link, channel).await {
            Ok(()) => "the master ended it".into(),
            Err(why) => why,
        }
    }

    async fn beats(mut self, link: &Link, channel: &Channel) -> Result<(), String> {
        let mut next = Instant::now() + wait(self.next_ms);
        let mut silent_at = next + SILENCE_MAX;
        let mut number = 0;
        let mut tunnels = JoinSet::new();
        loop {
            let heard = tokio::select! {
                heard = hear(&mut self.messages) => heard?,
                Some(_) = tunnels.join_next() => continue,
                () = sleep_until(silent_at) => return Err("the master is silent".into()),
                () = sleep_until(next) => {
                    number += 1;
                    say(&self.words, from_node::Message::Beat(Beat { number })).await?;
                    // Until the answer says when the next is wanted.
                    next = silent_at + SILENCE_MAX;
                    continue;
                }
            };
            match heard {
                None => return Ok(()),
                Some(to_node::Message::Open(order)) => match tunnels.len() {
                    0..TUNNELS_MAX => {
                        tunnels.spawn(link.orders.carry(channel.client(), order));
                    }
                    // The master waits for the answer in vain, which it knows how to say.
                    _ => tracing::warn!("a master wants more tunnels than an agent opens"),
                },
                Some(to_node::Message::Heard(heard)) => {
                    next = Instant::now() + wait(heard.next_ms);
                    silent_at = next + SILENCE_MAX;
                    link.door.learn(&heard.masters);
                }
                Some(to_node::Message::Welcome(_)) => {}
            }
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

fn hello(link: &Link) -> Hello {
    Hello {
        node: link.node.clone(),
        release: env!("CARGO_PKG_VERSION").into(),
        protocol: PROTOCOL,
        minor: MINOR,
        capabilities: ["exec", "attach", "port-forward", "logs", "dial", "kubelet"]
            .map(str::to_owned)
            .into(),
        boot_id: link.boot.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_master_cannot_make_an_agent_beat_without_pause_or_never() {
        assert_eq!(wait(0), Duration::from_millis(100));
        assert_eq!(wait(u32::MAX), Duration::from_secs(600));
    }
}
