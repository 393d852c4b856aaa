//! Messages that say nothing but what is agreed on, held back for a moment: the next entries say it as well.
//!
//! openraft tells each follower of what is agreed on in a message of its own, unless entries are on their way
//! by then. Where one write follows the answer to another that is every second message, and its answer costs
//! the leader as much as that of an entry.
//!
//! Keeps: the order of messages. Nothing is held longer than [`HELD_MAX`], and nothing at all while writes are
//! further apart than that: who writes once in a while is seen at once at every follower.
//! Keeps: a follower hears at once what a read there waits for, or a write that came through it ([`Awaited`]).
//! Never: drops a message unless the one that follows it holds all that it says.

use std::time::Duration;

use futures::stream::{self, Fuse, Stream, StreamExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::network::AppendRequest;

/// How long a message is held at most, and how close writes have to be for that.
const HELD_MAX: Duration = Duration::from_millis(2);

/// At a follower somebody waits for what is agreed on by now: a read, or a write that came through it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Awaited(watch::Sender<()>);

impl Awaited {
    /// What is held back goes out.
    pub(crate) fn note(&self) {
        self.0.send_replace(());
    }
}

/// `requests` to one follower, without those that the next one makes superfluous.
pub(crate) fn carried<S>(
    requests: S,
    awaited: &Awaited,
) -> impl Stream<Item = AppendRequest> + Send + 'static
where
    S: Stream<Item = AppendRequest> + Send + Unpin + 'static,
{
    let awaited = awaited.0.subscribe();
    let carrier =
        Carrier { requests: requests.fuse(), awaited, next: None, wrote: None, close: false };
    stream::unfold(carrier, |mut carrier| async { Some((carrier.next().await?, carrier)) })
}

struct Carrier<S> {
    requests: Fuse<S>,
    awaited: watch::Receiver<()>,
    /// Came while another was held, and goes after it.
    next: Option<AppendRequest>,
    /// When entries went out last.
    wrote: Option<Instant>,
    /// Whether they followed others closely.
    close: bool,
}

impl<S: Stream<Item = AppendRequest> + Unpin> Carrier<S> {
    async fn next(&mut self) -> Option<AppendRequest> {
        let request = match self.next.take() {
            Some(request) => request,
            None => self.requests.next().await?,
        };
        if !request.entries.is_empty() {
            return Some(self.writes(request));
        }
        // An error says that the leader's side has gone.
        if !self.close || self.awaited.has_changed().unwrap_or(true) {
            return Some(request);
        }
        Some(self.hold(request).await)
    }

    /// Notes that `request` has entries.
    fn writes(&mut self, request: AppendRequest) -> AppendRequest {
        let now = Instant::now();
        self.close = self.wrote.is_some_and(|before| now - before < HELD_MAX);
        self.wrote = Some(now);
        self.awaited.mark_unchanged();
        request
    }

    async fn hold(&mut self, mut held: AppendRequest) -> AppendRequest {
        let until = Instant::now() + HELD_MAX;
        loop {
            tokio::select! {
                biased;
                next = self.requests.next() => match next {
                    Some(next) if says_all_of(&next, &held) => {
                        if !next.entries.is_empty() {
                            return self.writes(next);
                        }
                        held = next;
                    }
                    other => {
                        self.next = other;
                        return held;
                    }
                },
                _ = self.awaited.changed() => return held,
                () = sleep_until(until) => return held,
            }
        }
    }
}

/// Whether a follower that hears `next` needs not hear `held`, which has no entries.
fn says_all_of(next: &AppendRequest, held: &AppendRequest) -> bool {
    next.vote == held.vote
        && next.prev_log_id == held.prev_log_id
        && next.leader_commit >= held.leader_commit
}

#[cfg(test)]
mod tests {
    use futures::channel::mpsc::{self, UnboundedSender};
    use futures::stream::BoxStream;
    use openraft::entry::RaftEntry as _;
    use openraft::vote::RaftLeaderId as _;

    use super::*;
    use crate::network::convert::EntryPayload;
    use crate::types::{LogId, NodeId, RaftEntry, Vote};

    fn at(index: u64) -> LogId {
        let leader = Vote::new(1, NodeId(1)).leader_id;
        LogId::new(leader.to_committed(), index)
    }

    /// After entry `prev`, which is agreed on up to `agreed`.
    fn request(prev: u64, entries: u64, agreed: u64) -> AppendRequest {
        let entries = (prev + 1..=prev + entries)
            .map(|index| RaftEntry::new(at(index), EntryPayload::Blank))
            .collect();
        AppendRequest {
            vote: Vote::new_committed(1, NodeId(1)),
            prev_log_id: Some(at(prev)),
            leader_commit: Some(at(agreed)),
            entries,
        }
    }

    fn told(request: Option<AppendRequest>) -> (u64, usize, u64) {
        let request = request.expect("the stream has not ended");
        let index = |id: Option<LogId>| id.unwrap().index;
        (index(request.prev_log_id), request.entries.len(), index(request.leader_commit))
    }

    /// To one follower: what goes in, who waits there, and what comes out.
    fn way() -> (UnboundedSender<AppendRequest>, Awaited, BoxStream<'static, AppendRequest>) {
        let (asks, asked) = mpsc::unbounded();
        let awaited = Awaited::default();
        let sent = carried(asked, &awaited).boxed();
        (asks, awaited, sent)
    }

    #[tokio::test(start_paused = true)]
    async fn of_writes_that_follow_each_other_each_says_what_became_of_the_one_before() {
        let (asks, _awaited, mut sent) = way();
        for prev in 0..3 {
            asks.unbounded_send(request(prev, 1, prev)).unwrap();
            let carries = (prev, 1, prev);
            assert_eq!(told(sent.next().await), carries);
            if prev > 0 {
                asks.unbounded_send(request(prev + 1, 0, prev + 1)).unwrap();
            }
        }
        let began = Instant::now();
        assert_eq!(told(sent.next().await), (3, 0, 3), "nothing follows: it goes by itself");
        assert!(began.elapsed() >= HELD_MAX, "it was held");
        drop(asks);
        assert!(sent.next().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_write_now_and_then_every_follower_hears_at_once() {
        let (asks, _awaited, mut sent) = way();
        for prev in 0..3 {
            asks.unbounded_send(request(prev, 1, prev)).unwrap();
            asks.unbounded_send(request(prev + 1, 0, prev + 1)).unwrap();
            assert_eq!(told(sent.next().await), (prev, 1, prev));
            let began = Instant::now();
            assert_eq!(told(sent.next().await), (prev + 1, 0, prev + 1));
            assert_eq!(began.elapsed(), Duration::ZERO);
            tokio::time::advance(HELD_MAX).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_at_a_follower_is_kept_waiting_whether_they_come_before_or_meanwhile() {
        for early in [true, false] {
            let (asks, awaited, mut sent) = way();
            for prev in 0..2 {
                asks.unbounded_send(request(prev, 1, prev)).unwrap();
                sent.next().await.unwrap();
            }
            let began = Instant::now();
            asks.unbounded_send(request(2, 0, 2)).unwrap();
            if early {
                awaited.note();
            } else {
                let held = tokio::time::timeout(Duration::ZERO, sent.next()).await;
                assert!(held.is_err(), "it is held");
                awaited.note();
            }
            assert_eq!(told(sent.next().await), (2, 0, 2));
            assert!(began.elapsed() < HELD_MAX, "early: {early}");
        }
    }

    /// Another leader's, or from another place: what was held says something that this does not.
    #[tokio::test(start_paused = true)]
    async fn nothing_is_left_out_that_the_next_message_does_not_say() {
        let awaited = Awaited::default();
        let later = Vote::new_committed(2, NodeId(2));
        let apart =
            [request(9, 1, 9), request(2, 1, 1), AppendRequest { vote: later, ..request(2, 1, 2) }];
        for next in apart {
            let requests = [request(0, 1, 0), request(1, 1, 1), request(2, 0, 2), next.clone()];
            let sent: Vec<_> = carried(stream::iter(requests), &awaited).collect().await;
            assert_eq!(sent.len(), 4, "{next}");
            assert_eq!(told(sent.get(2).cloned()), (2, 0, 2));
        }
    }
}
