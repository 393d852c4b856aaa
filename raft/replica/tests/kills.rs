//! Processes that are killed, again and again, at moments they do not choose.
//!
//! A test starts its own binary once more as a child, which holds a member on real disks and writes. What
//! was acknowledged the child says through a pipe; the parent kills it (SIGKILL), starts it again, and
//! compares what the child then reads with what the dead one had said.
//!
//! `KONTIKI_KILLS` is how often; `KONTIKI_SEED` chooses the moments.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command as Process, Stdio};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use kontiki_storage::request::{Command, KeyRange, Put, Range};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::real::{Member, PATIENCE, Place, alone, free_address, identity, small};
use crate::error::Error;
use crate::network::grpc::TlsConfig;
use crate::network::grpc::authority::Authority;
use crate::replica::{Config, Freshness, Replica, Role, Status};
use crate::types::NodeId;

/// Writers of one child. Each counts under a key of its own.
const WRITERS: u64 = 24;

/// Where a child finds its member's directory; set, a test of this file is the child.
const CHILD: &str = "KONTIKI_TEST_CHILD";

/// A line of a child. Anything else on its output is the test harness'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    /// What a read of the writer's key showed at the start: count, version, and the store's revision.
    Found { writer: u64, count: u64, version: u64, revision: u64 },
    /// It is going to write this count.
    Tries { writer: u64, count: u64 },
    /// The count is written, by this revision.
    Wrote { writer: u64, count: u64, revision: u64 },
    /// A linearizable read showed this revision.
    Read { revision: u64 },
    /// All keys were found; it begins to write.
    Ready,
}

impl Said {
    fn say(self) {
        let line = match self {
            Said::Found { writer, count, version, revision } => {
                format!("@found {writer} {count} {version} {revision}\n")
            }
            Said::Tries { writer, count } => format!("@tries {writer} {count}\n"),
            Said::Wrote { writer, count, revision } => {
                format!("@wrote {writer} {count} {revision}\n")
            }
            Said::Read { revision } => format!("@read {revision}\n"),
            Said::Ready => "@ready\n".to_owned(),
        };
        // One write, so that lines stay whole. A parent that has gone takes the child with it.
        let mut out = std::io::stdout().lock();
        out.write_all(line.as_bytes()).and_then(|()| out.flush()).expect("the parent listens");
    }

    fn hear(line: &str) -> Option<Said> {
        // What a kill cut in two is no line.
        let line = line.strip_suffix('\n')?;
        // The harness may have left its own line open before it.
        let line = &line[line.find('@')?..];
        let mut words = line.split(' ');
        let kind = words.next()?;
        let mut number = || words.next()?.parse().ok();
        Some(match kind {
            "@found" => Said::Found {
                writer: number()?,
                count: number()?,
                version: number()?,
                revision: number()?,
            },
            "@tries" => Said::Tries { writer: number()?, count: number()? },
            "@wrote" => Said::Wrote { writer: number()?, count: number()?, revision: number()? },
            "@read" => Said::Read { revision: number()? },
            "@ready" => Said::Ready,
            _ => return None,
        })
    }
}

// The child.

/// Says what is there, and then writes and reads until it is killed.
async fn live(replica: Replica, writers: std::ops::Range<u64>) {
    let mut counts = Vec::new();
    for writer in writers {
        let count = find(&replica, writer).await;
        counts.push((writer, count));
    }
    Said::Ready.say();
    for (writer, count) in counts {
        tokio::spawn(write(replica.clone(), writer, count));
    }
    loop {
        if replica.read_barrier().await.is_ok() {
            Said::Read { revision: replica.store().revision().0 }.say();
        }
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

fn key(writer: u64) -> Bytes {
    format!("writer{writer}").into()
}

async fn find(replica: &Replica, writer: u64) -> u64 {
    let range = Range::new(KeyRange::One(key(writer)));
    let (answer, header) = loop {
        match replica.range(&range, Freshness::Linearizable).await {
            Ok(found) => break found,
            Err(Error::NoLeader(_) | Error::ReadTimeout(_)) => {}
            Err(other) => panic!("{other}"),
        }
    };
    let (count, version) = answer.kvs.first().map_or((0, 0), |kv| {
        (std::str::from_utf8(&kv.value).unwrap().trim().parse().unwrap(), kv.version)
    });
    Said::Found { writer, count, version, revision: header.revision.0 }.say();
    count
}

async fn write(replica: Replica, writer: u64, mut count: u64) {
    loop {
        count += 1;
        Said::Tries { writer, count }.say();
        // Padded, so that segments end and tables are written.
        let value = format!("{count:>width$}", width = 200 + (writer as usize * 37) % 1500);
        let put = Put { key: key(writer), value: value.into(), ..Put::default() };
        match replica.propose(Command::Put(put)).await {
            Ok(answer) => Said::Wrote { writer, count, revision: answer.revision.0 }.say(),
            Err(Error::Unknown(_) | Error::NoLeader(_)) => {}
            Err(other) => panic!("{other}"),
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

// The parent.

/// What the children have said so far, and what follows from it.
#[derive(Default)]
struct Book {
    acknowledged: BTreeMap<u64, (u64, u64)>,
    tried: BTreeMap<u64, u64>,
    /// The newest revision that anybody was shown.
    newest: u64,
    writes: u64,
    reads: u64,
}

impl Book {
    /// What a process says that was started when `floor` was known already.
    fn enter(&mut self, said: Said, floor: u64) {
        match said {
            Said::Found { writer, count, revision, .. } => {
                assert!(revision >= floor, "{revision} is read, {floor} was seen before it began");
                let acknowledged = self.acknowledged.get(&writer).copied().unwrap_or_default();
                let tried = self.tried.get(&writer).copied().unwrap_or_default();
                assert!(
                    (acknowledged.0..=tried).contains(&count),
                    "writer {writer}: {} was acknowledged at revision {}, {tried} was tried; \
                     {count} is there, at revision {revision}",
                    acknowledged.0,
                    acknowledged.1
                );
                self.read(revision);
            }
            Said::Tries { writer, count } => {
                self.tried.insert(writer, count);
            }
            Said::Wrote { writer, count, revision } => {
                self.acknowledged.insert(writer, (count, revision));
                self.writes += 1;
            }
            Said::Read { revision } => self.read(revision),
            Said::Ready => {}
        }
    }

    fn read(&mut self, revision: u64) {
        self.newest = self.newest.max(revision);
        self.reads += 1;
    }

    /// What a process that was started after all of this has to show at least.
    fn floor(&self) -> u64 {
        let written = self.acknowledged.values().map(|(_, revision)| *revision).max();
        self.newest.max(written.unwrap_or_default())
    }
}

/// A process that will be killed, and what it says.
struct Killed {
    child: Child,
    out: Out,
}

/// What a child says.
struct Out(BufReader<ChildStdout>);

impl Killed {
    /// This binary once more, for the test of that name.
    fn start(test: &str, child: &str) -> Killed {
        let mut child = Process::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture", "--test-threads", "1"])
            .env(CHILD, child)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let out = Out(BufReader::new(child.stdout.take().unwrap()));
        Killed { child, out }
    }

    /// Kills it after a while, by a thread of its own: the output has to be read meanwhile, or the pipe
    /// fills up. Hands over the rest of what it had said.
    fn kill_after(self, wait: Duration) -> Vec<Said> {
        let Killed { mut child, mut out } = self;
        let killer = std::thread::spawn(move || {
            let_pass(wait);
            kill(&mut child);
        });
        let said = std::iter::from_fn(|| out.next()).collect();
        killer.join().expect("it is killed");
        said
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the moment of a kill is the fault, nothing is waited for"
)]
fn let_pass(time: Duration) {
    std::thread::sleep(time);
}

fn kill(child: &mut Child) {
    child.kill().expect("it is still there");
    let status = child.wait().unwrap();
    assert!(status.code().is_none(), "it ended by itself, with {status}");
}

impl Out {
    /// The next thing that is said; `None` at the end.
    fn next(&mut self) -> Option<Said> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.0.read_line(&mut line).expect("the pipe can be read") == 0 {
                return None;
            }
            if let Some(said) = Said::hear(&line) {
                return Some(said);
            }
        }
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

#[test]
fn a_process_that_is_killed_keeps_what_it_acknowledged() {
    const SELF: &str = "replica::tests::kills::a_process_that_is_killed_keeps_what_it_acknowledged";
    if let Ok(path) = std::env::var(CHILD) {
        return runtime().block_on(live_alone(Path::new(&path)));
    }
    let (seed, kills) = (number("KONTIKI_SEED", 7), number("KONTIKI_KILLS", 100));
    println!("seed {seed}, {kills} kills");
    let mut random = StdRng::seed_from_u64(seed);
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("member").display().to_string();
    let mut book = Book::default();
    for kill in 0..=kills {
        let floor = book.floor();
        let mut child = Killed::start(SELF, &path);
        // One in four falls while it starts, perhaps before it has said anything.
        if kill == kills || random.random_bool(0.75) {
            let found = std::iter::from_fn(|| child.out.next().filter(|it| *it != Said::Ready));
            let found: Vec<Said> = found.collect();
            assert_eq!(found.len(), WRITERS as usize, "kill {kill}: it does not start again");
            found.into_iter().for_each(|said| enter_alone(&mut book, said, floor));
        }
        let said = child.kill_after(Duration::from_millis(random.random_range(0..150)));
        said.into_iter().for_each(|said| enter_alone(&mut book, said, floor));
    }
    println!("{} writes acknowledged, {} reads, revision {}", book.writes, book.reads, book.newest);
    assert!(book.writes > kills, "hardly anything was written");
}

/// Where nobody else can finish what was tried, each count was written once or not at all.
fn enter_alone(book: &mut Book, said: Said, floor: u64) {
    if let Said::Found { writer, count, version, .. } = said {
        assert_eq!(version, count, "writer {writer}: {count} writes made version {version}");
    }
    book.enter(said, floor);
}

async fn live_alone(path: &Path) {
    let replica = alone(path, Config { become_voter: false, ..small() }).await.unwrap();
    let me = crate::Peer { name: "m1".into(), address: "127.0.0.1:1".into(), client_urls: vec![] };
    match replica.bootstrap(me).await {
        // It was there before.
        Ok(()) | Err(Error::Directory { .. }) => {}
        Err(other) => panic!("{other}"),
    }
    live(replica, 0..WRITERS).await;
}

#[test]
fn three_processes_of_which_one_at_a_time_is_killed_keep_what_they_acknowledged() {
    const SELF: &str = "replica::tests::kills::\
        three_processes_of_which_one_at_a_time_is_killed_keep_what_they_acknowledged";
    if let Ok(child) = std::env::var(CHILD) {
        return runtime().block_on(live_among_three(&child));
    }
    let (seed, kills) = (number("KONTIKI_SEED", 8), number("KONTIKI_KILLS", 100) / 12);
    println!("seed {seed}, {kills} kills");
    let mut random = StdRng::seed_from_u64(seed);
    let root = tempfile::tempdir().unwrap();
    let children = prepare_three(root.path());
    let book = Arc::new(Mutex::new(Book::default()));
    let start = |id: usize| Listened::start(SELF, &children[id], book.clone());
    let mut running: Vec<Listened> = (0..3).map(start).collect();
    for _ in 0..kills {
        // The two others are up, so that all goes on without the third.
        running.iter_mut().for_each(Listened::wait_until_ready);
        let_pass(Duration::from_millis(random.random_range(0..400)));
        let victim = random.random_range(0..3);
        running.remove(victim).kill();
        running.insert(victim, start(victim));
    }
    running.iter_mut().for_each(Listened::wait_until_ready);
    running.into_iter().for_each(Listened::kill);
    let book = book.lock();
    println!("{} writes acknowledged, {} reads, revision {}", book.writes, book.reads, book.newest);
    assert!(book.writes > kills, "hardly anything was written");
}

/// Certificates and addresses; what each child is told.
fn prepare_three(root: &Path) -> Vec<String> {
    let authority = Authority::new("peers");
    let addresses = runtime()
        .block_on(async { [free_address().await, free_address().await, free_address().await] });
    let addresses = addresses.map(|address| address.to_string()).join(",");
    let prepare = |id: u64| {
        let TlsConfig { ca_pem, certificate_pem, key_pem } = authority.of(identity(id));
        let files = [("ca", ca_pem), ("crt", certificate_pem), ("key", key_pem)];
        for (kind, pem) in files {
            std::fs::write(root.join(format!("{id}.{kind}")), pem).unwrap();
        }
        format!("{id} {addresses} {}", root.display())
    };
    (1..=3).map(prepare).collect()
}

/// A child whose output is read all the time.
struct Listened {
    child: Child,
    listener: JoinHandle<()>,
    ready: mpsc::Receiver<()>,
    is_ready: bool,
}

impl Listened {
    fn start(test: &str, child: &str, book: Arc<Mutex<Book>>) -> Listened {
        let floor = book.lock().floor();
        let (tell, ready) = mpsc::channel();
        let Killed { child, mut out } = Killed::start(test, child);
        let listener = std::thread::spawn(move || {
            while let Some(said) = out.next() {
                if said == Said::Ready {
                    tell.send(()).ok();
                }
                book.lock().enter(said, floor);
            }
        });
        Listened { child, listener, ready, is_ready: false }
    }

    fn wait_until_ready(&mut self) {
        if !self.is_ready {
            self.ready.recv_timeout(PATIENCE).expect("it starts again, and finds its writes");
            self.is_ready = true;
        }
    }

    fn kill(mut self) {
        kill(&mut self.child);
        self.listener.join().expect("all that it said agrees with what was said before");
    }
}

async fn live_among_three(child: &str) {
    let mut words = child.splitn(3, ' ');
    let mut word = || words.next().expect("the parent says three things");
    let id: u64 = word().parse().unwrap();
    let addresses: Vec<_> = word().split(',').map(|text| text.parse().unwrap()).collect();
    let root = Path::new(word());
    let pem = |kind: &str| std::fs::read(root.join(format!("{id}.{kind}"))).unwrap();
    let tls = TlsConfig { ca_pem: pem("ca"), certificate_pem: pem("crt"), key_pem: pem("key") };
    let place = |id: u64| Place {
        id,
        path: root.join(id.to_string()),
        address: addresses[id as usize - 1],
        tls: tls.clone(),
    };
    let config = Config { become_voter: true, ..small() };
    let member: Member = place(id).start(config).await;
    if id == 1 && member.replica.bootstrap(member.peer.clone()).await.is_ok() {
        for other in [2, 3] {
            let peer = place(other).peer();
            member.replica.add_learner(NodeId(other), peer).await.unwrap();
        }
    }
    let votes = |status: &Status| matches!(status.role, Role::Leader | Role::Follower);
    member.replica.wait(PATIENCE, |status| votes(status) && status.ready).await.unwrap();
    live(member.replica, id * 100..id * 100 + WRITERS / 3).await;
}
