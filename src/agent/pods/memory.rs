//! What a worker remembers between two looks at the runtime. All of it can be lost with the agent, but for what
//! the pod was given, which is on disk as well.

use std::collections::{BTreeMap, BTreeSet};

use kontiki_api::object::time::Timestamp;

use super::allocation::Allocation;

/// Upstream's: after a first failure, doubled up to the most.
const PAUSE_FIRST_S: i64 = 10;
const PAUSE_MAX_S: i64 = 300;
/// Who ran this long has recovered.
const RECOVERED_S: i64 = 600;

#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Why a container is not started, by its name.
    pub waiting: BTreeMap<String, Waiting>,
    /// By the container's name.
    pub crashes: BTreeMap<String, Pause>,
    /// By the image: how long it is left alone, and why the last pull failed.
    pub pulls: BTreeMap<String, (Pause, String)>,
    /// What probes have found, by the container's id.
    pub probed: BTreeMap<String, Probed>,
    /// Why there is no sandbox, and when it is tried again.
    pub sandbox: Option<Waiting>,
    /// What containers wrote before they ended, by the container's id.
    pub messages: BTreeMap<String, String>,
    /// The pod was ended by us.
    pub ended: Option<Ended>,
    /// The amounts that it has.
    pub allocation: Allocation,
    pub resize: Resize,
    /// Containers that were stopped to be begun anew, however they end, by their ids.
    pub replaced: BTreeSet<String>,
}

/// Amounts that the node does not give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    pub reason: &'static str,
    pub message: String,
    /// Of the object that asks.
    pub generation: Option<i64>,
}

/// How it stands with amounts that the pod asks for and does not have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resize {
    /// Why the node does not give them, for the generation of the object that asks.
    pub pending: Option<Pending>,
    /// They were given to this generation, and the runtime is told.
    pub given: Option<Option<i64>>,
    /// Why the runtime did not take them, and when it is told again.
    pub failed: Option<(String, Timestamp)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub reason: String,
    pub message: String,
    /// When it is tried again.
    pub until: Timestamp,
}

/// Why a pod was ended that nobody deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    pub reason: String,
    pub message: String,
    /// It was never let in: nothing of it has run.
    pub refused: bool,
    /// It was in the way of another, which is also said as a condition.
    pub disruption: Option<&'static str>,
}

/// Of one container: what is not probed is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probed {
    pub started: bool,
    pub ready: bool,
    /// A liveness or startup probe has failed too often.
    pub dead: bool,
}

/// How long to leave something alone that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    pub seconds: i64,
    pub from: Timestamp,
}

impl Pause {
    /// The pause after a further failure at `now`.
    #[must_use]
    pub fn after(before: Option<Pause>, now: Timestamp) -> Pause {
        let seconds = before.map_or(PAUSE_FIRST_S, |it| (it.seconds * 2).min(PAUSE_MAX_S));
        Pause { seconds, from: now }
    }

    #[must_use]
    pub fn until(self, from: Timestamp) -> Timestamp {
        from.plus_seconds(self.seconds)
    }
}

/// What to do about a container that ran from `started` to `finished` and is to run again.
///
/// The first restart is at once; the second comes 10 s after the end, the third 20 s, and so on.
pub fn crash_pause(
    before: Option<Pause>,
    started: Timestamp,
    finished: Timestamp,
    now: Timestamp,
) -> Result<Pause, Timestamp> {
    let recovered = finished.micros_since(started) >= RECOVERED_S * 1_000_000;
    let before = before.filter(|_| !recovered);
    if let Some(pause) = before
        && now < pause.until(finished)
    {
        return Err(pause.until(finished));
    }
    Ok(Pause::after(before, now))
}
