//! What a machine's first process does besides: it takes in processes whose parents have ended.
//!
//! In a container image Kontiki may be the first process of its namespace. Then every container that ends
//! leaves its runtime's helper to it, which would stay a zombie, and a number, until all numbers are gone.
//!
//! Keeps: children of our own are left to those who wait for them. They are gone a moment after their end; what
//! two looks in a row find is an orphan.
//! Never: does anything where another process is the first.

use std::collections::HashSet;
use std::fs;
use std::time::Duration;

use rustix::process::{Pid, WaitId, WaitIdOptions, getpid, waitid};
use tokio::time::sleep;

const LOOK: Duration = Duration::from_secs(5);

/// Takes them in for as long as it is polled; it does not end.
pub async fn run() {
    // Names of processes are this namespace's only if its own list of them is mounted.
    let own = fs::read_link("/proc/self").is_ok_and(|it| it.as_os_str() == "1");
    if !getpid().is_init() || !own {
        return std::future::pending().await;
    }
    let mut before = HashSet::new();
    loop {
        sleep(LOOK).await;
        let zombies = zombies();
        for zombie in zombies.intersection(&before) {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            if let Err(error) = waitid(WaitId::Pid(*zombie), options) {
                tracing::debug!(%error, ?zombie, "an orphan is not taken in");
            }
        }
        before = zombies;
    }
}

/// Children of ours that have ended and that nobody has waited for.
fn zombies() -> HashSet<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let number = |it: fs::DirEntry| it.file_name().to_str()?.parse::<i32>().ok();
    let is_one = |number: &i32| {
        fs::read_to_string(format!("/proc/{number}/stat")).is_ok_and(|stat| is_zombie_of(&stat, 1))
    };
    entries.filter_map(number).filter(is_one).filter_map(Pid::from_raw).collect()
}

/// `12 (name) Z 1 ...`: the name may have blanks and brackets.
fn is_zombie_of(stat: &str, parent: i32) -> bool {
    let rest = stat.rsplit_once(") ").map(|(_, rest)| rest).unwrap_or_default();
    let mut words = rest.split(' ');
    words.next() == Some("Z") && words.next().and_then(|it| it.parse().ok()) == Some(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zombie_is_told_by_its_state_and_its_parent() {
        assert!(is_zombie_of("12 (containerd-shim) Z 1 12 12 0", 1));
        assert!(is_zombie_of("12 (a) Z 7 (b) Z 1 12 12 0", 1));
        assert!(!is_zombie_of("12 (containerd-shim) S 1 12 12 0", 1));
        assert!(!is_zombie_of("12 (a) Z 7 12", 1));
        assert!(!is_zombie_of("", 1));
    }
}
