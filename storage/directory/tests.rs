//! What holds of a data directory: who may open it, what every crash leaves, what damage leads to.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::disk::{Act, Hook};
use super::*;

mod crash;
mod damage;
mod full;
mod space;

const NFS: u64 = 0x6969;
const EXT4: u64 = 0xef53;

fn identity(node: u64) -> Identity {
    Identity { cluster: 0xc1, node, name: "anna".into(), release: "0.1.0".into() }
}

fn open(path: &Path) -> Result<Directory, Error> {
    Directory::open_or_create(path, &Expect::default(), || identity(7))
}

/// Opens a directory that is there.
fn reopen(path: &Path) -> Result<Directory, Error> {
    let unexpected = || panic!("{} was taken for an empty directory", path.display());
    Directory::open_or_create(path, &Expect::default(), unexpected)
}

fn refusal(opened: Result<Directory, Error>) -> String {
    match opened {
        Err(error @ Error::Refused { .. }) => {
            let text = error.to_string();
            assert!(!text.contains('\n'), "one line: {text}");
            text
        }
        other => panic!("not refused: {other:?}"),
    }
}

/// Everything under `path` with its content, to see that nothing was touched.
fn listing(path: &Path) -> Vec<(PathBuf, Option<Vec<u8>>)> {
    let mut found = Vec::new();
    for name in disk::names(path).expect("listed") {
        let one = path.join(name);
        if one.is_dir() {
            found.push((one.clone(), None));
            found.extend(listing(&one));
        } else {
            found.push((one.clone(), Some(fs::read(&one).expect("read"))));
        }
    }
    found
}

fn room() -> (TempDir, PathBuf) {
    let room = tempfile::tempdir().expect("a temporary directory");
    let path = room.path().join("data");
    (room, path)
}

fn receive(directory: &Directory, content: &str) -> Incoming {
    let incoming = directory.incoming().expect("a place to receive");
    fs::write(incoming.path().join("file"), content).expect("written");
    incoming
}

fn content(directory: &Directory) -> Option<String> {
    let file = directory.state().expect("a state").join("file");
    file.exists().then(|| fs::read_to_string(file).expect("read"))
}

#[test]
fn that_a_log_was_begun_is_remembered_for_as_long_as_the_node_is_the_same() {
    let (_room, path) = room();
    let directory = open(&path).expect("created");
    assert!(!directory.log_was_begun().expect("read"));
    directory.note_log_begun().expect("noted");
    directory.note_log_begun().expect("once more");
    drop(directory);
    let directory = reopen(&path).expect("opened");
    assert!(directory.log_was_begun().expect("read"));
    // What can't be read may be the note.
    fs::write(path.join("begun"), "kontiki begun 1\nnode 00").expect("written");
    assert!(directory.log_was_begun().expect("read"));
    directory.note_log_begun().expect("noted already");
    drop(directory);
    fs::remove_file(path.join("begun")).expect("removed");
    let mut directory = reopen(&path).expect("opened");
    directory.note_log_begun().expect("noted");
    directory.reset_identity(identity(8)).expect("handed on");
    assert!(!directory.log_was_begun().expect("read"), "another node has begun nothing");
    directory.note_log_begun().expect("noted");
    assert!(directory.log_was_begun().expect("read"));
}

#[test]
fn what_was_created_is_there_when_opened_again() {
    let (_room, path) = room();
    assert_eq!(Directory::inspect(&path), Ok(None));
    let created = open(&path).expect("created");
    fs::write(created.state().expect("a state").join("file"), "rows").expect("written");
    assert!(created.log().is_dir() && created.run().is_dir() && created.snapshots().is_dir());
    drop(created);
    let opened = reopen(&path).expect("opened");
    assert_eq!(opened.identity(), &identity(7));
    assert_eq!(content(&opened).as_deref(), Some("rows"));
    assert_eq!(opened.condemned(), Ok(None));
    assert_eq!(Directory::inspect(&path), Ok(Some(identity(7))));
}

#[test]
fn what_is_created_is_for_its_owner_alone() {
    let (_room, path) = room();
    let directory = open(&path).expect("created");
    directory.condemn("for its file").expect("condemned");
    for (one, content) in listing(&path) {
        let mode = fs::metadata(&one).expect("there").permissions().mode() & 0o777;
        let wanted = if content.is_some() { 0o600 } else { 0o700 };
        assert_eq!(mode, wanted, "{}", one.display());
    }
    assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o700);
}

#[test]
fn an_identity_is_these_bytes() {
    let text = "kontiki directory 1\ncluster 00000000000000c1\nnode 0000000000000007\n\
                name anna\nrelease 0.1.0\nchecksum ";
    let encoded = String::from_utf8(identity(7).encode()).expect("text");
    assert_eq!(
        encoded,
        format!("{text}{:08x}\n", crc32c::crc32c(&text.as_bytes()[..text.len() - 9]))
    );
}

#[test]
fn a_directory_of_others_is_refused_and_left_as_it_is() {
    let (_room, path) = room();
    drop(open(&path).expect("created"));
    let before = listing(&path);
    let check = |expect: Expect, wanted: &str| {
        let text = refusal(Directory::open_or_create(&path, &expect, || panic!("it is there")));
        assert!(text.contains(wanted), "{text}");
        assert_eq!(listing(&path), before);
    };
    check(Expect { cluster: Some(0xc2), ..Expect::default() }, "cluster c1, not to cluster c2");
    check(Expect { node: Some(8), ..Expect::default() }, "node 7 (anna), not to node 8");
    check(Expect { name: Some("bert".into()), ..Expect::default() }, "\"anna\", not to \"bert\"");
    let right = Expect {
        cluster: Some(0xc1),
        node: Some(7),
        name: Some("anna".into()),
        ..Expect::default()
    };
    Directory::open_or_create(&path, &right, || panic!("it is there")).expect("its own");
}

#[test]
fn a_newer_directory_is_refused_by_the_release_that_wrote_it() {
    let (_room, path) = room();
    drop(open(&path).expect("created"));
    let lines = [("release", "9.8.7"), ("unheard-of", "thing")];
    fs::write(path.join("identity"), seal::seal("directory", 2, &lines)).expect("written");
    let text = refusal(reopen(&path));
    assert!(text.contains("format 2 by release 9.8.7") && text.contains("newer"), "{text}");
    assert!(Directory::inspect(&path).is_err());
}

#[test]
fn foreign_data_is_refused_and_nothing_is_written_beside_it() {
    for foreign in ["member", "state/member/db", "log/0001", "amnesia", "reserve", "x.new"] {
        let (_room, path) = room();
        let file = path.join(foreign);
        fs::create_dir_all(file.parent().expect("has one")).expect("made");
        fs::write(&file, "somebody's").expect("written");
        let before = listing(&path);
        let text = refusal(open(&path));
        let name = foreign.split('/').next().expect("a name");
        assert!(text.contains(&format!("{name:?}")) && text.contains("no identity"), "{text}");
        assert_eq!(listing(&path), before);
    }
}

#[test]
fn a_lost_identity_is_not_taken_for_an_empty_directory() {
    let (_room, path) = room();
    let directory = open(&path).expect("created");
    fs::write(directory.log().join("0001"), "votes").expect("written");
    drop(directory);
    fs::remove_file(path.join("identity")).expect("removed");
    assert!(refusal(open(&path)).contains("restore identity"));
}

#[test]
fn what_belongs_beside_the_state_is_no_foreign_data() {
    let (_room, path) = room();
    fs::create_dir_all(path.join("pki/store")).expect("made");
    fs::create_dir_all(path.join("lost+found")).expect("made");
    fs::write(path.join("kubeconfig"), "").expect("written");
    open(&path).expect("created beside them");
}

#[test]
fn a_file_is_no_directory() {
    let (_room, path) = room();
    fs::write(&path, "").expect("written");
    assert!(refusal(open(&path)).contains("is no directory"));
}

#[test]
fn a_name_that_is_no_line_is_refused_before_anything_is_written() {
    for name in ["", "two\nlines", "nul\0", &"n".repeat(256)] {
        let (room, path) = room();
        let create = || Identity { name: name.into(), ..identity(7) };
        let text = refusal(Directory::open_or_create(&path, &Expect::default(), create));
        assert!(text.contains("--name"), "{text}");
        assert_eq!(listing(room.path()), []);
    }
}

#[test]
fn two_processes_never_have_one_directory() {
    let (_room, path) = room();
    let first = open(&path).expect("created");
    let text = refusal(reopen(&path));
    assert!(text.contains(&format!("in use by process {}", std::process::id())), "{text}");
    drop(first);
    reopen(&path).expect("free again");
}

#[test]
fn a_network_file_system_is_refused_unless_it_is_accepted() {
    let (room, path) = room();
    let on = |magic: u64, rule: NetworkFileSystem| {
        let expect = Expect { network_file_system: rule, ..Expect::default() };
        let disk = Disk::default();
        Directory::open_with(&path, &expect, || identity(7), &|_| Ok(magic), disk)
    };
    let text = refusal(on(NFS, NetworkFileSystem::Refuse));
    assert!(text.contains("(NFS)") && text.contains("--allow-network-file-system"), "{text}");
    assert_eq!(listing(room.path()), []);
    drop(on(NFS, NetworkFileSystem::Accept).expect("accepted"));
    drop(on(EXT4, NetworkFileSystem::Refuse).expect("a disk"));
}

/// Every single-byte change that `how` makes to the file leads to what `check` demands.
fn flip_every_byte(file: &Path, check: impl Fn(usize)) {
    let whole = fs::read(file).expect("read");
    for at in 0..whole.len() {
        for bits in [0x01, 0x20, 0x80, 0xff] {
            let mut damaged = whole.clone();
            damaged[at] ^= bits;
            fs::write(file, &damaged).expect("written");
            check(at);
        }
    }
    for end in 0..whole.len() {
        fs::write(file, &whole[..end]).expect("written");
        check(end);
    }
    fs::write(file, [&*whole, b"\n"].concat()).expect("written");
    check(whole.len());
    fs::write(file, &whole).expect("written");
}

#[test]
fn an_identity_with_any_byte_changed_is_refused() {
    let (_room, path) = room();
    drop(open(&path).expect("created"));
    let file = path.join("identity");
    flip_every_byte(&file, |at| {
        let text = refusal(reopen(&path));
        assert!(text.contains(&*file.to_string_lossy()), "byte {at}: {text}");
    });
    reopen(&path).expect("whole again");
}

#[test]
fn a_current_with_any_byte_changed_condemns_and_keeps_what_is_there() {
    let (_room, path) = room();
    drop(open(&path).expect("created"));
    let file = path.join("state/CURRENT");
    flip_every_byte(&file, |at| {
        let directory = reopen(&path).expect("its owner is known");
        let reason = directory.condemned().expect("readable").expect("condemned");
        assert!(reason.contains(&*file.to_string_lossy()), "byte {at}: {reason}");
        assert!(matches!(directory.state(), Err(Error::Damaged(_))), "byte {at}");
        assert!(matches!(directory.incoming(), Err(Error::Damaged(_))), "byte {at}");
        assert!(path.join("state/0000000000000001").is_dir());
    });
    assert_eq!(reopen(&path).expect("opened").condemned(), Ok(None));
}

#[test]
fn what_is_missing_condemns() {
    for missing in ["state/CURRENT", "state/0000000000000001", "log", "state"] {
        let (_room, path) = room();
        drop(open(&path).expect("created"));
        Disk::default().remove_tree(&path.join(missing)).expect("removed");
        let directory = reopen(&path).expect("its owner is known");
        let reason = directory.condemned().expect("readable").expect("condemned");
        assert!(reason.contains("missing"), "{missing}: {reason}");
        assert!(directory.state().is_err());
    }
}

#[test]
fn a_tombstone_holds_across_restarts_and_damage() {
    let (_room, path) = room();
    let directory = open(&path).expect("created");
    directory.condemn("the log is shorter\nthan it was").expect("written");
    directory.condemn("another reason").expect("written");
    let reason = Some("the log is shorter than it was".to_owned());
    assert_eq!(directory.condemned(), Ok(reason.clone()));
    assert!(directory.state().is_err());
    drop(directory);
    assert_eq!(reopen(&path).expect("opened").condemned(), Ok(reason));
    flip_every_byte(&path.join("amnesia"), |at| {
        let directory = reopen(&path).expect("opened");
        assert!(directory.condemned().expect("readable").is_some(), "byte {at}");
    });
}

#[test]
fn a_doubt_holds_until_another_state_or_another_owner_takes_its_place() {
    let (_room, path) = room();
    let directory = open(&path).expect("created");
    let damaged = |what: &str| Error::Damaged(what.to_owned());
    directory.doubt(&Error::engine("read", io::Error::other("slow"))).expect("no damage");
    assert_eq!(directory.doubted(), Ok(None));
    directory.doubt(&damaged("a block\nfails its check")).expect("written");
    directory.doubt(&damaged("another")).expect("written");
    drop(directory);
    let mut directory = reopen(&path).expect("opened");
    assert_eq!(directory.doubted(), Ok(Some("a block fails its check".to_owned())));
    assert!(directory.condemned() == Ok(None) && directory.state().is_ok(), "it may serve");

    drop(directory.adopt(receive(&directory, "another state")).expect("adopted"));
    assert_eq!(directory.doubted(), Ok(None));

    directory.doubt(&damaged("again")).expect("written");
    directory.reset_identity(identity(8)).expect("reset");
    assert_eq!(directory.doubted(), Ok(None));
}

#[test]
fn a_full_disk_does_not_keep_the_tombstone_from_being_written() {
    let (_room, path) = room();
    drop(open(&path).expect("created"));
    fs::write(path.join("reserve"), "room").expect("written");
    let reserve = path.join("reserve");
    let full = move |act: Act, _: &Path, _: Option<&Path>| match act {
        Act::Write if reserve.exists() => Err(io::ErrorKind::StorageFull.into()),
        _ => Ok(()),
    };
    let directory = crash::open_hooked(&path, Arc::new(full)).expect("opened");
    directory.condemn("full or not").expect("written");
    assert_eq!(directory.condemned(), Ok(Some("full or not".into())));
}

#[test]
fn an_adopted_state_replaces_the_old_one_which_stays_until_swept() {
    let (_room, path) = room();
    let directory = open(&path).expect("created");
    let old = directory.state().expect("a state");
    let new = directory.adopt(receive(&directory, "second")).expect("adopted");
    assert_eq!(directory.state(), Ok(new.clone()));
    assert!(old.is_dir() && new.is_dir());
    directory.sweep().expect("swept");
    assert!(!old.exists() && new.is_dir());
    drop(directory.adopt(receive(&directory, "third")).expect("adopted"));
    drop(directory);
    let directory = reopen(&path).expect("opened");
    assert_eq!(content(&directory).as_deref(), Some("third"));
    assert!(!new.exists(), "leftovers are removed at open");
}

#[test]
fn what_is_received_and_not_adopted_goes_away() {
    let (_room, path) = room();
    let directory = open(&path).expect("created");
    let before = listing(&path);
    let incoming: Vec<Incoming> = (0..INCOMING_MAX).map(|_| receive(&directory, "x")).collect();
    let refused = directory.incoming().expect_err("at the bound");
    assert!(matches!(refused, Error::Snapshot { .. }) && !refused.is_fatal(), "{refused}");
    drop(incoming);
    assert_eq!(listing(&path), before);
    directory.incoming().expect("room again");
}

#[test]
fn a_tree_in_what_was_received_is_not_adopted() {
    let (_room, path) = room();
    let directory = open(&path).expect("created");
    let incoming = receive(&directory, "x");
    fs::create_dir(incoming.path().join("tree")).expect("made");
    assert!(matches!(directory.adopt(incoming), Err(Error::Snapshot { .. })));
    assert_eq!(content(&directory), None);
}

#[test]
fn leftovers_of_interrupted_work_are_removed_at_open() {
    let (_room, path) = room();
    drop(open(&path).expect("created"));
    let before = listing(&path);
    for left in ["state/incoming-3", "state/0000000000000002", "snapshots/5"] {
        fs::create_dir(path.join(left)).expect("made");
        fs::write(path.join(left).join("000001.sst"), "half").expect("written");
    }
    for left in ["state/CURRENT.new", "identity.new", "amnesia.new", "doubt.new"] {
        fs::write(path.join(left), "half").expect("written");
    }
    drop(reopen(&path).expect("opened"));
    assert_eq!(listing(&path), before);
}

#[test]
fn a_reset_directory_is_empty_and_has_a_new_owner() {
    let (_room, path) = room();
    let mut directory = open(&path).expect("created");
    fs::write(directory.log().join("0001"), "votes").expect("written");
    fs::write(directory.state().expect("a state").join("file"), "rows").expect("written");
    directory.condemn("lost entries").expect("condemned");
    directory.reset_identity(identity(8)).expect("reset");
    for _ in 0..2 {
        assert_eq!(directory.identity(), &identity(8));
        assert_eq!(directory.condemned(), Ok(None));
        assert_eq!(content(&directory), None);
        assert_eq!(disk::names(&directory.log()), Ok(vec![]));
        drop(directory);
        directory = reopen(&path).expect("opened");
    }
}

#[test]
fn a_directory_whose_state_was_lost_can_be_reset() {
    for missing in ["state/CURRENT", "state", "log"] {
        let (_room, path) = room();
        drop(open(&path).expect("created"));
        Disk::default().remove_tree(&path.join(missing)).expect("removed");
        let mut directory = reopen(&path).expect("its owner is known");
        directory.reset_identity(identity(8)).expect("reset");
        assert_eq!(directory.condemned(), Ok(None), "{missing}");
        assert_eq!(content(&directory), None);
    }
}

#[test]
fn the_examples_in_the_documentation_are_right() {
    let text = include_str!("../../docs/formats/directory.md");
    let examples = text.split("```text\n").skip(3).filter_map(|rest| rest.split("```").next());
    // What follows two spaces is an explanation.
    let line = |line: &str| line.split("  ").next().expect("a line").to_owned() + "\n";
    let examples: Vec<String> = examples.map(|one| one.lines().map(line).collect()).collect();
    let titles = ["directory", "state", "begun", "amnesia", "doubt"];
    assert_eq!(examples.len(), titles.len());
    for (title, example) in titles.iter().zip(&examples) {
        let sealed = seal::unseal(title, example.as_bytes());
        let body = example.rsplit_once("checksum").expect("a checksum").0;
        assert!(sealed.is_ok(), "{title}: {:08x}", crc32c::crc32c(body.as_bytes()));
    }
}
