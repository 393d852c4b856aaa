//! The window of a stream of appends: what may be under way, and what an answer belongs to.
//!
//! Used by both transports, so that a stream behaves alike over either: [`Pipeline::outgoing`] is what is
//! sent, [`Pipeline::answers`] what the caller sees.
//!
//! Keeps: at most [`Window`] under way, beyond which nothing more is taken from the caller. One answer to
//! each message, in order. The stream ends with the first answer that is not a success, or with an error;
//! it ends without one only when every message was answered and there are no more.
//! Never: waits for ever. Once something is under way, an answer comes within the deadline or the peer
//! counts as lost.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::network::convert::EntryPayload;
use crate::network::{AppendRequest, AppendResult, LinkError};
use crate::types::RaftEntry;

/// Most bytes of entries in one message; a single entry that is larger goes alone. Small enough that a
/// window holds several, so that one is on its way while another is written to disk.
pub(super) const PIECE_BYTES_MAX: usize = 4 << 20;

/// What an entry weighs beside its payload.
const ENTRY_OVERHEAD_BYTES: usize = 64;

/// How much may be under way at once. The last message may exceed `bytes`, so that one of any size can go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

impl Window {
    pub(super) const APPENDS: Window = Window { messages: 256, bytes: 16 << 20 };
}

pub(super) struct Pipeline {
    window: Window,
    state: Mutex<State>,
    /// Something was answered: there may be room.
    room: Notify,
    /// Something was sent: the deadline runs.
    sent: Notify,
    /// The caller has gone.
    gone: CancellationToken,
}

#[derive(Default)]
struct State {
    under_way: VecDeque<Piece>,
    bytes: usize,
    /// When the deadline began to run: the last answer, or the sending if nothing was under way.
    since: Option<Instant>,
    /// The caller has no more messages, and all of them are sent.
    exhausted: bool,
}

struct Piece {
    bytes: usize,
    /// The caller sees an answer to the last piece of a message alone.
    last: bool,
}

impl Pipeline {
    pub(super) fn new(window: Window) -> Arc<Pipeline> {
        Arc::new(Pipeline {
            window,
            state: Mutex::default(),
            room: Notify::new(),
            sent: Notify::new(),
            gone: CancellationToken::new(),
        })
    }

    /// The messages to send, cut into pieces, as the window lets them. Ends when the caller drops the
    /// answers, whatever is left.
    pub(super) fn outgoing(
        self: &Arc<Pipeline>,
        requests: BoxStream<'static, AppendRequest>,
    ) -> impl Stream<Item = AppendRequest> + Send + 'static {
        let gone = self.gone.clone().cancelled_owned();
        let start = (Arc::clone(self), requests, VecDeque::new());
        let pieces = futures::stream::unfold(start, |(pipeline, mut requests, mut cut)| async {
            pipeline.has_room().await;
            if cut.is_empty() {
                match requests.next().await {
                    Some(request) => cut = pieces(request),
                    None => {
                        pipeline.state.lock().exhausted = true;
                        return None;
                    }
                }
            }
            let (piece, bytes) = cut.pop_front().expect("a message is cut into at least one piece");
            pipeline.note_sent(Piece { bytes, last: cut.is_empty() });
            Some((piece, (pipeline, requests, cut)))
        });
        pieces.take_until(gone)
    }

    /// What the caller sees of `incoming`, which has the answers of `peer` in their order.
    pub(super) fn answers<S>(
        self: Arc<Pipeline>,
        incoming: S,
        deadline: Duration,
        peer: String,
    ) -> BoxStream<'static, Result<AppendResult, LinkError>>
    where
        S: Stream<Item = Result<AppendResult, LinkError>> + Send + 'static,
    {
        let guard = self.gone.clone().drop_guard();
        let answers = Answers { pipeline: self, incoming: incoming.boxed(), deadline, peer, guard };
        futures::stream::unfold(Some(answers), |answers| async {
            let mut answers = answers?;
            let answer = answers.next().await?;
            let goes_on = matches!(answer, Ok(Ok(_)));
            Some((answer, goes_on.then_some(answers)))
        })
        .boxed()
    }

    /// Whether every message that was sent has its answer.
    pub(super) fn is_idle(&self) -> bool {
        self.state.lock().under_way.is_empty()
    }

    async fn has_room(&self) {
        loop {
            {
                let state = self.state.lock();
                let window = self.window;
                if state.under_way.len() < window.messages && state.bytes < window.bytes {
                    return;
                }
            }
            // An answer between the look and the wait leaves a permit behind.
            self.room.notified().await;
        }
    }

    fn note_sent(&self, piece: Piece) {
        let mut state = self.state.lock();
        if state.under_way.is_empty() {
            state.since = Some(Instant::now());
        }
        state.bytes += piece.bytes;
        state.under_way.push_back(piece);
        drop(state);
        self.sent.notify_one();
    }

    /// The piece that was just answered; `None` if none was under way.
    fn note_answered(&self) -> Option<Piece> {
        let mut state = self.state.lock();
        let piece = state.under_way.pop_front()?;
        state.bytes -= piece.bytes;
        state.since = (!state.under_way.is_empty()).then(Instant::now);
        drop(state);
        self.room.notify_one();
        Some(piece)
    }
}

struct Answers {
    pipeline: Arc<Pipeline>,
    incoming: BoxStream<'static, Result<AppendResult, LinkError>>,
    deadline: Duration,
    peer: String,
    /// Ends the outgoing side when the caller lets go of this one.
    #[expect(dead_code, reason = "it works by being dropped")]
    guard: DropGuard,
}

impl Answers {
    async fn next(&mut self) -> Option<Result<AppendResult, LinkError>> {
        loop {
            let due = self.pipeline.state.lock().since.map(|since| since + self.deadline);
            tokio::select! {
                biased;
                answer = self.incoming.next() => match answer {
                    Some(Ok(answer)) => {
                        let Some(piece) = self.pipeline.note_answered() else {
                            return Some(self.lost("it answered what was not asked".to_owned()));
                        };
                        if answer.is_err() || piece.last {
                            return Some(Ok(answer));
                        }
                    }
                    Some(Err(error)) => return Some(Err(error)),
                    None => return self.ended(),
                },
                () = wait_until(due, &self.pipeline.sent) => {
                    let now = self.pipeline.state.lock().since.map(|since| since + self.deadline);
                    if now.is_some_and(|due| due <= Instant::now()) {
                        let reason = format!("no answer within {:?}", self.deadline);
                        return Some(self.lost(reason));
                    }
                }
            }
        }
    }

    fn ended(&self) -> Option<Result<AppendResult, LinkError>> {
        let state = self.pipeline.state.lock();
        let unanswered = state.under_way.len();
        if unanswered == 0 && state.exhausted {
            return None;
        }
        drop(state);
        Some(self.lost(format!("it ended the stream with {unanswered} messages unanswered")))
    }

    fn lost(&self, reason: String) -> Result<AppendResult, LinkError> {
        Err(LinkError::Unknown { peer: self.peer.clone(), reason })
    }
}

/// Until `due`, or, while nothing is under way, until something is.
async fn wait_until(due: Option<Instant>, sent: &Notify) {
    match due {
        Some(due) => sleep_until(due).await,
        None => sent.notified().await,
    }
}

/// The first part of `request` that fits into one message, and whether that was all of it.
pub(super) fn first_piece(request: AppendRequest) -> (AppendRequest, bool) {
    let mut pieces = pieces(request);
    let (first, _) = pieces.pop_front().expect("a message is cut into at least one piece");
    (first, pieces.is_empty())
}

/// Cuts a message so that no piece is larger than it has to be. Appending the pieces one after another is
/// the same as appending the whole. Each comes with its weight.
fn pieces(request: AppendRequest) -> VecDeque<(AppendRequest, usize)> {
    let AppendRequest { vote, mut prev_log_id, entries, leader_commit } = request;
    let mut cut = VecDeque::new();
    let mut piece = Vec::new();
    let mut bytes = 0;
    for entry in entries {
        let weight = weight(&entry);
        if !piece.is_empty() && bytes + weight > PIECE_BYTES_MAX {
            let entries: Vec<RaftEntry> = std::mem::take(&mut piece);
            let last = entries.last().map(|entry| entry.log_id);
            cut.push_back((AppendRequest { vote, prev_log_id, entries, leader_commit }, bytes));
            prev_log_id = last;
            bytes = 0;
        }
        bytes += weight;
        piece.push(entry);
    }
    cut.push_back((AppendRequest { vote, prev_log_id, entries: piece, leader_commit }, bytes));
    cut
}

fn weight(entry: &RaftEntry) -> usize {
    let payload = match &entry.payload {
        EntryPayload::Normal(commands) => commands.0.len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => 0,
    };
    payload + ENTRY_OVERHEAD_BYTES
}
