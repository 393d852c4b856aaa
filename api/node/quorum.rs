//! A master that is cut off from the others lets its agents go to one that is not.
//!
//! Keeps: an agent is not held where nobody hears of it: to the rest of the cluster its node would be silent.
//! Never: acts on a moment without a leader; that is what an election looks like.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::sessions::Sessions;

const LOOK_EVERY: Duration = Duration::from_secs(3);
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// Elections are over by then, and no node counts as silent yet.
const CUT_OFF_AFTER: Duration = Duration::from_secs(15);

/// Looks whether this master can still be sure of anything, as long as it is polled.
pub(super) async fn look(sessions: &Sessions) {
    let mut sure_at = Instant::now();
    loop {
        let asked = timeout(ANSWER_MAX, sessions.road().objects().barrier()).await;
        if matches!(asked, Ok(Ok(()))) {
            sure_at = Instant::now();
        }
        sessions.cut_off(sure_at.elapsed() >= CUT_OFF_AFTER);
        sleep(LOOK_EVERY).await;
    }
}
