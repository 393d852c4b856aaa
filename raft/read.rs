//! Read barriers: proof that what this member shows is not older than the moment a read began.
//!
//! Everyone who waits shares a round. A round asks once (openraft's read index where this member leads,
//! the leader by a link where it does not) up to which entry must be applied, and that is waited for
//! here. A reader who comes while a round is out waits for the next one: the answer to a question that
//! was asked before the read began proves nothing about it.
//!
//! Keeps: a leader answers only after a quorum has confirmed it *after* the question was put, so one
//! that was paused or cut off cannot pass off what it last knew.
//! Never: queues more readers than `waiting_max`.

use std::sync::Arc;
use std::time::Duration;

use kontiki_storage::revision::Index;
use openraft::ReadPolicy;
use openraft::error::{LinearizableReadError, RaftError};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::error::Error;
use crate::leader::{GaveUp, LeaderSearch};
use crate::network::{Forward, Forwarded};
use crate::replica::Inner;
use crate::types::{NodeId, position};

type Waiter = oneshot::Sender<Result<(), Error>>;

/// Readers that wait for the next round.
pub(crate) struct Barriers {
    waiting: Mutex<Vec<Waiter>>,
    arrived: Notify,
    waiting_max: usize,
}

impl Barriers {
    pub(crate) fn new(waiting_max: usize) -> Barriers {
        Barriers { waiting: Mutex::default(), arrived: Notify::new(), waiting_max }
    }

    /// Waits until this member has applied everything that was agreed on before the call.
    pub(crate) async fn wait(&self, timeout: Duration) -> Result<(), Error> {
        let (waiter, passed) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock();
            if waiting.len() >= self.waiting_max {
                // Those who gave up meanwhile need no place.
                waiting.retain(|waiter| !waiter.is_closed());
            }
            if waiting.len() >= self.waiting_max {
                return Err(Error::Overloaded { waiting: waiting.len(), max: self.waiting_max });
            }
            waiting.push(waiter);
        }
        self.arrived.notify_one();
        match tokio::time::timeout(timeout, passed).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Error::Stopped("no more reads are served".into())),
            Err(_) => Err(Error::ReadTimeout(format!("{} ms have passed", timeout.as_millis()))),
        }
    }

    fn take(&self) -> Vec<Waiter> {
        let mut waiting = std::mem::take(&mut *self.waiting.lock());
        waiting.retain(|waiter| !waiter.is_closed());
        waiting
    }
}

/// Runs rounds until the replica stops. Rounds are put one after the other; waiting until an answer is
/// applied overlaps with the next round.
pub(crate) async fn run(replica: Arc<Inner>) {
    loop {
        tokio::select! {
            biased;
            () = replica.barriers.arrived.notified() => {}
            () = replica.stop.cancelled() => break,
        }
        let waiters = replica.barriers.take();
        if waiters.is_empty() {
            continue;
        }
        match round(&replica).await {
            Ok(index) if replica.progress.applied() >= index => answer(waiters, Ok(())),
            Ok(index) => {
                let tasks = replica.clone();
                let waiting = replica.clone();
                tasks.spawn(async move {
                    let limit = waiting.config.request_timeout();
                    let level = waiting.progress.reached(index);
                    let result = match tokio::time::timeout(limit, level).await {
                        Ok(()) => Ok(()),
                        Err(_) => Err(Error::ReadTimeout(format!(
                            "entry {index} is not applied yet, {} is",
                            waiting.progress.applied()
                        ))),
                    };
                    answer(waiters, result);
                });
            }
            Err(error) => answer(waiters, Err(error)),
        }
    }
    let error = replica.stopped();
    answer(replica.barriers.take(), Err(error));
}

fn answer(waiters: Vec<Waiter>, result: Result<(), Error>) {
    for waiter in waiters {
        waiter.send(result.clone()).ok();
    }
}

/// One round, tried again for as long as a request may take: a read may be asked for freely, it changes
/// nothing.
async fn round(replica: &Arc<Inner>) -> Result<Index, Error> {
    let deadline = Instant::now() + replica.config.request_timeout();
    let mut search = LeaderSearch::new(replica, deadline);
    loop {
        let leader = search.next().await.map_err(|gave_up| match gave_up {
            GaveUp::TurnedAway(reason) => Error::ReadTimeout(reason),
            other => other.not_done(replica),
        })?;
        // A round that is lost on the way must not cost its readers all of their time.
        let patience = Duration::from_millis(replica.config.election_timeout_ms.0);
        let patience = search.left().min(patience);
        let attempt = if leader == replica.id {
            match tokio::time::timeout(patience, read_index(replica)).await {
                Ok(attempt) => attempt,
                Err(_) => Err(format!("no quorum in {} ms", patience.as_millis())),
            }
        } else {
            ask(replica, leader, patience).await
        };
        match attempt {
            Ok(index) => return Ok(index),
            Err(reason) => search.turned_away(leader, reason),
        }
    }
}

async fn ask(replica: &Inner, leader: NodeId, patience: Duration) -> Result<Index, String> {
    let link = replica.link(leader).ok_or_else(|| format!("{leader} is no member"))?;
    match link.forward(Forward::ReadIndex, patience).await {
        Ok(Forwarded::ReadIndex(index)) => Ok(Index(index)),
        Ok(other) => Err(format!("{leader} answered {other:?}")),
        Err(error) => Err(error.to_string()),
    }
}

/// Asked of the leader itself: the entry up to which a read that begins now must see.
pub(crate) async fn read_index(replica: &Inner) -> Result<Index, String> {
    match replica.raft().get_read_linearizer(ReadPolicy::ReadIndex).await {
        Ok(linearizer) => Ok(position(linearizer.read_log_id().index())),
        Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(elsewhere))) => {
            Err(elsewhere.to_string())
        }
        Err(RaftError::APIError(error)) => Err(error.to_string()),
        Err(RaftError::Fatal(fatal)) => {
            replica.note_fatal(&fatal);
            Err(fatal.to_string())
        }
    }
}
