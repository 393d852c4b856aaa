//! openraft's log storage, over our own [`Log`].
//!
//! Keeps: appends are handed on and answered by the log's own thread when they are durable; openraft goes
//! on meanwhile, and reads what is not durable yet from memory. A vote is durable before `save_vote`
//! returns. The log counts from one, openraft from zero; only this file knows. An answer to a
//! reader is bounded by bytes.
//! Never: reads an entry that can't be read as something else: bytes that make no sense end the member.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt};
use openraft::RaftLogReader;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::encoding::{self, unreadable};
use crate::log::{Log, Record, State};
use crate::network::convert;
use crate::types::{LogId, RaftEntry, TypeConfig, Vote, position, position_of};

/// Most bytes of one message of entries to a peer.
const MESSAGE_BYTES_MAX: usize = 2 << 20;

/// Most bytes of entries that are read ahead of being applied.
const APPLY_BYTES_MAX: usize = 4 << 20;

#[derive(Clone)]
pub(crate) struct LogStore {
    log: Log,
    vote: Arc<Mutex<Option<Vote>>>,
}

impl LogStore {
    pub(crate) fn new(log: Log) -> io::Result<LogStore> {
        let vote = match log.state().vote {
            Some(bytes) => Some(convert::decode_vote(&bytes).map_err(unreadable)?),
            None => None,
        };
        Ok(LogStore { log, vote: Arc::new(Mutex::new(vote)) })
    }

    /// Up to where the log is known to be agreed on. It is noted without a sync, so after a crash it can
    /// be ahead of the entries; those that are there are agreed on all the same.
    pub(crate) fn committed(&self) -> io::Result<Option<LogId>> {
        let state = self.log.state();
        let Some(bytes) = state.committed.clone() else {
            return Ok(None);
        };
        let committed = convert::decode_log_id(&bytes).map_err(unreadable)?;
        let last = last_of(&state)?;
        Ok(last.map(|last| if last.index < committed.index { last } else { committed }))
    }

    /// The newest entry's id; of a log without entries, the place up to which it is purged.
    pub(crate) fn last(&self) -> io::Result<Option<LogId>> {
        last_of(&self.log.state())
    }

    pub(crate) fn vote(&self) -> Option<Vote> {
        *self.vote.lock()
    }

    /// Entries of `from..to`, at least one if there is one, and no more than about `bytes_max` bytes.
    pub(crate) fn entries(
        &self,
        from: u64,
        to: u64,
        bytes_max: usize,
    ) -> io::Result<Vec<RaftEntry>> {
        let to = to.min(u64::MAX - 1);
        let records = self.log.read(position(from).0, position(to).0, bytes_max)?;
        // The log begins with what it still has; whoever asks for more than that gets nothing.
        if records.first().is_some_and(|first| first.index != position(from).0) {
            return Ok(Vec::new());
        }
        records
            .into_iter()
            .map(|record| {
                encoding::decode_entry(record.index - 1, &record.id, record.payload)
                    .map_err(unreadable)
            })
            .collect()
    }

    /// What `range` means for a log whose next index is known.
    fn bounds(&self, range: &impl RangeBounds<u64>) -> (u64, u64) {
        let from = match range.start_bound() {
            Bound::Included(from) => *from,
            Bound::Excluded(before) => before + 1,
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(last) => last + 1,
            Bound::Excluded(to) => *to,
            Bound::Unbounded => u64::MAX,
        };
        (from, to)
    }
}

/// The newest entry's id; of an empty log, the place up to which it is purged.
fn last_of(state: &State) -> io::Result<Option<LogId>> {
    id_of(state.last.as_ref()).and_then(|last| Ok(last.or(id_of(state.purged.as_ref())?)))
}

fn id_of(place: Option<&(u64, Bytes)>) -> io::Result<Option<LogId>> {
    place.map(|(at, id)| encoding::decode_entry_id(at - 1, id).map_err(unreadable)).transpose()
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<R>(&mut self, range: R) -> io::Result<Vec<RaftEntry>>
    where
        R: RangeBounds<u64> + Clone + Debug + Send,
    {
        let (mut from, to) = self.bounds(&range);
        let mut entries: Vec<RaftEntry> = Vec::new();
        while from < to {
            let more = self.entries(from, to, APPLY_BYTES_MAX)?;
            let Some(last) = more.last() else { break };
            from = last.log_id.index + 1;
            entries.extend(more);
        }
        Ok(entries)
    }

    /// What the state machine reads from: a piece at a time, however long the run is.
    async fn entries_stream<R>(
        &mut self,
        range: R,
    ) -> impl Stream<Item = io::Result<RaftEntry>> + Send
    where
        R: RangeBounds<u64> + Clone + Debug + Send,
    {
        let bounds = self.bounds(&range);
        let pieces = stream::unfold((self.clone(), Some(bounds)), |(log, rest)| async move {
            let (from, to) = rest.filter(|(from, to)| from < to)?;
            let piece = match log.entries(from, to, APPLY_BYTES_MAX) {
                Ok(entries) => entries,
                Err(error) => return Some((vec![Err(error)], (log, None))),
            };
            let Some(last) = piece.last() else {
                let error = io::Error::other(format!("the log does not hold entry {from}"));
                return Some((vec![Err(error)], (log, None)));
            };
            let rest = Some((last.log_id.index + 1, to));
            Some((piece.into_iter().map(Ok).collect(), (log, rest)))
        });
        pieces.flat_map(stream::iter)
    }

    async fn limited_get_log_entries(&mut self, from: u64, to: u64) -> io::Result<Vec<RaftEntry>> {
        self.entries(from, to, MESSAGE_BYTES_MAX)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.vote())
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let state = self.log.state();
        Ok(LogState {
            last_purged_log_id: id_of(state.purged.as_ref())?,
            last_log_id: last_of(&state)?,
        })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let (saved, done) = oneshot::channel();
        self.log.save_vote(
            convert::encode_vote(vote),
            Box::new(move |result| drop(saved.send(result))),
        );
        wait(done).await?;
        *self.vote.lock() = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        if let Some(committed) = committed {
            self.log.save_committed(convert::encode_log_id(&committed));
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        self.committed()
    }

    async fn append<I>(&mut self, entries: I, flushed: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = RaftEntry> + Send,
        I::IntoIter: Send,
    {
        let records = entries
            .into_iter()
            .map(|entry| {
                let (id, payload) = encoding::encode_entry(&entry);
                Record { index: position(entry.log_id.index).0, id, payload }
            })
            .collect();
        self.log.append(records, Box::new(move |result| flushed.io_completed(result)));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let (truncated, done) = oneshot::channel();
        self.log.truncate_after(
            position_of(last.as_ref()).0,
            Box::new(move |result| drop(truncated.send(result))),
        );
        wait(done).await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        let (purged, done) = oneshot::channel();
        self.log.purge(
            position(upto.index).0,
            encoding::encode_place(&upto),
            Box::new(move |result| drop(purged.send(result))),
        );
        wait(done).await
    }
}

async fn wait(done: oneshot::Receiver<io::Result<()>>) -> io::Result<()> {
    done.await.unwrap_or_else(|_| Err(io::Error::other("the log has stopped")))
}
