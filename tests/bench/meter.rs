//! Time, processor time and memory of this process, between two moments.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

pub struct Meter {
    began: Instant,
    processor: Duration,
}

#[derive(Clone, Copy, Debug)]
pub struct Spent {
    pub wall: Duration,
    /// All threads of the process, those that make the load included.
    pub processor: Duration,
}

impl Meter {
    pub fn start() -> Meter {
        Meter { began: Instant::now(), processor: processor() }
    }

    pub fn stop(&self) -> Spent {
        Spent { wall: self.began.elapsed(), processor: processor().saturating_sub(self.processor) }
    }
}

fn processor() -> Duration {
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(spent.tv_sec.unsigned_abs(), spent.tv_nsec as u32)
}

/// Resident memory in mebibytes; 0 where the system does not say.
pub fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}
