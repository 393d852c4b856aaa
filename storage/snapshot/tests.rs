//! What holds of snapshots: they come across whole or not at all, whatever is done to them on the
//! way.

use std::collections::BTreeMap;
use std::fs;
use std::io::Cursor;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::directory::{Directory, Expect, Identity, Incoming};
use crate::engine::{Batch, Read, Size, Span, Table};
use crate::revision::{Index, Revision};

/// An engine whose checkpoints are the files it was given: snapshots know nothing else of an
/// engine.
struct Files(BTreeMap<String, Vec<u8>>);

impl Read for Files {
    fn get(&self, _: Table, _: &[u8]) -> Result<Option<Bytes>, Error> {
        unreachable!("snapshots read files")
    }

    fn cursor<'r>(
        &'r self,
        _: Table,
        _: Span<'r>,
    ) -> Result<Box<dyn crate::engine::Cursor + 'r>, Error> {
        unreachable!("snapshots read files")
    }
}

impl Engine for Files {
    fn snapshot(&self) -> Arc<dyn Read> {
        unreachable!("snapshots read files")
    }

    fn write(&self, _: &Batch) -> Result<(), Error> {
        unreachable!("snapshots do not write")
    }

    fn sync(&self) -> Result<(), Error> {
        Ok(())
    }

    fn checkpoint(&self, directory: &Path) -> Result<(), Error> {
        fs::create_dir(directory).expect("made");
        for (name, content) in &self.0 {
            fs::write(directory.join(name), content).expect("written");
        }
        Ok(())
    }

    fn reclaim(&self, _: Table, _: Span<'_>) {}

    fn size(&self) -> Size {
        Size::default()
    }
}

fn facts() -> Facts {
    Facts {
        applied: Some(Index(41)),
        mark: Bytes::from_static(b"term 3, members 1 2 3"),
        revision: Revision(17),
        compacted: Revision(5),
        digest: 0x0123_4567_89ab_cdef_fedc_ba98_7654_3210,
    }
}

fn read_facts(_: &Path) -> Result<Facts, Error> {
    Ok(facts())
}

/// Content that no other file and no other offset has.
fn content(seed: u64, length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| xxhash_rust::xxh3::xxh3_64_with_seed(&at.to_le_bytes(), seed) as u8)
        .collect()
}

fn files(lengths: &[usize]) -> Files {
    let name = |number| format!("{number:06}.sst");
    let file = |(number, length): (usize, &usize)| (name(number), content(number as u64, *length));
    Files(lengths.iter().enumerate().map(file).collect())
}

/// A master to send from and one to receive at.
struct Pair {
    shelf: Shelf,
    receiver: Directory,
    _room: TempDir,
}

impl Pair {
    fn new() -> Pair {
        let room = tempfile::tempdir().expect("a temporary directory");
        let open = |name: &str, node| {
            let create =
                || Identity { cluster: 1, node, name: name.into(), release: "0.1.0".into() };
            Directory::open_or_create(&room.path().join(name), &Expect::default(), create)
                .expect("opened")
        };
        let shelf = Shelf::open(&open("sender", 1).snapshots()).expect("a shelf");
        Pair { shelf, receiver: open("receiver", 2), _room: room }
    }

    fn take(&self, engine: &Files) -> Arc<Snapshot> {
        self.shelf.take(engine, &read_facts).expect("taken")
    }

    fn receiver(&self, snapshot: &Snapshot) -> Receiver {
        let manifest = Manifest::decode(&snapshot.manifest().encode()).expect("whole");
        Receiver::new(manifest, self.receiver.incoming().expect("room")).expect("begun")
    }

    /// What the receiver has in its state directory, to see that nothing was left.
    fn left(&self) -> Vec<String> {
        crate::directory::disk::names(&self.receiver.path().join("state")).expect("listed")
    }
}

fn found(incoming: &Incoming) -> BTreeMap<String, Vec<u8>> {
    let names = crate::directory::disk::names(incoming.path()).expect("listed");
    let read = |name: String| {
        let content = fs::read(incoming.path().join(&name)).expect("read");
        (name, content)
    };
    names.into_iter().map(read).collect()
}

fn all(chunks: Chunks) -> Vec<Chunk> {
    chunks.collect::<Result<_, _>>().expect("read")
}

fn is_snapshot_error<T: fmt::Debug>(result: &Result<T, Error>) -> bool {
    match result {
        Err(error @ Error::Snapshot { .. }) => !error.is_fatal(),
        _ => false,
    }
}

#[test]
fn a_snapshot_comes_across_whole_and_becomes_the_state() {
    let pair = Pair::new();
    let engine = files(&[0, 1, 10, 0, 4096, 5000, 0]);
    let snapshot = pair.take(&engine);
    assert_eq!(snapshot.manifest().facts(), &facts());
    assert_eq!(snapshot.manifest().total(), 9107);
    let mut receiver = pair.receiver(&snapshot);
    for chunk in snapshot.chunks(Position::START, 1000).expect("chunks") {
        receiver.take(&chunk.expect("read")).expect("taken");
    }
    let incoming = receiver.finish().expect("whole");
    assert_eq!(found(&incoming), engine.0);
    let state = pair.receiver.adopt(incoming).expect("adopted");
    assert_eq!(Ok(state), pair.receiver.state());
}

#[test]
fn an_empty_snapshot_comes_across() {
    for lengths in [&[][..], &[0], &[0, 0]] {
        let pair = Pair::new();
        let engine = files(lengths);
        let snapshot = pair.take(&engine);
        assert_eq!(all(snapshot.chunks(Position::START, 10).expect("chunks")), []);
        let incoming = pair.receiver(&snapshot).finish().expect("whole");
        assert_eq!(found(&incoming), engine.0);
    }
}

#[test]
fn a_stream_that_broke_is_resumed_where_the_receiver_is() {
    let pair = Pair::new();
    let engine = files(&[0, 100, 0, 50, 0]);
    let snapshot = pair.take(&engine);
    let mut receiver = pair.receiver(&snapshot);
    while receiver.position() < (Position { file: 5, offset: 0 }) {
        // A connection that breaks after every second chunk, and chunks of another size each time.
        let bytes = 7 + receiver.position().offset as usize % 5;
        let start = receiver.position();
        for chunk in snapshot.chunks(start, bytes).expect("chunks").take(2) {
            receiver.take(&chunk.expect("read")).expect("taken");
        }
        assert!(receiver.position() > start, "no progress at {start:?}");
    }
    assert_eq!(found(&receiver.finish().expect("whole")), engine.0);
}

#[test]
fn chunks_start_only_inside_the_snapshot() {
    let pair = Pair::new();
    let snapshot = pair.take(&files(&[10, 0]));
    let count = |file, offset| {
        let chunks = snapshot.chunks(Position { file, offset }, 4);
        chunks.map(|chunks| all(chunks).len())
    };
    assert_eq!(count(0, 0), Ok(3));
    assert_eq!(count(0, 9), Ok(1));
    assert_eq!(count(0, 10), Ok(0));
    assert_eq!(count(2, 0), Ok(0));
    for (file, offset) in [(0, 11), (1, 1), (2, 1), (3, 0), (u32::MAX, u64::MAX)] {
        assert!(is_snapshot_error(&count(file, offset)), "{file} {offset}");
    }
}

#[test]
fn anything_wrong_with_a_chunk_leaves_nothing() {
    let pair = Pair::new();
    let snapshot = pair.take(&files(&[10, 20]));
    let chunks = all(snapshot.chunks(Position::START, 8).expect("chunks"));
    assert_eq!(chunks.len(), 5);
    let before = pair.left();
    type Spoil = fn(&[Chunk]) -> Vec<Chunk>;
    let wrong: &[(&str, Spoil)] = &[
        ("a chunk twice", |all| vec![all[0].clone(), all[0].clone()]),
        ("a chunk left out", |all| vec![all[0].clone(), all[2].clone()]),
        ("another order", |all| vec![all[1].clone()]),
        ("a flipped byte", |all| vec![Chunk { bytes: vec![7; 8].into(), ..all[0].clone() }]),
        ("a flipped checksum", |all| vec![Chunk { checksum: 1, ..all[0].clone() }]),
        ("no bytes", |all| {
            let checksum = crc32c::crc32c(&[]);
            vec![Chunk { bytes: Bytes::new(), checksum, ..all[0].clone() }]
        }),
        ("bytes beyond the file", |all| {
            let bytes = Bytes::from(vec![0; 11]);
            vec![Chunk { checksum: crc32c::crc32c(&bytes), bytes, ..all[0].clone() }]
        }),
        ("a file of the manifest's length with other content", |all| {
            let bytes = Bytes::from(vec![0; 10]);
            vec![Chunk { checksum: crc32c::crc32c(&bytes), bytes, ..all[0].clone() }]
        }),
        ("a chunk after the end", |all| {
            let after = Chunk { file: 2, offset: 0, ..all[0].clone() };
            all.iter().cloned().chain([after]).collect()
        }),
    ];
    for (what, spoil) in wrong {
        let mut receiver = pair.receiver(&snapshot);
        let spoilt = spoil(&chunks);
        let (last, good) = spoilt.split_last().expect("at least one");
        for chunk in good {
            receiver.take(chunk).expect("right so far");
        }
        assert!(is_snapshot_error(&receiver.take(last)), "{what}");
        drop(receiver);
        assert_eq!(pair.left(), before, "{what}");
    }
}

#[test]
fn a_stream_that_ends_too_early_leaves_nothing() {
    let pair = Pair::new();
    let snapshot = pair.take(&files(&[10, 20]));
    let before = pair.left();
    let chunks = all(snapshot.chunks(Position::START, 8).expect("chunks"));
    for come in 0..chunks.len() {
        let mut receiver = pair.receiver(&snapshot);
        chunks[..come].iter().for_each(|chunk| receiver.take(chunk).expect("taken"));
        assert!(is_snapshot_error(&receiver.finish()), "{come} chunks");
        assert_eq!(pair.left(), before);
    }
}

#[test]
fn a_file_that_changed_under_the_receiver_is_seen() {
    let pair = Pair::new();
    let snapshot = pair.take(&files(&[10]));
    let mut receiver = pair.receiver(&snapshot);
    for chunk in all(snapshot.chunks(Position::START, 8).expect("chunks")) {
        receiver.take(&chunk).expect("taken");
    }
    let state = pair.receiver.path().join("state");
    let file = state.join("incoming-1/000000.sst");
    fs::OpenOptions::new().write(true).open(file).expect("there").set_len(9).expect("cut");
    assert!(is_snapshot_error(&receiver.finish()));
}

#[test]
fn damage_on_the_senders_disk_is_told_there_as_damage() {
    let pair = Pair::new();
    let snapshot = pair.take(&files(&[10, 20]));
    let file = snapshot.path().join("000001.sst");
    let whole = fs::read(&file).expect("read");
    let read =
        || snapshot.chunks(Position::START, 8).expect("chunks").collect::<Result<Vec<_>, _>>();
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        fs::write(&file, &damaged).expect("written");
        let error = read().expect_err("damaged");
        assert!(matches!(&error, Error::Damaged(what) if what.contains("000001.sst")), "{error}");
    }
    fs::write(&file, &whole[..19]).expect("written");
    assert!(matches!(read(), Err(Error::Damaged(_))));
    fs::write(&file, &whole).expect("written");
    assert_eq!(read().expect("whole again").len(), 5);
}

#[test]
fn a_snapshot_stays_while_it_is_read_and_goes_with_its_last_reader() {
    let pair = Pair::new();
    let first = pair.take(&files(&[10, 10]));
    let path = first.path().to_owned();
    let mut chunks = first.chunks(Position::START, 4).expect("chunks");
    drop(first);
    chunks.next().expect("one").expect("read");
    let second = pair.take(&files(&[1]));
    assert!(path.is_dir(), "still read");
    assert_eq!(all(chunks).len(), 5);
    assert!(!path.exists());
    let path = second.path().to_owned();
    drop(second);
    assert!(path.is_dir(), "the newest is kept");
    pair.shelf.clear();
    assert!(!path.exists() && pair.shelf.newest().is_none());
}

#[test]
fn more_snapshots_than_are_kept_are_refused_until_one_is_let_go() {
    let pair = Pair::new();
    let engine = files(&[1]);
    let mut held: Vec<_> = (0..KEPT_MAX).map(|_| pair.take(&engine)).collect();
    assert!(is_snapshot_error(&pair.shelf.take(&engine, &read_facts)));
    held.remove(0);
    pair.take(&engine);
}

#[test]
fn a_shelf_forgets_what_an_earlier_process_left() {
    let pair = Pair::new();
    let snapshot = pair.take(&files(&[1]));
    let root = snapshot.path().parent().expect("has one").to_owned();
    // As a killed process leaves it.
    std::mem::forget(snapshot);
    let shelf = Shelf::open(&root).expect("a shelf");
    assert_eq!(crate::directory::disk::names(&root), Ok(vec![]));
    shelf.take(&files(&[2]), &read_facts).expect("taken");
}

#[test]
fn a_snapshot_that_cannot_be_taken_leaves_nothing() {
    let pair = Pair::new();
    let fail = |_: &Path| Err(Error::Damaged("no such row".into()));
    let error = pair.shelf.take(&files(&[5]), &fail).expect_err("no facts");
    assert_eq!(error, Error::Damaged("no such row".into()));
    let odd = Files(BTreeMap::from([("a name".to_owned(), vec![1])]));
    assert!(is_snapshot_error(&pair.shelf.take(&odd, &read_facts)));
    assert_eq!(crate::directory::disk::names(&pair.shelf.root), Ok(vec![]));
}

// Manifests.

fn manifest() -> Manifest {
    let pieces = [("CURRENT", 16), ("000012.sst", 4 << 30), ("LOG", 0)];
    let piece =
        |(name, length): (&str, u64)| Piece { name: name.into(), length, checksum: !length };
    Manifest::new(facts(), pieces.map(piece).into()).expect("valid")
}

#[test]
fn a_manifest_is_these_bytes() {
    let facts = Facts {
        applied: Some(Index(4)),
        mark: Bytes::from_static(b"m"),
        revision: Revision(3),
        compacted: Revision(2),
        digest: 6 << 64 | 7,
    };
    let piece = Piece { name: "f".into(), length: 9, checksum: 0x0a };
    let encoded = Manifest::new(facts, vec![piece]).expect("valid").encode();
    let message = [
        &[0x08, 5, 0x12, 1, b'm', 0x18, 3, 0x20, 2][..],
        &[0x29, 6, 0, 0, 0, 0, 0, 0, 0, 0x31, 7, 0, 0, 0, 0, 0, 0, 0],
        &[0x3a, 14, 0x0a, 1, b'f', 0x10, 9, 0x19, 0x0a, 0, 0, 0, 0, 0, 0, 0],
    ]
    .concat();
    assert_eq!(encoded[5..], message);
    assert_eq!(encoded[0], 1);
    assert_eq!(encoded[1..5], crc32c::crc32c(&[&[1][..], &message].concat()).to_le_bytes());
}

#[test]
fn a_manifest_reads_back_and_any_changed_byte_is_seen() {
    let manifest = manifest();
    let encoded = manifest.encode();
    assert_eq!(Manifest::decode(&encoded), Ok(manifest));
    for at in 0..encoded.len() {
        for bits in 1..=255 {
            let mut damaged = encoded.to_vec();
            damaged[at] ^= bits;
            assert!(is_snapshot_error(&Manifest::decode(&damaged)), "byte {at}, bits {bits:x}");
        }
        assert!(is_snapshot_error(&Manifest::decode(&encoded[..at])), "cut at {at}");
    }
    let longer = [&encoded[..], &[0]].concat();
    assert!(is_snapshot_error(&Manifest::decode(&longer)));
}

#[test]
fn only_plain_names_stand_in_a_manifest() {
    let with = |name: &str| {
        let piece = Piece { name: name.into(), length: 1, checksum: 1 };
        Manifest::new(facts(), vec![piece]).is_ok()
    };
    for name in ["000012.sst", "MANIFEST-000004", "CURRENT", "LOG.old.1732", &"n".repeat(255)] {
        assert!(with(name), "{name}");
    }
    let long = "n".repeat(256);
    for name in
        ["", ".", "..", "../x", "/etc/passwd", "a/b", "a\\b", ".hidden", "a\0", "a b", "ü", &long]
    {
        assert!(!with(name), "{name:?}");
    }
}

#[test]
fn a_manifest_beyond_its_bounds_is_refused() {
    let piece = |number: usize, length| Piece { name: format!("{number}"), length, checksum: 0 };
    let refused = |facts, pieces| Manifest::new(facts, pieces).expect_err("refused");
    assert!(refused(facts(), vec![piece(1, 0), piece(1, 0)]).contains("two files"));
    assert!(refused(facts(), vec![piece(1, u64::MAX), piece(2, 1)]).contains("more bytes"));
    assert!(refused(facts(), vec![piece(1, 1 << 63)]).contains("more bytes"));
    let many = (0..=manifest::FILES_MAX).map(|number| piece(number, 0)).collect();
    assert!(refused(facts(), many).contains("at most 65536"));
    let long = |number| Piece { name: format!("{number:0255}"), length: 0, checksum: 0 };
    assert!(refused(facts(), (0..20_000).map(long).collect()).contains("a manifest of"));
    let mark = Bytes::from(vec![0; (1 << 20) + 1]);
    assert!(refused(Facts { mark, ..facts() }, vec![]).contains("a mark of"));
    assert!(is_snapshot_error(&Manifest::decode(&vec![0; manifest::BYTES_MAX + 1])));
}

// Archives.

fn archived(pair: &Pair, engine: &Files) -> Vec<u8> {
    let mut bytes = Vec::new();
    let written = archive::write(&pair.take(engine), &mut bytes).expect("written");
    assert_eq!(written, bytes.len() as u64);
    bytes
}

#[test]
fn an_archive_comes_back_as_it_was() {
    let pair = Pair::new();
    let engine = files(&[0, 10, (1 << 20) + 5, 1 << 20]);
    let bytes = archived(&pair, &engine);
    assert_eq!(bytes, archived(&pair, &engine), "the same snapshot gives the same bytes");
    let manifest = archive::inspect(Cursor::new(&bytes)).expect("whole");
    assert_eq!(manifest.facts(), &facts());
    let incoming = pair.receiver.incoming().expect("room");
    let (read, incoming) = archive::read(Cursor::new(&bytes), incoming).expect("whole");
    assert_eq!(read, manifest);
    assert_eq!(found(&incoming), engine.0);
}

#[test]
fn an_archive_is_these_bytes() {
    let pair = Pair::new();
    let engine = Files(BTreeMap::from([("f".to_owned(), b"abc".to_vec())]));
    let bytes = archived(&pair, &engine);
    let manifest = pair.shelf.newest().expect("taken").manifest().encode();
    let mut wanted = b"KONTIKI\x1a\x01".to_vec();
    wanted.extend_from_slice(&u32::try_from(manifest.len()).expect("small").to_le_bytes());
    wanted.extend_from_slice(&manifest);
    wanted.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0]);
    wanted.extend_from_slice(&crc32c::crc32c(b"abc").to_le_bytes());
    wanted.extend_from_slice(b"abc");
    wanted.extend_from_slice(&[2, 3, 0, 0, 0, 0, 0, 0, 0]);
    let checksum = xxhash_rust::xxh3::xxh3_64(&wanted);
    wanted.extend_from_slice(&checksum.to_le_bytes());
    assert_eq!(bytes, wanted);
}

#[test]
fn an_archive_with_any_byte_changed_or_missing_is_refused_and_leaves_nothing() {
    let pair = Pair::new();
    let bytes = archived(&pair, &files(&[0, 10, 33]));
    let before = pair.left();
    let check = |damaged: &[u8], what: &str| {
        assert!(is_snapshot_error(&archive::inspect(damaged)), "{what}");
        let incoming = pair.receiver.incoming().expect("room");
        let read = archive::read(damaged, incoming).map(|(manifest, _)| manifest);
        assert!(is_snapshot_error(&read), "{what}");
    };
    for at in 0..bytes.len() {
        for bits in [0x01, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[at] ^= bits;
            check(&damaged, &format!("byte {at}, bits {bits:x}"));
        }
        check(&bytes[..at], &format!("cut at {at}"));
    }
    check(&[&*bytes, &[0]].concat(), "something follows");
    assert_eq!(pair.left(), before);
}

#[test]
fn a_large_archive_with_sampled_bytes_changed_is_refused() {
    let pair = Pair::new();
    let mut bytes = archived(&pair, &files(&[3 << 20, 100, 70_000]));
    for at in (0..bytes.len()).step_by(37_813) {
        bytes[at] ^= 0x10;
        assert!(is_snapshot_error(&archive::inspect(&*bytes)), "byte {at}");
        bytes[at] ^= 0x10;
    }
    archive::inspect(&*bytes).expect("whole again");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_read_as_a_manifest_or_as_an_error(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let _ = Manifest::decode(&bytes);
        // The same with a head that is right, so that the message is reached.
        let body: Vec<u8> = [&[1], &*bytes].concat();
        let checksum = crc32c::crc32c(&body).to_le_bytes();
        let encoded = [&[1], &checksum[..], &bytes].concat();
        if let Ok(manifest) = Manifest::decode(&encoded) {
            prop_assert_eq!(Manifest::decode(&manifest.encode()), Ok(manifest));
        }
    }

    #[test]
    fn any_bytes_read_as_an_archive_or_as_an_error(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let encoded = [b"KONTIKI\x1a\x01", &*bytes].concat();
        prop_assert!(is_snapshot_error(&archive::inspect(&*encoded)));
    }

    #[test]
    fn chunks_of_any_size_make_up_the_files(
        lengths in prop::collection::vec(0..200_usize, 0..6), bytes in 1..100_usize,
    ) {
        let pair = Pair::new();
        let engine = files(&lengths);
        let snapshot = pair.take(&engine);
        let mut receiver = pair.receiver(&snapshot);
        for chunk in snapshot.chunks(Position::START, bytes).expect("chunks") {
            let chunk = chunk.expect("read");
            prop_assert!(chunk.bytes.len() <= bytes);
            receiver.take(&chunk).expect("taken");
        }
        prop_assert_eq!(found(&receiver.finish().expect("whole")), engine.0);
    }
}
