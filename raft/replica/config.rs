//! What can be set about a replica, and what is sensible where nothing is.

use std::time::Duration;

use crate::error::Error;
use crate::log;

/// etcd's `--max-request-bytes`.
const REQUEST_BYTES_MAX: usize = 3 << 19;

#[derive(Clone, Debug)]
pub struct Config {
    /// A follower that hears nothing for a time between these calls an election, unless it can tell
    /// before that the leader's process is gone.
    pub election_timeout_ms: (u64, u64),
    pub heartbeat_ms: u64,
    /// How long a request waits for a leader and for its answer. etcd's: 5 s and two elections.
    pub request_timeout_ms: Option<u64>,

    /// Most bytes and most commands that are gathered into one entry.
    pub batch_bytes_max: usize,
    pub batch_commands_max: usize,
    /// Entries of this member's that are under way at a time.
    pub entries_in_flight_max: usize,
    /// Most bytes of one command.
    pub request_bytes_max: usize,
    /// Proposals, and readers, that wait; the next is refused.
    pub waiting_max: usize,

    /// Entries that stay in the log behind what is durable, for followers that lag. Who lags further
    /// gets a snapshot.
    pub log_entries_kept: u64,
    /// Bytes of log that may stay; fewer entries are kept where they are large.
    pub log_bytes_kept_max: u64,
    /// The store is synced after so many bytes, and so often when there is anything to sync.
    pub flush_bytes: u64,
    pub flush_interval: Duration,

    /// How often what is left of long leases is written down.
    pub lease_checkpoint_interval: Duration,
    /// History older than this is forgotten; `None` leaves that to clients for as long as there is space.
    pub compaction_interval: Option<Duration>,
    /// How often everything at rest is read, to find damage that nobody reads.
    pub scrub_interval: Duration,
    /// A learner asks to become a voter as soon as it has caught up.
    pub become_voter: bool,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            election_timeout_ms: (1000, 2000),
            heartbeat_ms: 100,
            request_timeout_ms: None,
            batch_bytes_max: 1 << 20,
            batch_commands_max: 512,
            entries_in_flight_max: 4,
            request_bytes_max: REQUEST_BYTES_MAX,
            waiting_max: 16_384,
            log_entries_kept: 50_000,
            log_bytes_kept_max: 1 << 30,
            flush_bytes: 256 << 20,
            flush_interval: Duration::from_secs(10),
            lease_checkpoint_interval: Duration::from_secs(300),
            compaction_interval: None,
            scrub_interval: Duration::from_hours(24),
            become_voter: false,
        }
    }
}

impl Config {
    #[must_use]
    pub fn request_timeout(&self) -> Duration {
        let default = 5000 + 2 * self.election_timeout_ms.1;
        Duration::from_millis(self.request_timeout_ms.unwrap_or(default))
    }

    /// The shortest lease: one and a half election timeouts, in whole seconds, as etcd's. A shorter one
    /// could run out while there is no leader to renew it with.
    #[must_use]
    pub fn lease_ttl_min_s(&self) -> i64 {
        (self.election_timeout_ms.0 * 3).div_ceil(2000) as i64
    }

    /// Most bytes of an entry: what was gathered, or one command that is larger than that.
    pub(crate) fn entry_bytes_max(&self) -> usize {
        // What the encoding adds to small commands is less than they are.
        2 * self.batch_bytes_max.max(self.request_bytes_max)
    }

    /// Refuses settings under which an entry might not fit into the log.
    pub(crate) fn fit(&self, log: &log::Options) -> Result<(), Error> {
        let (entry, segment) = (self.entry_bytes_max() as u64, log.segment_bytes);
        if entry <= segment {
            return Ok(());
        }
        Err(Error::Stopped(format!(
            "the settings of the replica do not go together: an entry may take {entry} bytes, a \
             segment of the log has {segment}"
        )))
    }

    /// The same for openraft. It waits for the leader's lease, which is its longest election timeout, and
    /// after that for an election timeout: half of our time is the lease, the rest is drawn.
    pub(crate) fn openraft(&self) -> Result<openraft::Config, Error> {
        let lease = self.election_timeout_ms.1 / 2;
        let least = self.election_timeout_ms.0.saturating_sub(lease);
        let config = openraft::Config {
            cluster_name: "kontiki".into(),
            // Drawn from a part only of the rest: an election takes a while, and those who call one at
            // the same moment are in each other's way.
            election_timeout_min: least.max(lease / 2),
            election_timeout_max: lease,
            heartbeat_interval: self.heartbeat_ms,
            // A whole store takes as long as it takes; a link that stands still fails by itself.
            install_snapshot_timeout: 3_600_000,
            // Entries hold many commands each, and the log reader bounds an answer by bytes.
            max_payload_entries: 256,
            snapshot_policy: openraft::SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: self.log_entries_kept,
            purge_batch_size: (self.log_entries_kept / 8).clamp(1, 4096),
            enable_pre_vote: Some(true),
            // A leader that comes back may lead on only after an election: what it had committed last
            // is written down without a sync, and its store lags behind.
            enable_leader_restore: Some(false),
            ..openraft::Config::default()
        };
        config.validate().map_err(|error| {
            Error::Stopped(format!("the settings of the replica do not go together: {error}"))
        })
    }
}
