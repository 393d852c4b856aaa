//! Real files, as a runtime writes them.

use std::io::Write as _;

use futures::StreamExt as _;
use proptest::prelude::*;

use super::*;
use crate::agent::cri::fake::Fake;
use crate::agent::cri::v1;

fn entry(text: &str) -> String {
    format!("2026-01-01T00:00:00.000000000Z stdout F {text}\n")
}

fn write(path: &Path, texts: &[&str]) {
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    for text in texts {
        file.write_all(entry(text).as_bytes()).unwrap();
    }
}

/// A container that runs, in a runtime of plain values.
async fn container(runtime: &Arc<Fake>) -> Container {
    let sandbox = v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata::default()),
        ..Default::default()
    };
    let config = v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: "c".into(), attempt: 0 }),
        ..Default::default()
    };
    let sandbox_id = runtime.run_sandbox(&sandbox, "").await.unwrap();
    let id = runtime.create_container(&sandbox_id, &config, &sandbox).await.unwrap();
    runtime.start_container(&id).await.unwrap();
    Container { id, runtime: runtime.clone() }
}

async fn all(log: Log) -> String {
    let pieces: Vec<_> = log.pieces().map(|piece| piece.unwrap().to_vec()).collect().await;
    String::from_utf8(pieces.concat()).unwrap()
}

/// Reads on until it has seen `wanted`.
async fn until(
    pieces: &mut (impl Stream<Item = io::Result<Bytes>> + Unpin),
    seen: &mut String,
    wanted: &str,
) {
    while !seen.contains(wanted) {
        let piece = pieces.next().await.expect("the log goes on").unwrap();
        seen.push_str(std::str::from_utf8(&piece).unwrap());
    }
}

#[tokio::test]
async fn the_last_lines_are_those_that_were_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("0.log");
    let long = "x".repeat(20_000);
    write(&path, &["one", &long, "three"]);
    for (tail, wanted) in [
        (None, format!("one\n{long}\nthree\n")),
        (Some(0), String::new()),
        (Some(1), "three\n".into()),
        (Some(2), format!("{long}\nthree\n")),
        (Some(99), format!("one\n{long}\nthree\n")),
    ] {
        let log = Log::open(&path, Options::default(), tail, None).await.unwrap();
        assert_eq!(all(log).await, wanted, "{tail:?}");
    }
}

#[tokio::test]
async fn a_follower_sees_each_line_once_through_a_rotation_and_ends_with_the_container() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("0.log");
    write(&path, &["before"]);
    let runtime = Arc::new(Fake::default());
    let writer = container(&runtime).await;
    let log = Log::open(&path, Options::default(), None, Some(writer)).await.unwrap();
    let mut pieces = Box::pin(log.pieces());
    let mut seen = String::new();
    until(&mut pieces, &mut seen, "before\n").await;
    write(&path, &["first"]);
    until(&mut pieces, &mut seen, "first\n").await;
    // Rotation: the file loses its name, the runtime still writes to it, then it begins another.
    let old = folder.path().join("0.log.old");
    std::fs::rename(&path, &old).unwrap();
    write(&old, &["last words"]);
    write(&path, &["second file"]);
    until(&mut pieces, &mut seen, "second file\n").await;
    write(&path, &["at the end"]);
    runtime.exit("c", 0);
    while let Some(piece) = pieces.next().await {
        seen.push_str(std::str::from_utf8(&piece.unwrap()).unwrap());
    }
    assert_eq!(seen, "before\nfirst\nlast words\nsecond file\nat the end\n");
}

/// Gives the log another name, as rotation does.
fn set_aside(path: &Path, at: usize) {
    std::fs::rename(path, format!("{}.20260101-00000{at}", path.display())).unwrap();
}

#[tokio::test]
async fn what_a_log_was_before_is_part_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("0.log");
    write(&path, &["one", "two"]);
    set_aside(&path, 1);
    write(&path, &["three"]);
    set_aside(&path, 2);
    write(&path, &["four", "five"]);
    for (tail, wanted) in [
        (None, "one two three four five"),
        (Some(2), "four five"),
        (Some(3), "three four five"),
        (Some(4), "two three four five"),
        (Some(9), "one two three four five"),
    ] {
        let log = Log::open(&path, Options::default(), tail, None).await.unwrap();
        assert_eq!(all(log).await.split_whitespace().collect::<Vec<_>>().join(" "), wanted);
    }
    // The next file has not begun.
    set_aside(&path, 3);
    let log = Log::open(&path, Options::default(), Some(2), None).await.unwrap();
    assert_eq!(all(log).await, "four\nfive\n");
}

#[tokio::test]
async fn a_follower_that_comes_late_misses_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("0.log");
    write(&path, &["one"]);
    let runtime = Arc::new(Fake::default());
    let writer = container(&runtime).await;
    let log = Log::open(&path, Options::default(), Some(1), Some(writer)).await.unwrap();
    let mut pieces = Box::pin(log.pieces());
    let mut seen = String::new();
    until(&mut pieces, &mut seen, "one\n").await;
    for (at, text) in ["two", "three", "four"].into_iter().enumerate() {
        set_aside(&path, at);
        write(&path, &[text]);
    }
    until(&mut pieces, &mut seen, "four\n").await;
    assert_eq!(seen, "one\ntwo\nthree\nfour\n");
}

#[tokio::test]
async fn a_line_that_is_written_in_two_goes_is_shown_when_it_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("0.log");
    let runtime = Arc::new(Fake::default());
    let writer = container(&runtime).await;
    let (half, rest) = ("2026-01-01T00:00:00Z stdout F half and ", "half\n");
    std::fs::write(&path, half).unwrap();
    let log = Log::open(&path, Options::default(), None, Some(writer)).await.unwrap();
    let mut pieces = Box::pin(log.pieces());
    let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(rest.as_bytes()).unwrap();
    let mut seen = String::new();
    until(&mut pieces, &mut seen, "\n").await;
    assert_eq!(seen, "half and half\n");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_tail_of_a_file_is_the_end_of_the_whole(
        lengths in prop::collection::vec(0_usize..9000, 0..12),
        tail in 0_u32..14,
    ) {
        let texts: Vec<String> = lengths.iter().map(|length| "y".repeat(*length)).collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0.log");
        write(&path, &texts.iter().map(String::as_str).collect::<Vec<_>>());
        let from = texts.len().saturating_sub(tail as usize);
        let wanted: String = texts[from..].iter().map(|text| format!("{text}\n")).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let shown = runtime.block_on(async {
            let options = Options::default();
            all(Log::open(&path, options, Some(tail.into()), None).await.unwrap()).await
        });
        prop_assert_eq!(shown, wanted);
    }
}
