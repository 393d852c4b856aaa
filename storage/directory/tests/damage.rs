//! Every kind of damage to every kind of file: what is served is what was written, or nothing is.
//!
//! A store with history, leases and several generations of table files is written once. Each case copies
//! it, damages one place of one file, opens the copy and asks it everything. `KONTIKI_DAMAGE_SEED=n` runs
//! one case again, `KONTIKI_DAMAGE_CASES=n` more or fewer of them.

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::compaction::Floor;
use crate::engine::Open;
use crate::engine::rocks::{self, RocksFactory};
use crate::record::LeaseId;
use crate::request::{Command, Delete, Entry, KeyRange, Put, Range};
use crate::revision::{Index, Revision};
use crate::{Options, Store, verify};

const CASES_DEFAULT: u64 = 64;
const PAGE_BYTES: usize = 4096;
const KEYS: usize = 60;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Damage {
    BitFlipped,
    CutOff,
    PageZeroed,
    PagesSwapped,
    Deleted,
    Emptied,
    /// The file of the same name of a store that holds other things.
    OfAnother,
    /// As the file was when an earlier sync was done.
    OfEarlier,
}

const KINDS: [Damage; 8] = [
    Damage::BitFlipped,
    Damage::CutOff,
    Damage::PageZeroed,
    Damage::PagesSwapped,
    Damage::Deleted,
    Damage::Emptied,
    Damage::OfAnother,
    Damage::OfEarlier,
];

/// A data directory with what it answers.
struct Original {
    room: TempDir,
    answers: Vec<(String, String)>,
}

impl Original {
    fn path(&self) -> PathBuf {
        self.room.path().join("data")
    }

    /// The directory as an earlier sync left it.
    fn earlier(&self) -> PathBuf {
        self.room.path().join("earlier")
    }
}

/// Small, so that there are many table files and some on lower levels.
const BUFFER_BYTES: usize = 64 << 10;

fn factory(write_buffer_bytes: usize) -> RocksFactory {
    RocksFactory(rocks::Options { write_buffer_bytes, ..rocks::Options::default() })
}

fn open_store(path: &Path, buffer_bytes: usize) -> Result<(Directory, Store), Error> {
    let directory = reopen(path)?;
    let floor = Floor::new();
    let engine = factory(buffer_bytes).open(&directory.state()?, floor.retain())?;
    let store = Store::open(engine, floor, Options::default())?;
    Ok((directory, store))
}

/// Writes the same every time, but for the values, and keeps how it was before the last round.
fn write(seed: u64, buffer_bytes: usize, rounds: usize) -> Original {
    let (room, path) = room();
    drop(open(&path).expect("created"));
    let mut random = StdRng::seed_from_u64(seed);
    let mut answers = Vec::new();
    for round in 0..rounds {
        let (_directory, store) = open_store(&path, buffer_bytes).expect("opened");
        if round == 0 {
            for id in 1..=3 {
                apply(&store, Command::LeaseGrant { id: LeaseId(id), ttl_s: 60 });
            }
        }
        for number in 0..KEYS {
            let mut value = vec![b'v'; random.random_range(10..900)];
            random.fill(value.as_mut_slice());
            let lease = LeaseId((number % 4) as i64);
            let put = Put { key: key(number), value: value.into(), lease, ..Put::default() };
            apply(&store, Command::Put(put));
        }
        for number in (round..KEYS).step_by(7) {
            let range = KeyRange::One(key(number));
            apply(&store, Command::Delete(Delete { range, previous: false }));
        }
        if round == 3 {
            apply(&store, Command::Compact(Revision(store.revision().0 / 2)));
        }
        store.sync().expect("synced");
        answers = ask(&store);
        drop(store);
        if round + 2 == rounds {
            copy(&path, &room.path().join("earlier"));
        }
    }
    let answers = answers.into_iter().map(|(question, answer)| {
        let answer = answer.unwrap_or_else(|error| format!("{error}"));
        (question, answer)
    });
    Original { room, answers: answers.collect() }
}

fn apply(store: &Store, command: Command) {
    let index = Index(store.applied().0.0 + 1);
    let commands = vec![command].into();
    let entry = Entry { index, term: 1, mark: Bytes::from_static(b"m"), commands };
    store.apply(&[entry]).expect("applied");
}

fn key(number: usize) -> Bytes {
    format!("/registry/kind-{}/{number:04}", number % 5).into()
}

type Answer = Result<String, Error>;

/// Everything one can ask a store, with what it answers.
fn ask(store: &Store) -> Vec<(String, Answer)> {
    let view = store.view();
    let mut answers: Vec<(String, Answer)> = Vec::new();
    let mut add = |question: String, answer: Answer| answers.push((question, answer));
    add("facts".into(), Ok(format!("{:?}", store.facts())));
    let range = |range: KeyRange, revision: u64| Range {
        revision: Revision(revision),
        ..Range::new(range)
    };
    let text = |request: &Range| view.range(request).map(|answer| format!("{answer:?}"));
    for revision in [0, 170, 260, 300, 390] {
        add(format!("all at {revision}"), text(&range(KeyRange::all(), revision)));
    }
    for kind in 0..5 {
        let prefix = format!("/registry/kind-{kind}/");
        add(prefix.clone(), text(&range(KeyRange::prefix(prefix), 0)));
    }
    for number in 0..KEYS {
        let got = view.get(&key(number)).map(|kv| format!("{kv:?}"));
        add(format!("key {number}"), got);
        add(format!("key {number} then"), text(&range(KeyRange::One(key(number)), 280)));
    }
    for from in [170, 250, 350] {
        let (from, to) = (Revision(from), Revision(from + 60));
        let events = view.events(from, to, &KeyRange::all(), usize::MAX);
        add(format!("events from {from}"), events.map(|events| format!("{events:?}")));
    }
    add("leases".into(), view.leases().map(|leases| format!("{leases:?}")));
    for id in 1..=3 {
        let keys = view.lease_keys(LeaseId(id)).map(|keys| format!("{keys:?}"));
        add(format!("keys of lease {id}"), keys);
    }
    add("count".into(), view.count(&KeyRange::all()).map(|count| count.to_string()));
    answers
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("created");
    for name in disk::names(from).expect("listed") {
        let (from, to) = (from.join(&name), to.join(&name));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(&from, &to).expect("copied");
        }
    }
}

/// The files below `path`, relative to it.
fn files(path: &Path) -> Vec<PathBuf> {
    let all = listing(path).into_iter().filter(|(_, content)| content.is_some());
    let mut files: Vec<PathBuf> =
        all.map(|(file, _)| file.strip_prefix(path).expect("below").to_owned()).collect();
    files.sort();
    files
}

/// Does it, and says what was done; `None` where it would change nothing.
fn inflict(
    damage: Damage,
    file: &Path,
    others: &Path,
    earlier: &Path,
    random: &mut StdRng,
) -> Option<String> {
    let whole = fs::read(file).expect("read");
    let mut bytes = whole.clone();
    let place = if bytes.is_empty() { 0 } else { random.random_range(0..bytes.len()) };
    match damage {
        Damage::BitFlipped => *bytes.get_mut(place)? ^= 1 << random.random_range(0..8),
        Damage::CutOff => bytes.truncate(place),
        Damage::PageZeroed => {
            let end = bytes.len().min(place / PAGE_BYTES * PAGE_BYTES + PAGE_BYTES);
            bytes[place / PAGE_BYTES * PAGE_BYTES..end].fill(0);
        }
        Damage::PagesSwapped => {
            let pages = bytes.len() / PAGE_BYTES;
            let (one, other) = (place / PAGE_BYTES, random.random_range(0..pages.max(1)));
            let (one, other) = (one.min(other), one.max(other));
            if other >= pages || one == other {
                return None;
            }
            let (front, back) = bytes.split_at_mut(other * PAGE_BYTES);
            front[one * PAGE_BYTES..][..PAGE_BYTES].swap_with_slice(&mut back[..PAGE_BYTES]);
        }
        Damage::Deleted => {
            fs::remove_file(file).expect("removed");
            return Some("deleted".into());
        }
        Damage::Emptied => bytes.clear(),
        Damage::OfAnother => bytes = fs::read(others).ok()?,
        Damage::OfEarlier => bytes = fs::read(earlier).ok()?,
    }
    if bytes == whole {
        return None;
    }
    fs::write(file, &bytes).expect("written");
    Some(format!("{damage:?} at {place} of {}", whole.len()))
}

/// What a damaged directory came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Came {
    /// To nothing: it is not opened, or its state is not handed out.
    Refused,
    /// To some answers; to the rest, that it is damaged.
    Partly,
    /// To all answers, as they were.
    Whole,
}

/// Opens the directory and holds every answer against what it was.
fn examine(path: &Path, original: &Original, what: &str) -> Came {
    let honest = |error: &Error| {
        let fits = matches!(error, Error::Damaged(_) | Error::Refused { .. });
        assert!(fits, "{what}: the error is of another kind: {error:?}");
        let text = error.to_string();
        assert!(text.len() > 30, "{what}: an error that names nothing: {text}");
    };
    let (directory, store) = match open_store(path, BUFFER_BYTES) {
        Ok(opened) => opened,
        Err(error) => {
            honest(&error);
            return Came::Refused;
        }
    };
    let mut came = Came::Whole;
    for ((question, answer), (_, before)) in ask(&store).iter().zip(&original.answers) {
        match answer {
            Ok(answer) => assert_eq!(answer, before, "{what}: {question}"),
            // It was asked for what was compacted, or is to come.
            Err(error) if error.to_string() == *before => {}
            Err(error) => {
                honest(error);
                came = Came::Partly;
            }
        }
    }
    let scrubbed = store.engine().scrub(&mut |_| std::ops::ControlFlow::Continue(()));
    drop((store, directory));
    if came == Came::Partly {
        // What reads have run into, a scrub and a look at the closed directory find as well.
        honest(&scrubbed.expect_err(what));
        match verify::directory(path, &factory(BUFFER_BYTES), &verify::Known::default()) {
            Ok(report) => assert!(!report.is_clean(), "{what}: {report:?}"),
            Err(error) => honest(&error),
        }
    }
    came
}

fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn whatever_befalls_a_file_nothing_is_answered_that_was_not_written() {
    let (original, others) = (write(1, BUFFER_BYTES, 6), write(2, BUFFER_BYTES, 6));
    let state = Path::new("state").join("0000000000000001");
    let cases = number_from("KONTIKI_DAMAGE_CASES").unwrap_or(CASES_DEFAULT);
    let only = number_from("KONTIKI_DAMAGE_SEED");
    // What RocksDB says about itself, for people, and what is only locked, have nothing to lose.
    let mut damaged = files(&original.path());
    damaged.retain(|file| !file.ends_with("lock") && !file.ends_with("LOCK"));
    damaged.retain(|file| !file.to_string_lossy().contains("LOG"));
    let mut tally = std::collections::BTreeMap::<(Damage, Came), u32>::new();
    for seed in only.map_or(0..cases, |seed| seed..seed + 1) {
        let mut random = StdRng::seed_from_u64(seed);
        let damage = KINDS[(seed % KINDS.len() as u64) as usize];
        let copied = original.room.path().join("copy");
        copy(&original.path(), &copied);
        let file = &damaged[random.random_range(0..damaged.len())];
        let same = |of: &Path| {
            // Files are numbered alike in all of them; where a name is missing, another of its kind.
            let there = of.join(file);
            if there.exists() || !file.starts_with(&state) { there } else { any_table(of, &state) }
        };
        let done = inflict(
            damage,
            &copied.join(file),
            &same(&others.path()),
            &same(&original.earlier()),
            &mut random,
        );
        if let Some(done) = done {
            let what = format!("seed {seed}: {}, {done}", file.display());
            println!("{what}");
            let came = examine(&copied, &original, &what);
            *tally.entry((damage, came)).or_default() += 1;
        }
        fs::remove_dir_all(&copied).expect("removed");
    }
    println!("{tally:#?}");
    if only.is_none() {
        let refused = tally.iter().filter(|((_, came), _)| *came == Came::Refused).count();
        assert!(refused >= 5, "most kinds of damage are seen at opening: {tally:?}");
    }
}

fn any_table(path: &Path, state: &Path) -> PathBuf {
    let tables = files(path).into_iter().filter(|file| {
        file.starts_with(state) && file.extension().is_some_and(|extension| extension == "sst")
    });
    path.join(tables.max().expect("there are tables"))
}

/// The manifest says which table files count. RocksDB takes one that ends early for a torn write, and opens
/// the state before it.
#[test]
fn a_manifest_that_ends_early_anywhere_is_never_taken_for_an_earlier_state() {
    let original = write(1, 32 << 20, 3);
    let state = Path::new("state").join("0000000000000001");
    let manifest = files(&original.path())
        .into_iter()
        .find(|file| file.starts_with(&state) && file.to_string_lossy().contains("MANIFEST"))
        .expect("there is a manifest");
    let whole = fs::read(original.path().join(&manifest)).expect("read");
    let copied = original.room.path().join("copy");
    let mut refused_by_mark = 0;
    for step in 0..24 {
        let end = whole.len() * step / 24;
        copy(&original.path(), &copied);
        // Table files that were replaced meanwhile may not have been removed yet.
        for file in files(&original.earlier()) {
            if !copied.join(&file).exists() {
                fs::copy(original.earlier().join(&file), copied.join(&file)).expect("copied");
            }
        }
        fs::write(copied.join(&manifest), &whole[..end]).expect("written");
        let what = format!("{} cut at {end} of {}", manifest.display(), whole.len());
        let opened = open_store(&copied, 32 << 20);
        if let Err(Error::Damaged(reason)) = &opened
            && reason.contains("was synced")
        {
            refused_by_mark += 1;
        }
        drop(opened);
        examine(&copied, &original, &what);
        fs::remove_dir_all(&copied).expect("removed");
    }
    assert!(refused_by_mark > 3, "only {refused_by_mark} were noticed by what was synced");
}

/// All that RocksDB has is from an earlier time and in itself right; the mark is not.
#[test]
fn an_earlier_state_under_a_later_mark_is_refused() {
    let original = write(1, 32 << 20, 3);
    let state = Path::new("state").join("0000000000000001");
    let copied = original.room.path().join("copy");
    copy(&original.earlier(), &copied);
    let mark = state.join("DURABLE");
    fs::copy(original.path().join(&mark), copied.join(&mark)).expect("copied");
    let error = open_store(&copied, 32 << 20).err().expect("it is not opened");
    assert!(matches!(&error, Error::Damaged(reason) if reason.contains("was synced")), "{error}");
}

#[test]
fn a_table_file_that_is_gone_or_cut_is_found_before_anything_is_served() {
    let original = write(1, BUFFER_BYTES, 4);
    let copied = original.room.path().join("copy");
    let tables: Vec<PathBuf> = files(&original.path())
        .into_iter()
        .filter(|file| file.extension().is_some_and(|extension| extension == "sst"))
        .collect();
    assert!(tables.len() > 5);
    let step = tables.len().div_ceil(8);
    for (number, table) in tables.iter().step_by(step).enumerate() {
        copy(&original.path(), &copied);
        let table = copied.join(table);
        if number % 2 == 0 {
            fs::remove_file(&table).expect("removed");
        } else {
            let whole = fs::read(&table).expect("read");
            fs::write(&table, &whole[..whole.len() - 1]).expect("written");
        }
        let error = open_store(&copied, BUFFER_BYTES).err().expect("it is not opened");
        let name = table.file_name().expect("a name").to_string_lossy().into_owned();
        assert!(matches!(&error, Error::Damaged(reason) if reason.contains(&name)), "{error}");
        fs::remove_dir_all(&copied).expect("removed");
    }
}
