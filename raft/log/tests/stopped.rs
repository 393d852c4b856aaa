//! A process that is stopped in the midst of a write and goes on later, as by SIGSTOP and SIGCONT.
//!
//! A test starts its own binary once more as a child, which stops itself while a sync is under way.

use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc;

use rustix::process::{Pid, Signal, getpid, kill_process};

use super::*;

/// Set, the test of this file is the child.
const CHILD: &str = "KONTIKI_TEST_CHILD";
const SELF: &str =
    "log::tests::stopped::a_write_is_not_failed_for_the_time_its_process_stood_still";
/// Longer than the clock may be late, and far shorter than the stop.
const STALL_MAX: Duration = Duration::from_secs(2);
const STOPPED: Duration = Duration::from_secs(6);

/// The child's life: one write, in which the process stops.
fn write_and_stop() {
    let disk = SimDisk::new(1);
    // Opened again, the segment's handle has the segment's name, which the hook goes by.
    drop(open(&disk).unwrap());
    let options = Options { flusher: FlusherMode::Thread, stall_max: STALL_MAX, ..small() };
    let (log, _) = Log::open(Arc::new(disk.clone()), OURS, options).unwrap();
    let stopped = AtomicBool::new(false);
    let stop = move |name: &str| {
        if name.ends_with(".segment") && !stopped.swap(true, Ordering::Relaxed) {
            kill_process(getpid(), Signal::STOP).unwrap();
        }
    };
    disk.set_faults(Faults { on_sync: Some(Arc::new(stop)), ..Faults::default() });
    let (heard, hears) = mpsc::channel();
    log.append(records(1..=1, 10), Box::new(move |result| heard.send(result).unwrap()));
    loop {
        log.health().unwrap();
        match hears.try_recv() {
            Ok(result) => break result.unwrap(),
            Err(_) => thread::yield_now(),
        }
    }
}

/// The letter by which the kernel says what a process is doing.
fn state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

#[test]
fn a_write_is_not_failed_for_the_time_its_process_stood_still() {
    if std::env::var_os(CHILD).is_some() {
        return write_and_stop();
    }
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([SELF, "--exact", "--nocapture"])
        .env(CHILD, "1")
        .spawn()
        .unwrap();
    let pid = child.id();
    while state(pid) != Some('T') {
        assert!(child.try_wait().unwrap().is_none(), "it ended without having stopped");
        thread::yield_now();
    }
    // What is tried is how long it stands still.
    let (_kept, silence) = mpsc::channel::<()>();
    silence.recv_timeout(STOPPED).unwrap_err();
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::CONT).unwrap();
    assert!(child.wait().unwrap().success());
}
