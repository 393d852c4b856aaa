//! How long nothing can be written after a leader is lost: one writer that never rests and asks whoever
//! answers, and a leader that is killed, paused or cut off, again and again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::Signal;
use tokio::time::{Instant, sleep, timeout};

use crate::cluster::{Cluster, Door, PATIENCE};

/// As long as a client waits before it asks somebody else.
const ANSWER: Duration = Duration::from_millis(300);
/// How long after a loss the longest gap is looked for.
const WINDOW: Duration = Duration::from_secs(12);

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Loss {
    Kill,
    Pause,
    Cut,
}

/// The longest time without an acknowledged write after each loss.
pub async fn measure(
    cluster: &mut Cluster,
    loss: Loss,
    rounds: usize,
) -> Result<Vec<Duration>, String> {
    let doors: Vec<Door> =
        cluster.members().into_iter().map(|it| cluster.door(it)).collect::<Result<_, _>>()?;
    let acknowledged = Arc::new(Mutex::new(vec![Instant::now()]));
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(write(doors, acknowledged.clone(), stop.clone()));
    let mut gaps = Vec::new();
    for _ in 0..rounds {
        let leader = settled(cluster).await?;
        acknowledged.lock().clear();
        sleep(Duration::from_millis(200)).await;
        let lost = Instant::now();
        match loss {
            Loss::Kill => cluster.kill(leader).await,
            Loss::Pause => cluster.signal(leader, Signal::STOP),
            Loss::Cut => cluster.network.change(|now| {
                for other in cluster.members().into_iter().filter(|other| *other != leader) {
                    now.cut.extend([(leader, other), (other, leader)]);
                }
            }),
        }
        sleep(WINDOW).await;
        let times = acknowledged.lock().clone();
        let mut last = lost;
        let mut longest = Duration::ZERO;
        for time in times.into_iter().filter(|time| *time > lost) {
            longest = longest.max(time - last);
            last = time;
        }
        gaps.push(longest.max(lost + WINDOW - last));
        cluster.network.change(|now| now.cut.clear());
        cluster.signal(leader, Signal::CONT);
        cluster.start_process(leader)?;
    }
    stop.store(true, Ordering::Relaxed);
    writer.await.map_err(|error| error.to_string())?;
    gaps.sort();
    Ok(gaps)
}

/// Waits until all serve and somebody leads, and a second longer.
async fn settled(cluster: &mut Cluster) -> Result<u32, String> {
    let silent = cluster.until_serving(PATIENCE).await;
    if !silent.is_empty() {
        return Err(silent.join("; "));
    }
    sleep(Duration::from_secs(1)).await;
    cluster.leader().await.ok_or_else(|| "nobody leads".to_owned())
}

async fn write(doors: Vec<Door>, acknowledged: Arc<Mutex<Vec<Instant>>>, stop: Arc<AtomicBool>) {
    let mut current = 0;
    let mut connection = None;
    for number in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        if connection.is_none() {
            connection = doors[current].connect().await.ok();
        }
        let put = async {
            let connected = connection.as_mut()?;
            connected.put("t/gap", number.to_string(), None).await.ok()
        };
        if let Ok(Some(_)) = timeout(ANSWER, put).await {
            acknowledged.lock().push(Instant::now());
        } else {
            connection = None;
            current = (current + 1) % doors.len();
        }
        sleep(Duration::from_millis(2)).await;
    }
}

/// The value that `share` of all are not above.
#[must_use]
pub fn quantile(sorted: &[Duration], share: f64) -> Duration {
    let at = ((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len().max(1));
    sorted.get(at - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let times: Vec<Duration> = (1..=4).map(Duration::from_secs).collect();
        assert_eq!(quantile(&times, 0.5), Duration::from_secs(2));
        assert_eq!(quantile(&times, 0.99), Duration::from_secs(4));
        assert_eq!(quantile(&[], 0.5), Duration::ZERO);
    }
}
