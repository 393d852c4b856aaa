//! Logs of containers, from the files that the runtime writes.
//!
//! ```text
//! TIMESTAMP stdout|stderr F|P CONTENT      F: the line ends here; P: it goes on in the next entry
//! ```
//! Keeps: what is read is in the order of the file, each byte once, also when the file is replaced while it is
//! followed (rotation gives it another name and the runtime begins a new one). A follower ends when the
//! container has ended and everything is read.
//! Never: holds more of a file than [`ENTRY_BYTES_MAX`].

mod show;
mod tail;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{Stream, stream};
use kontiki_api::Status;
use kontiki_api::object::time::Clock;
use kontiki_api::tunnel::{Duplex, wire};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::time::sleep;
use tokio_util::io::StreamReader;

use super::Ends;
use crate::agent::cri::v1::ContainerState;
use crate::agent::cri::{Error, Runtime};
use crate::agent::pods::container::log_path;
use crate::agent::pods::observed::Seen;
use crate::agent::rotation;
use show::{Options, Show};

const READ_BYTES: usize = 64 << 10;
/// Runtimes cut lines at 16 KiB. What is longer is no entry, and is thrown away.
const ENTRY_BYTES_MAX: usize = 1 << 20;
/// Between two looks at a file that is followed.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Looks until the runtime is asked whether the container still runs.
const LOOKS_PER_QUESTION: u32 = 5;

/// A container's log, from where it was asked for.
pub async fn open(ends: &Ends, wanted: wire::Logs) -> Result<Box<dyn Duplex>, Status> {
    let observed = ends.pod(wanted.pod.as_ref()).await?;
    let mut named = observed.containers.iter().filter(|it| it.name() == wanted.container);
    let seen = if wanted.previous { named.nth(1) } else { named.next() };
    let seen = seen.ok_or_else(|| missing(&wanted))?;
    let path = path(&ends.logs, wanted.pod.as_ref(), seen);
    let options = options(&wanted, &ends.clock);
    let writer = wanted
        .follow
        .then(|| Container { id: seen.id().to_owned(), runtime: ends.runtime.clone() });
    let log = Log::open(&path, options, wanted.tail_lines, writer).await;
    let log = log.map_err(|error| match error.kind() {
        // The container was made and has not begun, or its log was taken away.
        io::ErrorKind::NotFound => missing(&wanted),
        _ => Status::internal(format!("the log {} cannot be read: {error}", path.display())),
    })?;
    let reader = StreamReader::new(Box::pin(log.pieces()));
    Ok(Box::new(tokio::io::join(reader, tokio::io::sink())))
}

/// Told by the reason: the master knows the pod's status and says more.
fn missing(wanted: &wire::Logs) -> Status {
    let why = format!("container {:?} has no log", wanted.container);
    Status::new(kontiki_api::error::Reason::NotFound, why)
}

fn path(logs: &Path, pod: Option<&wire::Pod>, seen: &Seen) -> PathBuf {
    let told = Path::new(&seen.status.log_path);
    if told.is_absolute() {
        return told.to_owned();
    }
    let pod = pod.cloned().unwrap_or_default();
    let folder = format!("{}_{}_{}", pod.namespace, pod.name, pod.uid);
    logs.join(folder).join(log_path(seen.name(), seen.attempt()))
}

fn options(wanted: &wire::Logs, clock: &Clock) -> Options {
    // Seconds are counted back on the clock that the log was written by.
    let ago = wanted.since_seconds.map(|seconds| {
        clock.now().plus_seconds(seconds.saturating_neg()).as_micros().saturating_mul(1000)
    });
    let output = match wanted.output() {
        wire::Output::All => None,
        wire::Output::Stdout => Some("stdout"),
        wire::Output::Stderr => Some("stderr"),
    };
    Options {
        since_ns: ago.or(wanted.since_ns),
        timestamps: wanted.timestamps,
        limit: wanted.limit_bytes.map(|it| u64::try_from(it).unwrap_or(0)),
        output,
    }
}

/// Who writes the log.
struct Container {
    id: String,
    runtime: Arc<dyn Runtime>,
}

impl Container {
    async fn writes(&self) -> bool {
        match self.runtime.container_status(&self.id).await {
            Ok(status) => status.state() == ContainerState::ContainerRunning,
            // Containers go on without their runtime.
            Err(Error::Unreachable(_) | Error::Deadline(_)) => true,
            Err(_) => false,
        }
    }
}

/// A log that is being read.
struct Log {
    path: PathBuf,
    file: File,
    /// What comes after that file, already open: rotation does not take it away any more.
    ahead: VecDeque<File>,
    show: Show,
    /// Of an entry that is not complete yet.
    held: BytesMut,
    /// What has come is too long for an entry.
    overlong: bool,
    /// Entries that are still to come, where the end is not followed.
    left: Option<u64>,
    writer: Option<Container>,
    looks: u32,
    /// Nothing will be written any more: the next end is the last.
    last: bool,
}

impl Log {
    async fn open(
        path: &Path,
        options: Options,
        tail: Option<i64>,
        writer: Option<Container>,
    ) -> io::Result<Log> {
        let tail = tail.map(|it| u64::try_from(it).unwrap_or(0));
        // In this order: what is set aside in between is found as the file that is open already.
        let opened = File::open(path).await;
        let mut before = rotation::rotated(path);
        let mut file = match opened {
            Ok(file) => {
                let ours = identity(&file.metadata().await?);
                let is_ours = |it: &PathBuf| {
                    std::fs::metadata(it).is_ok_and(|found| identity(&found) == ours)
                };
                before.truncate(before.iter().position(is_ours).unwrap_or(before.len()));
                file
            }
            // It has been set aside, and the next has not begun.
            Err(error) if error.kind() == io::ErrorKind::NotFound => match before.pop() {
                Some(last) => File::open(last).await?,
                None => return Err(error),
            },
            Err(error) => return Err(error),
        };
        let mut wanted = tail.unwrap_or(u64::MAX);
        // Back through what the log was before, until there is enough.
        let mut later = VecDeque::new();
        loop {
            let (start, found) = match tail {
                Some(_) => tail::start(&mut file, wanted).await?,
                None => (0, 0),
            };
            wanted -= found;
            file.seek(io::SeekFrom::Start(start)).await?;
            let Some(older) = before.pop().filter(|_| wanted > 0) else { break };
            // One that has gone meanwhile was the oldest.
            let Ok(older_file) = File::open(&older).await else { break };
            later.push_front(std::mem::replace(&mut file, older_file));
        }
        Ok(Log {
            path: path.to_owned(),
            file,
            ahead: later,
            show: Show::new(options),
            held: BytesMut::new(),
            overlong: false,
            left: tail.filter(|_| writer.is_none()),
            writer,
            looks: 0,
            last: false,
        })
    }

    fn pieces(self) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        stream::unfold(Some(self), |log| async {
            let mut log = log?;
            match log.next().await {
                Ok(Some(piece)) => Some((Ok(piece), Some(log))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    /// Some more of the log; `None` at its end.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if self.show.is_done() || self.left == Some(0) {
                return Ok(None);
            }
            self.held.reserve(READ_BYTES);
            if self.file.read_buf(&mut self.held).await? > 0 {
                let shown = self.entries();
                if !shown.is_empty() {
                    return Ok(Some(shown));
                }
                continue;
            }
            if let Some(next) = self.ahead.pop_front() {
                self.file = next;
                self.held.clear();
                continue;
            }
            if self.writer.is_none() || self.last {
                // An entry that was not finished is shown as far as it came.
                let rest = self.held.split();
                let mut shown = BytesMut::new();
                self.show.entry(&rest, &mut shown);
                self.left = Some(0);
                return Ok(Some(shown.freeze()).filter(|it| !it.is_empty()));
            }
            self.wait().await?;
        }
    }

    /// Shows what is complete of what was read.
    fn entries(&mut self) -> Bytes {
        let mut shown = BytesMut::new();
        while let Some(end) = self.held.iter().position(|byte| *byte == b'\n') {
            let entry = self.held.split_to(end + 1);
            if std::mem::take(&mut self.overlong) || self.left == Some(0) {
                continue;
            }
            self.show.entry(&entry, &mut shown);
            if let Some(left) = &mut self.left {
                *left -= 1;
            }
        }
        if self.held.len() > ENTRY_BYTES_MAX {
            self.held.clear();
            self.overlong = true;
        }
        shown.freeze()
    }

    /// Waits for more, in this file or in the one that has taken its name.
    async fn wait(&mut self) -> io::Result<()> {
        if self.was_replaced().await? {
            // The runtime writes to the new one since that has the name; whatever came here before is read.
            let mut rest = BytesMut::new();
            if self.file.read_buf(&mut rest).await? > 0 {
                self.held.extend_from_slice(&rest);
                return Ok(());
            }
            match self.successors().await {
                Ok(found) => {
                    self.ahead = found;
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        self.looks += 1;
        if self.looks.is_multiple_of(LOOKS_PER_QUESTION)
            && let Some(writer) = &self.writer
            && !writer.writes().await
        {
            self.last = true;
            return Ok(());
        }
        sleep(LOOK_EVERY).await;
        Ok(())
    }

    /// The files that came after ours: more than one, if it was set aside long ago.
    async fn successors(&self) -> io::Result<VecDeque<File>> {
        let ours = identity(&self.file.metadata().await?);
        // In this order: what is set aside in between is not seen twice, and not missed.
        let last = File::open(&self.path).await?;
        let newest = identity(&last.metadata().await?);
        let mut found = VecDeque::new();
        for path in rotation::rotated(&self.path) {
            let Ok(file) = File::open(path).await else { continue };
            match identity(&file.metadata().await?) {
                it if it == ours => found.clear(),
                it if it == newest => {}
                _ => found.push_back(file),
            }
        }
        found.push_back(last);
        Ok(found)
    }

    async fn was_replaced(&self) -> io::Result<bool> {
        let ours = self.file.metadata().await?;
        match tokio::fs::metadata(&self.path).await {
            Ok(named) => Ok(identity(&named) != identity(&ours)),
            // It has lost its name, and nobody has it yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// By which a file is known whatever its name.
fn identity(file: &std::fs::Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}
