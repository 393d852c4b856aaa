//! Random schedules against a model: a journal, and for each watcher the one number up to which it
//! must have been told everything.
//!
//! By hand, a watcher is polled only when it is new, was answered, or was woken: one that is woken
//! too rarely stands still, and the model sees it. On paused time, tasks of different speed do the
//! same.
//!
//! `KONTIKI_WATCH_SEED=n` replays one seed.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::bed::{Bed, Flag, Journal, small};
use crate::record::{Event, EventKind};
use crate::request::KeyRange;
use crate::revision::Revision;
use crate::watch::*;

/// What one watcher must be told, and has been.
pub(super) struct Model {
    journal: Arc<Journal>,
    request: Request,
    /// Everything wanted before this has been delivered.
    next: Revision,
    progress: Revision,
    pub(super) delivered: usize,
}

impl Model {
    pub(super) fn new(journal: &Arc<Journal>, request: &Request, start: Revision) -> Model {
        let journal = journal.clone();
        let (request, next) = (request.clone(), start);
        Model { journal, request, next, progress: Revision::ZERO, delivered: 0 }
    }

    /// What is wanted up to and including a revision and was not delivered yet.
    fn due(&self, to: Revision) -> Vec<Arc<Event>> {
        let mut due = Vec::new();
        let to = to.min(self.journal.revision());
        let mut revision = self.next.max(Revision(2));
        while revision <= to {
            let commit = self.journal.commit_at(revision);
            due.extend(commit.events.iter().filter(|event| self.wants(event)).cloned());
            revision = revision.next();
        }
        due
    }

    fn wants(&self, event: &Event) -> bool {
        let kind = match event.kind {
            EventKind::Put => self.request.puts,
            EventKind::Delete => self.request.deletes,
        };
        kind && self.request.range.contains(&event.kv.key)
    }

    pub(super) fn delivers(&mut self, delivery: &Delivery) {
        assert!(delivery.revision >= self.next, "{delivery:?} is due from {}", self.next);
        assert_eq!(delivery.events.last().unwrap().kv.modified, delivery.revision);
        assert_eq!(delivery.events, self.due(delivery.revision), "from {}", self.next);
        self.next = delivery.revision.next();
        self.delivered += delivery.events.len();
    }

    pub(super) fn checks(&mut self, watcher: &Watcher) {
        let Some(progress) = watcher.progress() else {
            return;
        };
        assert!(progress >= self.progress, "progress {progress} after {}", self.progress);
        assert!(progress >= self.next.previous(), "progress {progress}, due {}", self.next);
        assert_eq!(self.due(progress), [], "progress {progress} overtakes events");
        self.progress = progress;
        self.next = self.next.max(progress.next());
        // Who starts again there misses nothing. (Beside a writer it may have moved on by now.)
        let cursor = watcher.cursor();
        assert!(cursor >= self.next);
        assert_eq!(self.due(cursor.previous()), [], "the cursor is at {cursor}");
    }
}

struct Reader {
    watcher: Watcher,
    model: Model,
    flag: Flag,
    runnable: bool,
    /// Snapshots installed when it began.
    resets: usize,
}

struct Schedule {
    bed: Bed,
    random: StdRng,
    readers: Vec<Reader>,
    /// What was published, or came with a snapshot.
    published: Revision,
    resets: usize,
    cuts: usize,
    delivered: usize,
}

pub(super) fn any_key(random: &mut StdRng) -> String {
    let room = ["/a/", "/b/", "/b/c/", "/z/"][random.random_range(0..4)];
    format!("{room}{}", random.random_range(0..5))
}

fn any_changes(random: &mut StdRng) -> Vec<(EventKind, String, usize)> {
    let count = if random.random_bool(0.05) { 40 } else { random.random_range(1..4) };
    let change = |random: &mut StdRng| {
        let deletes = random.random_bool(0.3);
        let kind = if deletes { EventKind::Delete } else { EventKind::Put };
        let length = if deletes { 0 } else { random.random_range(0..200) };
        (kind, any_key(random), length)
    };
    (0..count).map(|_| change(random)).collect()
}

fn any_request(random: &mut StdRng, newest: Revision) -> Request {
    let range = match random.random_range(0..6) {
        0 => KeyRange::One(any_key(random).into()),
        1 => KeyRange::From(any_key(random).into()),
        2 => KeyRange::all(),
        3 => KeyRange::Between { start: any_key(random).into(), end: any_key(random).into() },
        _ => KeyRange::prefix(["/a/", "/b/", "/b/c/", "/"][random.random_range(0..4)]),
    };
    let start = match random.random_range(0..4) {
        0 => Revision::ZERO,
        1 => Revision(newest.0 + random.random_range(0..10)),
        _ => Revision(random.random_range(1..=newest.0)),
    };
    let (puts, deletes) =
        [(true, true), (true, true), (true, false), (false, true)][random.random_range(0..4)];
    Request { puts, deletes, ..Request::new(range).from(start) }
}

impl Schedule {
    fn new(seed: u64) -> Schedule {
        Schedule {
            bed: Bed::new(small()),
            random: StdRng::seed_from_u64(seed),
            readers: Vec::new(),
            published: Revision::EMPTY,
            resets: 0,
            cuts: 0,
            delivered: 0,
        }
    }

    fn step(&mut self) {
        match self.random.random_range(0..100) {
            0..40 => self.publish(),
            40..48 => self.watch(),
            48..96 => self.poll_some(),
            96 => self.compact(),
            97 if self.random.random_bool(0.3) => self.install(),
            97 => self.bed.hub.advance(self.published),
            _ if self.readers.len() > 8 => {
                let gone = self.random.random_range(0..self.readers.len());
                self.readers.swap_remove(gone);
            }
            _ => {}
        }
    }

    fn publish(&mut self) {
        let batch = if self.random.random_bool(0.1) { 40 } else { self.random.random_range(1..4) };
        let commits: Vec<Commit> = (0..batch)
            .map(|_| self.bed.journal.write(any_changes(&mut self.random).into_iter()))
            .collect();
        self.published = commits.last().unwrap().revision;
        self.bed.hub.publish(commits);
        self.notice_wakes();
    }

    /// A snapshot brings commits that nobody was told of.
    fn install(&mut self) {
        for _ in 0..self.random.random_range(0..20) {
            self.bed.journal.write(any_changes(&mut self.random).into_iter());
        }
        self.published = self.bed.journal.revision();
        let back = self.random.random_range(0..10);
        self.bed.journal.compact(Revision(self.published.0.saturating_sub(back)));
        self.bed.hub.reset(self.published, self.bed.journal.compacted());
        self.resets += 1;
        self.notice_wakes();
    }

    fn compact(&mut self) {
        let back = self.random.random_range(0..60);
        self.bed.compact(self.published.0.saturating_sub(back));
    }

    fn watch(&mut self) {
        let request = any_request(&mut self.random, self.published);
        self.enter(request);
    }

    fn enter(&mut self, request: Request) {
        let zero = request.start == Revision::ZERO;
        let start = if zero { self.published.next() } else { request.start };
        let watcher = self.bed.watch(request.clone());
        let model = Model::new(&self.bed.journal, &request, start);
        let flag = Flag::default();
        self.readers.push(Reader { watcher, model, flag, runnable: true, resets: self.resets });
    }

    fn notice_wakes(&mut self) {
        for reader in &mut self.readers {
            reader.runnable |= reader.flag.take();
        }
    }

    fn poll_some(&mut self) {
        for _ in 0..self.random.random_range(1..5) {
            if !self.readers.is_empty() {
                let chosen = self.random.random_range(0..self.readers.len());
                self.poll(chosen);
            }
        }
    }

    /// Polls a reader as a runtime would, and holds it to its model.
    fn poll(&mut self, place: usize) {
        let reader = &mut self.readers[place];
        if !reader.runnable {
            return;
        }
        match reader.flag.poll(&mut reader.watcher) {
            Poll::Ready(Ok(delivery)) => {
                reader.model.delivers(&delivery);
                self.delivered += delivery.events.len();
            }
            Poll::Ready(Err(cut)) => return self.cut(place, &cut),
            Poll::Pending => {
                reader.runnable = reader.flag.take();
                if !reader.runnable {
                    let due = reader.model.due(self.published);
                    assert_eq!(due, [], "it sleeps although there is something to tell");
                }
            }
        }
        reader.model.checks(&reader.watcher);
    }

    /// A cut must have its cause. Half of the cut resume where they stood, as far as they may.
    fn cut(&mut self, place: usize, cut: &Cut) {
        self.cuts += 1;
        let reader = self.readers.swap_remove(place);
        let oldest = self.bed.journal.compacted();
        let mut start = reader.watcher.cursor();
        match cut {
            Cut::Compacted { compacted } => {
                let next = reader.model.next;
                assert!(next < *compacted && *compacted <= oldest, "{cut:?} at {next}");
                start = oldest;
            }
            Cut::TooOld { .. } => assert!(reader.resets < self.resets),
            Cut::Closed | Cut::Failed(_) => panic!("{cut:?}"),
        }
        if self.random.random_bool(0.5) {
            self.enter(reader.watcher.request().clone().from(start));
        }
    }

    /// Everyone reads until nobody is runnable, and then has been told everything.
    fn settle(&mut self) {
        while let Some(place) = self.readers.iter().position(|reader| reader.runnable) {
            self.poll(place);
        }
        for reader in &mut self.readers {
            assert_eq!(reader.model.due(self.published), []);
            reader.model.checks(&reader.watcher);
            let level = reader.model.next > self.published;
            assert!(level, "due {} at {}", reader.model.next, self.published);
        }
        assert_eq!(self.bed.hub.stats().watchers, self.readers.len());
        assert_eq!(self.bed.hub.stats().lagging, 0);
    }
}

fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("KONTIKI_WATCH_SEED") {
        Ok(seed) => vec![seed.parse().expect("KONTIKI_WATCH_SEED is a number")],
        Err(_) => (0..count).collect(),
    }
}

#[test]
fn every_watcher_is_told_what_the_model_says_on_random_schedules() {
    let (mut delivered, mut cuts, mut readings) = (0, 0, 0);
    for seed in seeds(100) {
        println!("seed {seed}");
        let mut schedule = Schedule::new(seed);
        for _ in 0..6 {
            for _ in 0..100 {
                schedule.step();
            }
            schedule.settle();
        }
        delivered += schedule.delivered;
        cuts += schedule.cuts;
        readings += schedule.bed.journal.readings();
        let Schedule { bed, readers, .. } = schedule;
        drop(readers);
        assert_eq!((bed.hub.stats().watchers, bed.hub.stats().groups), (0, 0));
    }
    println!("{delivered} events delivered, {cuts} cuts, {readings} readings of history");
    // A schedule in which little happens would prove little.
    if std::env::var("KONTIKI_WATCH_SEED").is_err() {
        assert!(delivered > 50_000 && cuts > 300 && readings > 300);
    }
}

/// Reads to the end of the journal, at its own pace, starting again where it was cut.
async fn reads(bed: Arc<Bed>, mut random: StdRng, last: Revision) -> usize {
    let pause_ms = [0, 1, 20, 400][random.random_range(0..4)];
    let newest = bed.hub.revision();
    let mut request = any_request(&mut random, newest);
    let mut delivered = 0;
    loop {
        let mut watcher = bed.watch(request.clone());
        let mut model = Model::new(&bed.journal, &request, watcher.cursor());
        let cut = loop {
            model.checks(&watcher);
            if watcher.progress().is_some_and(|progress| progress >= last) {
                return delivered + model.delivered;
            }
            let wait = Duration::from_millis(random.random_range(1..50));
            match tokio::time::timeout(wait, watcher.next()).await {
                Ok(Ok(delivery)) => model.delivers(&delivery),
                Ok(Err(cut)) => break cut,
                Err(_) => {}
            }
            tokio::time::sleep(Duration::from_millis(random.random_range(0..=pause_ms))).await;
        };
        delivered += model.delivered;
        request.start = match cut {
            Cut::Compacted { compacted } => compacted,
            Cut::TooOld { .. } => watcher.cursor().max(bed.journal.compacted()),
            Cut::Closed | Cut::Failed(_) => panic!("{cut:?}"),
        };
    }
}

#[test]
fn readers_of_every_pace_are_told_everything_on_paused_time() {
    for seed in seeds(20) {
        println!("seed {seed}");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let delivered = runtime.block_on(async {
            let mut random = StdRng::seed_from_u64(seed);
            let bed = Arc::new(Bed::new(small()));
            let last = Revision(401);
            let mut readers = tokio::task::JoinSet::new();
            for number in 0..400_u64 {
                if number % 10 == 0 {
                    let random = StdRng::seed_from_u64(seed * 1000 + number);
                    readers.spawn(reads(bed.clone(), random, last));
                }
                bed.commit(any_changes(&mut random).into_iter());
                match random.random_range(0..40) {
                    0 => bed.compact(bed.hub.revision().0.saturating_sub(50)),
                    1 => bed.hub.reset(bed.hub.revision(), bed.journal.compacted()),
                    _ => {}
                }
                let pause_ms = random.random_range(0..10);
                tokio::time::sleep(Duration::from_millis(pause_ms)).await;
            }
            let counts = readers.join_all().await;
            counts.into_iter().sum::<usize>()
        });
        assert!(delivered > 1000, "only {delivered} events were delivered");
    }
}
