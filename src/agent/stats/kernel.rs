//! What the kernel counts: for the machine, for a control group of either version, for a network.
//!
//! Never: fails. A file that is not there counts nothing.

use std::fs;
use std::path::{Path, PathBuf};

use kontiki_api::object::time::Timestamp;

use super::{Disk, Interface, Memory, Use};
use crate::agent::node;
use crate::agent::pods::groups::{Group, number};

/// The kernel counts a machine's processor time in hundredths of a second, towards programs.
const TICK_NANOSECONDS: u64 = 10_000_000;
const PAGE_BYTES: u64 = 4096;
/// Folders of logs are not deep.
const FILES_MAX: usize = 1000;

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// A number that stands behind a word in a file of one pair a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        words.next().filter(|it| it.trim_end_matches(':') == name)?;
        words.next()?.parse().ok()
    })
}

pub fn booted() -> Timestamp {
    let seconds = field(&read("/proc/stat"), "btime").unwrap_or_default();
    Timestamp::from_seconds(i64::try_from(seconds).unwrap_or(0))
}

/// The whole machine.
pub fn node() -> Use {
    let stat = read("/proc/stat");
    let all = stat.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let ticks: Vec<u64> = all.map_while(|it| it.parse().ok()).collect();
    // user nice system (idle iowait) irq softirq steal; guests are in user.
    let busy = ticks.iter().take(8).enumerate().filter(|(at, _)| !matches!(at, 3 | 4));
    let cpu: u64 = busy.map(|(_, ticks)| ticks).sum();
    let (memory, faults) = (read("/proc/meminfo"), read("/proc/vmstat"));
    let bytes = |name: &str| field(&memory, name).map(|kibibytes| kibibytes * 1024);
    let total = bytes("MemTotal").unwrap_or_default();
    let used = bytes("MemFree").map(|free| total.saturating_sub(free));
    let idle = bytes("Inactive(file)").unwrap_or_default();
    let working = used.map(|used| used.saturating_sub(idle));
    Use {
        cpu: (!ticks.is_empty()).then_some(cpu * TICK_NANOSECONDS),
        rate: None,
        memory: Memory {
            used,
            working,
            available: working.map(|working| total.saturating_sub(working)),
            rss: bytes("AnonPages"),
            faults: field(&faults, "pgfault"),
            major_faults: field(&faults, "pgmajfault"),
        },
    }
}

/// This process.
pub fn this() -> Use {
    let stat = read("/proc/self/stat");
    // The name may have blanks; what follows its bracket has none.
    let rest = stat.rsplit_once(") ").map(|(_, rest)| rest).unwrap_or_default();
    let numbers: Vec<u64> =
        rest.split_whitespace().map(|it| it.parse().unwrap_or_default()).collect();
    let at = |index: usize| numbers.get(index).copied();
    let rss = at(21).map(|pages| pages * PAGE_BYTES);
    Use {
        cpu: at(11).zip(at(12)).map(|(user, system)| (user + system) * TICK_NANOSECONDS),
        rate: None,
        memory: Memory {
            used: rss,
            working: rss,
            rss,
            faults: at(7),
            major_faults: at(9),
            available: None,
        },
    }
}

/// A control group with all below it.
pub fn group(group: &str) -> Use {
    let cpu = match Group::of(group, "cpuacct") {
        Some(Group::One(folder)) => number(&folder.join("cpuacct.usage")),
        Some(Group::Two(folder)) => {
            field(&read(folder.join("cpu.stat")), "usage_usec").map(|micros| micros * 1000)
        }
        None => None,
    };
    let memory = match Group::of(group, "memory") {
        Some(Group::One(folder)) => {
            let used = number(&folder.join("memory.usage_in_bytes"));
            let limit = number(&folder.join("memory.limit_in_bytes"));
            let stat = read(folder.join("memory.stat"));
            memory(
                used,
                limit,
                &stat,
                ["total_inactive_file", "total_rss", "total_pgfault", "total_pgmajfault"],
            )
        }
        Some(Group::Two(folder)) => {
            let used = number(&folder.join("memory.current"));
            let limit = number(&folder.join("memory.max"));
            let stat = read(folder.join("memory.stat"));
            memory(used, limit, &stat, ["inactive_file", "anon", "pgfault", "pgmajfault"])
        }
        None => Memory::default(),
    };
    Use { cpu, rate: None, memory }
}

fn memory(used: Option<u64>, limit: Option<u64>, stat: &str, names: [&str; 4]) -> Memory {
    let [idle, rss, faults, major_faults] = names.map(|it| field(stat, it));
    let working = used.map(|used| used.saturating_sub(idle.unwrap_or_default()));
    // Version 1 says that there is none by a number that no machine has.
    let limit = limit.filter(|it| *it < 1 << 60);
    let available = limit.zip(working).map(|(limit, working)| limit.saturating_sub(working));
    Memory { used, working, available, rss, faults, major_faults }
}

/// A process of a group, or of one below it.
pub fn process_of(group: &str) -> Option<u32> {
    let folder = folder_of(group, "memory")?;
    let below = fs::read_dir(&folder).ok()?.flatten().map(|it| it.path()).filter(|it| it.is_dir());
    below.into_iter().find_map(|it| {
        read(it.join("cgroup.procs")).lines().next().and_then(|line| line.parse().ok())
    })
}

pub fn processes_of(group: &str) -> Option<u64> {
    number(&folder_of(group, "pids")?.join("pids.current"))
}

fn folder_of(group: &str, controller: &str) -> Option<PathBuf> {
    match Group::of(group, controller)? {
        Group::One(folder) | Group::Two(folder) => Some(folder),
    }
}

/// How many processes there are, and how many there may be.
pub fn processes() -> (i64, i64) {
    (node::processes(), node::machine().pids)
}

/// The interfaces of the network that a process is in, or of ours; without the loopback.
pub fn interfaces(process: Option<u32>) -> Vec<Interface> {
    let process = process.map_or_else(|| "self".to_owned(), |it| it.to_string());
    let text = read(format!("/proc/{process}/net/dev"));
    let lines = text.lines().skip(2).filter_map(|line| line.split_once(':'));
    let read = |(name, numbers): (&str, &str)| {
        let numbers: Vec<u64> =
            numbers.split_whitespace().map_while(|it| it.parse().ok()).collect();
        let at = |index: usize| numbers.get(index).copied().unwrap_or_default();
        let name = name.trim().to_owned();
        Interface { name, received: at(0), receive_errors: at(2), sent: at(8), send_errors: at(10) }
    };
    // What leads into pods is counted for them.
    let is_one = |it: &Interface| it.name != "lo" && !it.name.starts_with("veth");
    lines.map(read).filter(is_one).collect()
}

/// The file system that something is on.
pub fn disk(path: &Path) -> Option<Disk> {
    let found = rustix::fs::statvfs(path.ancestors().find(|it| it.exists())?).ok()?;
    let (bytes, free) = (found.f_blocks * found.f_frsize, found.f_bfree * found.f_frsize);
    Some(Disk {
        bytes,
        bytes_free: found.f_bavail * found.f_frsize,
        inodes: found.f_files,
        inodes_free: found.f_ffree,
        used: Some(bytes.saturating_sub(free)),
        inodes_used: Some(found.f_files.saturating_sub(found.f_ffree)),
    })
}

/// The files of a folder, and the file system they are on.
pub fn folder(path: &Path) -> Option<Disk> {
    let disk = disk(path)?;
    let files = fs::read_dir(path).ok()?.flatten().take(FILES_MAX);
    let sizes: Vec<u64> = files.filter_map(|it| Some(it.metadata().ok()?.len())).collect();
    let inodes_used = u64::try_from(sizes.len() + 1).ok();
    Some(Disk { used: Some(sizes.iter().sum()), inodes_used, ..disk })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_takes_something_and_so_does_this_process() {
        let (node, this) = (node(), this());
        assert!(node.cpu > this.cpu && this.cpu.is_some(), "{node:?} {this:?}");
        assert!(node.memory.working > this.memory.rss && this.memory.rss > Some(1 << 20));
        assert!(booted() > Timestamp::from_seconds(1));
        assert_eq!(group("/no/such/group"), Use::default());
    }

    #[test]
    fn memory_that_could_be_taken_back_is_not_counted() {
        let stat = "total_inactive_file 100\ntotal_rss 5\ntotal_pgfault 7\n";
        let names = ["total_inactive_file", "total_rss", "total_pgfault", "total_pgmajfault"];
        let seen = memory(Some(300), Some(u64::MAX / 2), stat, names);
        assert_eq!((seen.working, seen.rss, seen.available), (Some(200), Some(5), None));
        let bound = memory(Some(300), Some(1000), stat, names);
        assert_eq!((bound.available, bound.major_faults), (Some(800), None));
    }
}
