//! What processes have cost, as the kernel counts it.

use std::time::Duration;

/// The kernel's ticks in a second, which is the same on every Linux that this runs on.
const TICKS: f64 = 100.0;

/// Processor time of these processes since they began.
pub fn processor(pids: &[u32]) -> Duration {
    let ticks = pids.iter().map(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name, in brackets, may hold anything.
        let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
        let fields: Vec<u64> =
            after.split_whitespace().skip(11).take(2).filter_map(|f| f.parse().ok()).collect();
        fields.iter().sum::<u64>()
    });
    Duration::from_secs_f64(ticks.sum::<u64>() as f64 / TICKS)
}

/// Resident memory of these processes.
pub fn resident_mib(pids: &[u32]) -> f64 {
    status_mib(pids, "VmRSS:")
}

/// The most that each has had since it began.
pub fn peak_mib(pids: &[u32]) -> f64 {
    status_mib(pids, "VmHWM:")
}

/// Of that, what is theirs alone, and not pages of their programs, which the kernel drops when it wants to.
pub fn anonymous_mib(pids: &[u32]) -> f64 {
    status_mib(pids, "RssAnon:")
}

fn status_mib(pids: &[u32], field: &str) -> f64 {
    let kib = pids.iter().map(|pid| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0)
    });
    kib.sum::<u64>() as f64 / 1024.0
}
