//! Nodes whose sessions other masters hold.
//!
//! Nobody keeps a list of who holds what: the masters are few, and are asked when it matters. So there is
//! nothing that could be out of date.
//!
//! Keeps: a tunnel is opened through one master only, that which has the youngest session of the node. What
//! it carries out (a command) is never done twice.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use futures::{StreamExt as _, future, stream};
use rustls::ClientConfig;
use tokio::time::timeout;

use super::Channel;
use super::pipe::{self, Ended};
use super::sessions::{OPEN_WAIT_MAX, bytes_of};
use crate::error::{Reason, Status};
use crate::tunnel::Tunnel;
use crate::tunnel::wire::{self, HoldsAnswer, HoldsRequest, ToForward, from_tunnel, to_forward};

/// Who does not answer by then is taken to hold nothing.
const ASK_WAIT_MAX: Duration = Duration::from_secs(2);

/// The other masters, and how to reach them.
pub struct Peers {
    /// Where this master serves: `https://HOST:PORT`.
    pub me: String,
    /// Where masters serve, this one among them.
    pub masters: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
    /// An administrator's certificate, and the cluster's CA.
    pub tls: Arc<dyn Fn() -> Result<Arc<ClientConfig>, String> + Send + Sync>,
}

/// Where a session was found.
pub(super) enum Place {
    At(Box<Channel>),
    Nowhere { unheard: Vec<String> },
}

impl Peers {
    pub(super) async fn find(&self, node: &str) -> Place {
        let masters = (self.masters)();
        let others: Vec<&String> = masters.iter().filter(|it| **it != self.me).collect();
        let asked = join_all(others.iter().map(|master| async move {
            let asked = timeout(ASK_WAIT_MAX, self.ask(master, node)).await;
            asked.unwrap_or_else(|_| Err("no answer in time".into()))
        }));
        let mut found: Option<(u64, Channel)> = None;
        let mut unheard = Vec::new();
        for (master, answer) in others.iter().zip(asked.await) {
            match answer {
                Ok((channel, answer)) if answer.holds => {
                    if found.as_ref().is_none_or(|(age_ms, _)| answer.age_ms < *age_ms) {
                        found = Some((answer.age_ms, channel));
                    }
                }
                Ok(_) => {}
                Err(why) => {
                    tracing::debug!(master, why, "a master cannot be asked for a session");
                    unheard.push((*master).clone());
                }
            }
        }
        match found {
            Some((_, channel)) => Place::At(Box::new(channel)),
            None => Place::Nowhere { unheard },
        }
    }

    async fn ask(&self, master: &str, node: &str) -> Result<(Channel, HoldsAnswer), String> {
        let channel = Channel::connect(master, &*(self.tls)()?).await?;
        let question = HoldsRequest { node: node.to_owned() };
        let answer = channel.client().holds(question).await;
        let answer = answer.map_err(|status| status.message().to_owned())?;
        Ok((channel, answer.into_inner()))
    }

    /// Opens a tunnel through the master that holds the session.
    pub(super) async fn open(
        &self,
        channel: Channel,
        node: &str,
        want: wire::Want,
    ) -> Result<Tunnel, Status> {
        let (out, pieces) = pipe::queue();
        let message = |message| ToForward { message: Some(message) };
        let wanted = wire::Wanted { node: node.to_owned(), want: Some(want) };
        let first = message(to_forward::Message::Wanted(wanted));
        let data = move |data: Bytes| message(to_forward::Message::Data(data));
        let asked = stream::once(future::ready(first)).chain(pipe::queued(pieces).map(data));
        let opening = async {
            let mut client = channel.client();
            let mut messages = client.forward(asked).await?.into_inner();
            let first = messages.message().await?;
            Ok::<_, tonic::Status>((messages, first.and_then(|it| it.message)))
        };
        // The other master has a limit of its own, and says more when it is reached.
        let opened = timeout(OPEN_WAIT_MAX + ASK_WAIT_MAX, opening).await;
        let opened = opened.map_err(|_| {
            let why = format!("the master that holds node \"{node}\" opened no stream in time");
            Status::new(Reason::Timeout, why)
        })?;
        let (messages, first) = opened.map_err(|status| {
            Status::internal(format!("error dialing backend: {}", status.message()))
        })?;
        match first {
            Some(from_tunnel::Message::Opened(opened)) => {
                let arriving = pipe::arriving(messages, bytes_of, Ended::default());
                let bytes = pipe::duplex(pipe::holding(arriving, channel), out);
                Ok(Tunnel { protocol: opened.protocol, bytes })
            }
            Some(from_tunnel::Message::Refused(refused)) => Err(refused.into()),
            _ => Err(Status::internal("another master answers with nothing that is understood")),
        }
    }
}
