//! What befalls a simulated cluster: each seed draws which faults there are, how often, and how much the
//! members keep.

use std::time::Duration;

use kontiki_raft::network::memory::Faults;
use kontiki_raft::{Config, NodeId};
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::time::sleep;

use crate::cluster::Cluster;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The power of one machine goes.
    PowerCut,
    /// The power of the one that leads goes.
    PowerCutOfLeader,
    /// The power of all goes at once.
    PowerCutOfAll,
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

const KINDS: [Kind; 13] = [
    Kind::PowerCut,
    Kind::PowerCutOfLeader,
    Kind::PowerCutOfAll,
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

/// What one seed drew.
#[derive(Clone, Debug)]
pub struct Mix {
    pub members: u64,
    pub rounds: usize,
    pub kinds: Vec<Kind>,
    /// Between two faults, at most.
    pub pause_max_ms: u64,
    /// How likely one that is down is started in a round.
    pub start: f64,
    pub config: Config,
}

impl Mix {
    #[must_use]
    pub fn draw(random: &mut StdRng) -> Mix {
        let mut kinds: Vec<Kind> = KINDS.into_iter().filter(|_| random.random_bool(0.5)).collect();
        // Without these a run is either over at once or nothing but waiting.
        kinds.extend([Kind::PowerCut, Kind::Heal]);
        let config = Config {
            election_timeout_ms: (300, 600),
            heartbeat_ms: 50,
            request_timeout_ms: Some(3000),
            flush_interval: Duration::from_millis(random.random_range(100..2000)),
            lease_checkpoint_interval: Duration::from_secs(random.random_range(2..30)),
            log_entries_kept: random.random_range(10..300),
            batch_commands_max: random.random_range(1..64),
            ..Config::default()
        };
        Mix {
            members: [1, 3, 3, 3, 5][random.random_range(0..5)],
            rounds: random.random_range(10..60),
            kinds,
            pause_max_ms: random.random_range(200..3000),
            start: random.random_range(0.3..0.9),
            config,
        }
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
            sleep(Duration::from_millis(random.random_range(50..3000))).await;
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
            cluster.network.set_faults(faults.clone());
            said(format!("{faults:?}"))
        }
        Kind::Heal => {
            heal(cluster);
            said("all is whole".into())
        }
        // What an operator does takes part in `run`, with the clients' doors at hand.
        Kind::Replace | Kind::Compact => said(String::new()),
    }
}

pub fn heal(cluster: &Cluster) {
    cluster.network.heal();
    cluster.network.set_faults(Faults::default());
}
