//! Whole stores, sent to members whose next entry is no longer in the log, and received from them.
//!
//! openraft believes in one "snapshot": what is durable here. It costs nothing and holds no bytes. Only
//! when a peer needs one is the store's present state linked into a directory, read once and streamed;
//! its header says how far it goes, which is at least as far as openraft was told.
//!
//! Keeps: a received store takes the place of the present one as a whole, and only after it was checked
//! against its manifest and against what the sender said of it.
//! Never: holds a store, or more than a few chunks of one, in memory.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt};
use kontiki_storage::compaction::Floor;
use kontiki_storage::directory::{Directory, Incoming};
use kontiki_storage::engine::Open;
use kontiki_storage::snapshot::{
    Chunk, Facts, Manifest, Position, Receiver, Shelf, Snapshot, chunk,
};
use kontiki_storage::{Error, Options, Store};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::encoding::Mark;
use crate::network::{SnapshotChunk, SnapshotHeader, convert};
use crate::runtime::apart;
use crate::types::{LogId, SnapshotMeta};

/// Chunks that were read, or received, and not yet taken.
const CHUNKS_AHEAD: usize = 4;

/// A snapshot that nobody has asked for in so long gives its space back.
const KEPT_FOR: Duration = Duration::from_secs(600);

/// What openraft hands around as a snapshot's content.
pub(crate) enum SnapshotData {
    /// What the store holds when it is sent.
    Present,
    Received(Box<Received>),
}

/// A store that came from a peer and lies, complete, beside the present one.
pub(crate) struct Received {
    pub incoming: Incoming,
    pub mark: Mark,
}

pub(crate) struct Snapshots {
    shelf: Shelf,
    directory: Arc<Directory>,
    store: Store,
    engine: Arc<dyn Open>,
    used_at: Mutex<Option<Instant>>,
    /// Breaks off what is read when this member stops, which waits for all that works on the disk.
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Snapshots {
    pub(crate) fn open(
        directory: Arc<Directory>,
        store: Store,
        engine: Arc<dyn Open>,
        stop: CancellationToken,
        tasks: TaskTracker,
    ) -> Result<Arc<Snapshots>, Error> {
        let shelf = Shelf::open(&directory.snapshots())?;
        let used_at = Mutex::default();
        Ok(Arc::new(Snapshots { shelf, directory, store, engine, used_at, stop, tasks }))
    }

    /// Notes damage that was met in the present state, until another takes its place.
    pub(crate) fn doubt(&self, met: &Error) {
        if let Err(error) = self.directory.doubt(met) {
            tracing::error!(%error, "that the state is damaged cannot be noted");
        }
    }

    /// The present state, at least up to `least`, as a header (without a vote) and its chunks.
    pub(crate) async fn export(
        self: &Arc<Self>,
        least: Option<LogId>,
    ) -> Result<(SnapshotHeader, BoxStream<'static, io::Result<SnapshotChunk>>), Error> {
        let this = self.clone();
        let (header, snapshot) = self.blocking(move || this.describe(least)).await?;
        let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
        let this = self.clone();
        self.tasks.spawn(async move {
            let stop = this.stop.clone();
            stop.run_until_cancelled(this.feed(snapshot, sender)).await;
        });
        let chunks = stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|chunk| (chunk, receiver))
        });
        Ok((header, chunks.boxed()))
    }

    /// Reads the chunks, ahead of whoever takes them, until the end, an error, or until nobody does.
    async fn feed(
        self: Arc<Self>,
        snapshot: Arc<Snapshot>,
        sender: mpsc::Sender<io::Result<SnapshotChunk>>,
    ) {
        let open = move || snapshot.chunks(Position::START, chunk::BYTES_DEFAULT);
        let mut chunks = match self.blocking(open).await {
            Ok(chunks) => chunks,
            Err(error) => return drop(sender.send(Err(io::Error::other(error))).await),
        };
        loop {
            let read = move || Ok((chunks.next().transpose()?, chunks));
            match self.blocking(read).await {
                Ok((Some(chunk), rest)) => {
                    if sender.send(Ok(to_wire(chunk))).await.is_err() {
                        return;
                    }
                    chunks = rest;
                }
                Ok((None, _)) => break,
                Err(error) => return drop(sender.send(Err(io::Error::other(error))).await),
            }
        }
        *self.used_at.lock() = None;
    }

    /// The present state, for whoever wants it as files.
    pub(crate) async fn take_now(self: &Arc<Self>) -> Result<Arc<Snapshot>, Error> {
        let this = self.clone();
        self.blocking(move || this.take()).await
    }

    fn describe(&self, least: Option<LogId>) -> Result<(SnapshotHeader, Arc<Snapshot>), Error> {
        let reaches = |mark: &Mark| mark.log_id.map(|id| id.index) >= least.map(|id| id.index);
        let kept = match self.shelf.newest() {
            Some(newest) => Some((mark_of(newest.manifest())?, newest)),
            None => None,
        };
        let (mark, snapshot) = match kept.filter(|(mark, _)| reaches(mark)) {
            Some(kept) => kept,
            None => {
                let taken = self.take()?;
                (mark_of(taken.manifest())?, taken)
            }
        };
        let meta = SnapshotMeta { last_log_id: mark.log_id, last_membership: mark.membership };
        let header = SnapshotHeader {
            vote: bytes::Bytes::new(),
            meta: convert::encode_snapshot_meta(&meta),
            manifest: snapshot.manifest().encode(),
        };
        Ok((header, snapshot))
    }

    fn take(&self) -> Result<Arc<Snapshot>, Error> {
        let facts = |path: &Path| -> Result<Facts, Error> {
            let floor = Floor::default();
            let engine = self.engine.open(path, floor.retain())?;
            let store = Store::open(engine, floor, Options::default())?;
            Ok(store.facts())
        };
        self.shelf.take(&*self.store.engine(), &facts)
    }

    /// Gives back the space of a snapshot that is no longer asked for.
    pub(crate) fn retire(&self) {
        let mut used_at = self.used_at.lock();
        if self.shelf.newest().is_none() {
            *used_at = None;
            return;
        }
        if used_at.get_or_insert_with(Instant::now).elapsed() > KEPT_FOR {
            self.shelf.clear();
            *used_at = None;
        }
    }

    /// Takes in a store that a peer sends. Nothing of the present one changes.
    pub(crate) async fn receive(
        self: &Arc<Self>,
        header: SnapshotHeader,
        mut chunks: BoxStream<'static, io::Result<SnapshotChunk>>,
    ) -> Result<Box<Received>, String> {
        let said = convert::decode_snapshot_meta(&header.meta).map_err(|e| e.to_string())?;
        let manifest = Manifest::decode(&header.manifest).map_err(|e| e.to_string())?;
        let mark = mark_of(&manifest).map_err(|e| e.to_string())?;
        if mark.log_id != said.last_log_id || mark.membership != said.last_membership {
            return Err("the snapshot is not what its header says it is".into());
        }
        let this = self.clone();
        let files = self.blocking(move || Receiver::new(manifest, this.directory.incoming()?));
        let mut files = files.await.map_err(|error| error.to_string())?;
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| format!("the snapshot broke off: {error}"))?;
            let written = self.blocking(move || {
                files.take(&from_wire(chunk))?;
                Ok(files)
            });
            files = written.await.map_err(|error| error.to_string())?;
        }
        let incoming = self.blocking(move || files.finish());
        let incoming = incoming.await.map_err(|error| error.to_string())?;
        Ok(Box::new(Received { incoming, mark }))
    }

    /// Puts a received store in the place of the present one. It is durable when this returns.
    pub(crate) async fn install(self: &Arc<Self>, received: Box<Received>) -> Result<Mark, Error> {
        let this = self.clone();
        self.blocking(move || {
            let Received { incoming, mark } = *received;
            let path = this.directory.adopt(incoming)?;
            this.shelf.clear();
            this.replace(&path)?;
            // Who still reads the old files has them open; their names can go.
            if let Err(error) = this.directory.sweep() {
                tracing::warn!(%error, "a store that was replaced stays on the disk");
            }
            Ok(mark)
        })
        .await
    }

    /// Runs what touches the disk off the tasks that keep the cluster alive.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        match apart(&self.tasks, work).await {
            Ok(result) => result,
            Err(panic) => Err(Error::engine("snapshot", panic)),
        }
    }

    fn replace(&self, path: &Path) -> Result<(), Error> {
        let floor = Floor::default();
        let engine = self.engine.open(path, floor.retain())?;
        self.store.install(engine, floor)
    }
}

fn mark_of(manifest: &Manifest) -> Result<Mark, Error> {
    Mark::decode(&manifest.facts().mark).map_err(|error| Error::Damaged(error.to_string()))
}

fn to_wire(chunk: Chunk) -> SnapshotChunk {
    let Chunk { file, offset, bytes, checksum } = chunk;
    SnapshotChunk { file, offset, bytes, checksum }
}

fn from_wire(chunk: SnapshotChunk) -> Chunk {
    let SnapshotChunk { file, offset, bytes, checksum } = chunk;
    Chunk { file, offset, bytes, checksum }
}
