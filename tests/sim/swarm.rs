//! What befalls a simulated cluster: each seed draws which faults there are, how often, and how much the
//! members keep.

use std::time::Duration;

use kontiki_raft::log;
use kontiki_raft::network::memory::Faults;
use kontiki_raft::{Config, NodeId};
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::time::sleep;

use crate::cluster::Cluster;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// The power of one machine goes.
    PowerCut,
    /// The power of the one that leads goes.
    PowerCutOfLeader,
    /// The power of all goes at once.
    PowerCutOfAll,
    /// The power of all others goes for longer than a request waits: one that led has entries that nobody
    /// agrees to, and may agree to later.
    PowerCutOfOthers,
    /// The power of one goes and comes back at once.
    Blink,
    /// What is written to the log of one fails, is not synced, or finds no room: it must stop.
    FailingDisk,
    /// What one has acknowledged is damaged while it is down, or went to the wrong place: it must know.
    Damage,
    Isolate,
    IsolateLeader,
    CutOneWay,
    /// Two groups; which is larger is drawn.
    Split,
    Pause,
    PauseLeader,
    /// Messages wait, vanish and come twice.
    Messages,
    /// A new member comes in and an old one leaves.
    Replace,
    /// History is forgotten.
    Compact,
    Heal,
}

const KINDS: [Kind; 17] = [
    Kind::PowerCut,
    Kind::PowerCutOfLeader,
    Kind::PowerCutOfAll,
    Kind::PowerCutOfOthers,
    Kind::Blink,
    Kind::FailingDisk,
    Kind::Damage,
    Kind::Isolate,
    Kind::IsolateLeader,
    Kind::CutOneWay,
    Kind::Split,
    Kind::Pause,
    Kind::PauseLeader,
    Kind::Messages,
    Kind::Replace,
    Kind::Compact,
    Kind::Heal,
];

/// Far more than clients write at a time.
const ENTRY_BYTES: usize = 64 << 10;

/// What one seed drew.
#[derive(Clone, Debug)]
pub struct Mix {
    pub members: u64,
    pub rounds: usize,
    pub kinds: Vec<Kind>,
    /// Between two faults, at most.
    pub pause_max_ms: u64,
    /// Between some of them the cluster is whole and lives in peace for so long, at most. Leases are written
    /// down, history and copies of the store given up meanwhile; what comes after meets an old cluster.
    pub calm_max: Option<Duration>,
    /// How likely one that is down is started in a round.
    pub start: f64,
    /// How long a client rests between two requests, at most.
    pub rest_max: Duration,
    /// As in [`kontiki_storage::engine::memory::Faults`].
    pub reclaim_one_in: u32,
    /// Events that members keep in memory; who asks for older ones reads the tables.
    pub ring_bytes: usize,
    /// Of the log: small ones are begun and given up under way.
    pub segment_bytes: u64,
    /// What a message takes at most where nothing is wrong. At nought members agree within one moment, and what
    /// may go wrong in between does not happen.
    pub distance: Duration,
    pub config: Config,
}

impl Mix {
    #[must_use]
    pub fn draw(random: &mut StdRng) -> Mix {
        let mut kinds: Vec<Kind> = KINDS.into_iter().filter(|_| random.random_bool(0.5)).collect();
        // Without these a run is either over at once or nothing but waiting.
        kinds.extend([Kind::PowerCut, Kind::Heal]);
        // Slow clusters are not busier: they live longer, with other ratios of everything.
        let pace = [1, 1, 2, 4, 10][random.random_range(0..5)];
        // Peace is cheap where hearts beat slowly, and at the product's own pace (2) it is as real.
        let calm = pace > 1 && random.random_bool(0.4);
        let calm_max = calm.then(|| Duration::from_secs(random.random_range(60..900)));
        let request_timeout_ms = if pace > 2 { 9000 } else { 3000 };
        let config = Config {
            election_timeout_ms: (300 * pace, 600 * pace),
            heartbeat_ms: 50 * pace,
            request_timeout_ms: Some(request_timeout_ms),
            flush_interval: Duration::from_millis(random.random_range(100..2000) * pace),
            lease_checkpoint_interval: Duration::from_secs(random.random_range(1..20)),
            log_entries_kept: random.random_range(10..300),
            batch_commands_max: random.random_range(1..64),
            batch_bytes_max: ENTRY_BYTES,
            request_bytes_max: ENTRY_BYTES,
            ..Config::default()
        };
        Mix {
            members: [1, 3, 3, 3, 5][random.random_range(0..5)],
            rounds: random.random_range(10..60),
            kinds,
            pause_max_ms: random.random_range(200..3000) * pace,
            calm_max,
            start: random.random_range(0.3..0.9),
            rest_max: Duration::from_millis(60 * pace),
            reclaim_one_in: [0, 20, 200][random.random_range(0..3)],
            segment_bytes: [256 << 10, 512 << 10, 2 << 20][random.random_range(0..3)],
            distance: Duration::from_millis([0, 0, 3, 12][random.random_range(0..4)] * pace),
            ring_bytes: [1 << 10, 64 << 10, 16 << 20][random.random_range(0..3)],
            config,
        }
    }

    /// How long a client waits for an answer: longer than members look for one.
    #[must_use]
    pub fn patience(&self) -> Duration {
        self.config.request_timeout() + Duration::from_secs(2)
    }
}

/// One thing goes wrong, or right again. Returns what.
pub async fn befall(
    kind: Kind,
    cluster: &mut Cluster,
    random: &mut StdRng,
) -> Result<String, String> {
    let ids: Vec<u64> = cluster.members.keys().copied().collect();
    let victim = ids[random.random_range(0..ids.len())];
    let other = ids[random.random_range(0..ids.len())];
    let leader = cluster.leader().unwrap_or(victim);
    let said = |what: String| Ok(what);
    match kind {
        Kind::PowerCut => {
            cluster.crash(victim).await?;
            said(format!("power cut of {victim}"))
        }
        Kind::PowerCutOfLeader => {
            cluster.crash(leader).await?;
            said(format!("power cut of {leader}, which led"))
        }
        Kind::PowerCutOfAll => {
            for id in cluster.up() {
                cluster.crash(id).await?;
            }
            said("power cut of all".into())
        }
        Kind::Blink => {
            cluster.crash(victim).await?;
            cluster.start(victim).await?;
            said(format!("the power of {victim} went and came back"))
        }
        Kind::FailingDisk => {
            let soon = random.random_range(1..40);
            let faults = match random.random_range(0..3) {
                0 => log::Faults { fail_sync: Some(soon), ..log::Faults::default() },
                1 => log::Faults { fail_write: Some(soon), ..log::Faults::default() },
                _ => log::Faults { capacity_bytes: Some(0), ..log::Faults::default() },
            };
            let up = cluster.replica(victim).is_ok();
            if up {
                cluster.fail_disk(victim, faults);
            }
            said(if up { format!("the disk of {victim} fails") } else { String::new() })
        }
        Kind::Isolate => {
            cluster.isolate(victim);
            said(format!("{victim} is cut off"))
        }
        Kind::IsolateLeader => {
            cluster.isolate(leader);
            said(format!("{leader}, which led, is cut off"))
        }
        Kind::CutOneWay => {
            cluster.network.cut_one_way(NodeId(victim), NodeId(other));
            said(format!("nothing goes from {victim} to {other}"))
        }
        Kind::Split => {
            let (one, rest): (Vec<u64>, Vec<u64>) =
                ids.iter().partition(|_| random.random_bool(0.5));
            for a in &one {
                rest.iter().for_each(|b| cluster.network.cut(NodeId(*a), NodeId(*b)));
            }
            said(format!("{one:?} and {rest:?} are apart"))
        }
        Kind::Pause | Kind::PauseLeader => {
            let who = if kind == Kind::Pause { victim } else { leader };
            cluster.network.pause(NodeId(who));
            let pace = cluster.heartbeat();
            sleep(pace * random.random_range(1..60)).await;
            cluster.network.resume(NodeId(who));
            said(format!("{who} stood still"))
        }
        Kind::Messages => {
            let faults = Faults {
                delay: Duration::ZERO..Duration::from_millis(random.random_range(1..80)),
                lost: random.random_range(0.0..0.2),
                unanswered: random.random_range(0.0..0.2),
                repeated: random.random_range(0.0..0.3),
            };
            cluster.slow(faults.clone());
            said(format!("{faults:?}"))
        }
        Kind::Heal => {
            cluster.heal();
            said("all is whole".into())
        }
        // These take part in `run` and `damage`, with the clients' doors at hand.
        Kind::PowerCutOfOthers | Kind::Replace | Kind::Compact | Kind::Damage => {
            said(String::new())
        }
    }
}
