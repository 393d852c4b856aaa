//! The gRPC service: what agents and other masters say to this master.
//!
//! Keeps: the first message of each stream says what it is and must come soon. A session whose beats stay away
//! for [`SILENT_BEATS_MAX`] periods ends.

use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt as _, future, stream};
use rand::RngExt as _;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::{Request, Response, Status, Streaming};

use super::assignments::Assignments;
use super::sessions::{Arrived, Held, Sessions};
use super::{Caller, MINOR, NODE_HEADER, PROTOCOL};
use super::{beats, pipe, reports};
use crate::tunnel::wire::{
    self, Assigned, BeatsRequest, FromNode, FromTunnel, Heartbeats, Held as HeldSet, HoldsAnswer,
    HoldsRequest, Piece, Reported, ToForward, ToNode, Written, from_node, from_tunnel, node_server,
    to_forward, to_node,
};

/// A beat waits no longer for what is written along with it.
const LEASE_WAIT_MAX: Duration = Duration::from_secs(2);
const FIRST_WAIT_MAX: Duration = Duration::from_secs(10);
/// Between two beats of a session, on average: with few sessions, and with as many as [`MANY`] or more.
const PERIOD: Duration = Duration::from_secs(10);
const PERIOD_MAX: Duration = Duration::from_secs(20);
const FEW: usize = 1000;
const MANY: usize = 5000;
const SILENT_BEATS_MAX: u32 = 3;
/// Where masters are is told with every so many beats.
const MASTERS_EVERY: u64 = 6;

#[derive(Clone)]
pub(super) struct Service {
    sessions: Sessions,
}

impl Service {
    pub fn new(sessions: Sessions) -> Service {
        Service { sessions }
    }

    fn masters(&self) -> Vec<String> {
        self.sessions.peers().map(|peers| (peers.masters)()).unwrap_or_default()
    }
}

type Told<T> = Result<Response<BoxStream<'static, Result<T, Status>>>, Status>;

fn node<T>(request: &Request<T>) -> Result<String, Status> {
    let said = || request.metadata().get(NODE_HEADER).and_then(|it| it.to_str().ok());
    match (request.extensions().get::<Caller>(), said()) {
        (Some(Caller::Node(node)), None) => Ok(node.clone()),
        (Some(Caller::Node(node)), Some(said)) if said == node => Ok(node.clone()),
        (Some(Caller::Node(node)), Some(said)) => {
            let why = format!("the certificate is of node {node:?}, not of {said:?}");
            Err(Status::permission_denied(why))
        }
        (Some(Caller::Master), Some(said)) if !said.is_empty() => Ok(said.to_owned()),
        _ => Err(Status::permission_denied("this takes a node's certificate")),
    }
}

fn master<T>(request: &Request<T>) -> Result<(), Status> {
    match request.extensions().get::<Caller>() {
        Some(Caller::Master) => Ok(()),
        _ => Err(Status::permission_denied("this is for masters")),
    }
}

async fn first<T>(messages: &mut Streaming<T>) -> Result<T, Status> {
    match timeout(FIRST_WAIT_MAX, messages.message()).await {
        Ok(message) => message?.ok_or_else(|| Status::invalid_argument("nothing was said")),
        Err(_) => Err(Status::deadline_exceeded("nothing was said in time")),
    }
}

/// How often each is heard, where there are so many.
fn period(sessions: usize) -> Duration {
    let above = u32::try_from(sessions.clamp(FEW, MANY) - FEW).unwrap_or(0);
    PERIOD + (PERIOD_MAX - PERIOD) * above / u32::try_from(MANY - FEW).unwrap_or(1)
}

/// The period, but not for all the same.
fn next_beat(period: Duration) -> Duration {
    period.mul_f64(rand::rng().random_range(0.9..1.1))
}

/// Whether both sides understand each other.
fn agree(hello: &wire::Hello) -> Result<(), Status> {
    let (theirs, release) = (hello.protocol, &hello.release);
    if theirs == PROTOCOL {
        return Ok(());
    }
    let remedy = if theirs < PROTOCOL {
        "upgrade the node"
    } else {
        "upgrade the masters first, then the nodes"
    };
    let why = format!(
        "the agent (release {release:?}) speaks version {theirs} of the node protocol, this master \
         version {PROTOCOL}; {remedy}"
    );
    Err(Status::failed_precondition(why))
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// A session from the master's side: a state that says one thing after the other.
struct Conversation {
    service: Service,
    held: Held,
    messages: Streaming<FromNode>,
    welcome: Option<ToNode>,
    silent_at: Instant,
    beats: u64,
}

impl Conversation {
    /// What is said next; `None` when it is over.
    async fn next(&mut self) -> Option<Result<ToNode, Status>> {
        if let Some(welcome) = self.welcome.take() {
            return Some(Ok(welcome));
        }
        let message = tokio::select! {
            biased;
            () = self.held.session_ended() => {
                let replaced = || Status::aborted("another session of this node took its place");
                return Some(Err(self.service.sessions.closed().unwrap_or_else(replaced)));
            }
            () = self.service.sessions.stopped() => {
                return Some(Err(Status::unavailable("this master is going down")));
            }
            order = self.held.orders.recv() => to_node::Message::Open(order?),
            message = self.messages.message() => match message {
                Ok(Some(FromNode { message: Some(from_node::Message::Beat(beat)) })) => {
                    self.heard(beat.number).await
                }
                // What a newer agent may say is passed over; a session without anything said ends.
                Ok(Some(_)) => self.heard(0).await,
                Ok(None) | Err(_) => return None,
            },
            () = sleep_until(self.silent_at) => {
                return Some(Err(Status::deadline_exceeded("no beat came in time")));
            }
        };
        Some(Ok(ToNode { message: Some(message) }))
    }

    async fn heard(&mut self, number: u64) -> to_node::Message {
        let sessions = &self.service.sessions;
        sessions.heard(&self.held.session);
        // Somebody may have deleted it.
        let node = self.held.session.node();
        let ensured = timeout(LEASE_WAIT_MAX, reports::ensure_lease(sessions, node)).await;
        if let Ok(Err(status)) = ensured {
            tracing::debug!(node, %status, "the lease of a node is not there");
        }
        let period = period(sessions.count());
        self.silent_at = Instant::now() + period * SILENT_BEATS_MAX;
        self.beats += 1;
        let tell = self.beats.is_multiple_of(MASTERS_EVERY);
        let masters = if tell { self.service.masters() } else { Vec::new() };
        to_node::Message::Heard(wire::Heard { number, next_ms: millis(next_beat(period)), masters })
    }
}

#[tonic::async_trait]
impl node_server::Node for Service {
    type SessionStream = BoxStream<'static, Result<ToNode, Status>>;
    type AssignmentsStream = BoxStream<'static, Result<Assigned, Status>>;
    type ReportsStream = BoxStream<'static, Result<Written, Status>>;
    type BeatsStream = BoxStream<'static, Result<Heartbeats, Status>>;
    type TunnelStream = BoxStream<'static, Result<Piece, Status>>;
    type ForwardStream = BoxStream<'static, Result<FromTunnel, Status>>;

    async fn session(&self, request: Request<Streaming<FromNode>>) -> Told<ToNode> {
        let node = node(&request)?;
        let mut messages = request.into_inner();
        let Some(from_node::Message::Hello(hello)) = first(&mut messages).await?.message else {
            return Err(Status::invalid_argument("a session begins with a hello"));
        };
        if hello.node != node {
            let why = format!("the certificate is of node {node:?}, not of {:?}", hello.node);
            return Err(Status::permission_denied(why));
        }
        agree(&hello)?;
        let held = self.sessions.begin(&node, &hello.boot_id)?;
        let period = period(self.sessions.count());
        tracing::info!(node, release = hello.release, "an agent is connected");
        let welcome = wire::Welcome {
            master: self.sessions.peers().map(|peers| peers.me.clone()).unwrap_or_default(),
            protocol: PROTOCOL,
            next_ms: millis(next_beat(period)),
            masters: self.masters(),
            minor: MINOR,
        };
        let conversation = Conversation {
            service: self.clone(),
            held,
            messages,
            welcome: Some(ToNode { message: Some(to_node::Message::Welcome(welcome)) }),
            silent_at: Instant::now() + period * SILENT_BEATS_MAX,
            beats: 0,
        };
        let said = stream::unfold(Some(conversation), |conversation| async {
            let mut conversation = conversation?;
            let said = conversation.next().await?;
            let goes_on = said.is_ok();
            Some((said, goes_on.then_some(conversation)))
        });
        Ok(Response::new(said.boxed()))
    }

    async fn assignments(&self, request: Request<Streaming<HeldSet>>) -> Told<Assigned> {
        let session = self.sessions.of(&node(&request)?)?;
        let mut asked = request.into_inner();
        let held = first(&mut asked).await?;
        let begun = Assignments::begin(self.sessions.clone(), session, held, asked).await?;
        let told = stream::unfold(Some(begun), |begun| async {
            let mut begun = begun?;
            let told = begun.next().await?;
            let goes_on = told.is_ok();
            Some((told, goes_on.then_some(begun)))
        });
        Ok(Response::new(told.boxed()))
    }

    async fn reports(&self, request: Request<Streaming<Reported>>) -> Told<Written> {
        let session = self.sessions.of(&node(&request)?)?;
        let (sessions, messages) = (self.sessions.clone(), request.into_inner());
        let written = stream::unfold((sessions, messages), move |(sessions, mut messages)| {
            let session = session.clone();
            async move {
                let reported = tokio::select! {
                    reported = messages.message() => reported.transpose()?,
                    () = session.ended() => return None,
                };
                let written = match reported {
                    Ok(reported) => reports::write(&sessions, session.node(), reported).await,
                    Err(status) => Err(status),
                };
                Some((written, (sessions, messages)))
            }
        });
        Ok(Response::new(written.boxed()))
    }

    async fn beats(&self, request: Request<BeatsRequest>) -> Told<Heartbeats> {
        master(&request)?;
        let stopped = self.sessions.stopped();
        let told = beats::telling(self.sessions.clone()).map(Ok).take_until(stopped);
        Ok(Response::new(told.boxed()))
    }

    async fn tunnel(&self, request: Request<Streaming<FromTunnel>>) -> Told<Piece> {
        let node = node(&request)?;
        let mut messages = request.into_inner();
        match first(&mut messages).await?.message {
            Some(from_tunnel::Message::Opened(opened)) => {
                let (out, pieces) = pipe::queue();
                let arrived = Arrived { protocol: opened.protocol, messages, out };
                self.sessions.answer(&node, &opened.key, Ok(arrived))?;
                let pieces = pipe::queued(pieces).map(|data| Ok(Piece { data }));
                Ok(Response::new(pieces.boxed()))
            }
            Some(from_tunnel::Message::Refused(refused)) => {
                let key = refused.key.clone();
                self.sessions.answer(&node, &key, Err(refused))?;
                Ok(Response::new(stream::empty().boxed()))
            }
            _ => Err(Status::invalid_argument("a tunnel begins with what became of it")),
        }
    }

    async fn holds(&self, request: Request<HoldsRequest>) -> Result<Response<HoldsAnswer>, Status> {
        master(&request)?;
        let age = self.sessions.age(&request.get_ref().node);
        let age_ms = age.map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        Ok(Response::new(HoldsAnswer { holds: age.is_some(), age_ms }))
    }

    async fn forward(&self, request: Request<Streaming<ToForward>>) -> Told<FromTunnel> {
        master(&request)?;
        let mut messages = request.into_inner();
        let Some(to_forward::Message::Wanted(wanted)) = first(&mut messages).await?.message else {
            return Err(Status::invalid_argument("it begins with what is wanted"));
        };
        let want = wanted.want.unwrap_or_default();
        let message = |message| FromTunnel { message: Some(message) };
        let opened = self.sessions.open_here(&wanted.node, &want).await;
        let tunnel = match opened {
            Some(Ok(tunnel)) => tunnel,
            Some(Err(status)) => {
                let refused = message(from_tunnel::Message::Refused(status.into()));
                return Ok(Response::new(stream::once(future::ready(Ok(refused))).boxed()));
            }
            None => {
                let why = format!("the session of node {:?} is not here any more", wanted.node);
                return Err(Status::unavailable(why));
            }
        };
        let opened = wire::Opened { key: Bytes::new(), protocol: tunnel.protocol };
        let opened = message(from_tunnel::Message::Opened(opened));
        let arriving = pipe::arriving(messages, asked, pipe::Ended::default());
        let relayed = pipe::relay(tunnel.bytes, arriving).map(move |piece| match piece {
            Ok(data) => Ok(message(from_tunnel::Message::Data(data))),
            Err(error) => Err(Status::unavailable(error.to_string())),
        });
        Ok(Response::new(stream::once(future::ready(Ok(opened))).chain(relayed).boxed()))
    }
}

fn asked(message: ToForward) -> Bytes {
    match message.message {
        Some(to_forward::Message::Data(data)) => data,
        _ => Bytes::new(),
    }
}
