//! Masters tell each other which nodes they hear, so that each can answer for all of them.
//!
//! Keeps: a master tells of its own sessions alone; what it was told it does not tell on. Ages are told, not
//! times: clocks of masters may differ.
//! Never: waits for a master that does not answer; who is not told of is simply not heard.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::{self, Stream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::Channel;
use super::peers::Peers;
use super::sessions::Sessions;
use crate::live::beats::Beats;
use crate::object::time::{Clock, Timestamp};
use crate::tunnel::wire::{BeatsRequest, Heartbeat, Heartbeats};

/// How often others are told, at most, and at least.
const TELL_EVERY: Duration = Duration::from_secs(1);
const TELL_AFTER: Duration = Duration::from_secs(10);
/// Without a word for so long the connection is taken to be dead.
const SILENCE_MAX: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_secs(1);
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// How often it is looked who the masters are.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What one master is told.
pub(super) fn telling(sessions: Sessions) -> impl Stream<Item = Heartbeats> + Send + 'static {
    let newest = sessions.live().beats.newest();
    stream::unfold((sessions, newest, None), |(sessions, mut newest, told)| async move {
        if told.is_some() {
            sleep(TELL_EVERY).await;
            // Where nothing is heard it says so.
            let _ = timeout(TELL_AFTER, newest.changed()).await;
        }
        let clock = sessions.road().clock();
        let (beats, number) = heard(&sessions.live().beats, told.unwrap_or(0), clock.now());
        Some((beats, (sessions, newest, Some(number))))
    })
}

fn heard(beats: &Beats, told: u64, now: Timestamp) -> (Heartbeats, u64) {
    let (since, number) = beats.since(told);
    let own = since.into_iter().filter(|(_, beat)| beat.here);
    let beats = own.map(|(node, beat)| Heartbeat {
        node: node.as_ref().into(),
        boot_id: beat.boot.as_ref().into(),
        age_ms: u64::try_from(now.micros_since(beat.at) / 1000).unwrap_or(0),
    });
    (Heartbeats { beats: beats.collect() }, number)
}

/// Listens to all other masters, as long as it is polled.
pub(super) async fn listen(sessions: &Sessions, peers: &Peers) {
    let mut following: HashMap<String, AbortHandle> = HashMap::new();
    let mut tasks = JoinSet::new();
    loop {
        let mut masters = (peers.masters)();
        masters.retain(|master| *master != peers.me);
        following.retain(|master, task| {
            let stays = masters.contains(master);
            if !stays {
                task.abort();
            }
            stays
        });
        for master in masters {
            let Entry::Vacant(entry) = following.entry(master) else { continue };
            let (sessions, tls) = (sessions.clone(), peers.tls.clone());
            let from = entry.key().clone();
            entry.insert(tasks.spawn(async move {
                loop {
                    let why = follow(&sessions, &from, &*tls).await;
                    tracing::debug!(master = from, why, "another master's nodes are not heard");
                    sleep(RETRY).await;
                }
            }));
        }
        while tasks.try_join_next().is_some() {}
        sleep(LOOK_EVERY).await;
    }
}

/// Takes over what one master hears; why that has ended.
async fn follow(
    sessions: &Sessions,
    master: &str,
    tls: &(dyn Fn() -> Result<std::sync::Arc<rustls::ClientConfig>, String> + Send + Sync),
) -> String {
    let opening = async {
        let channel = Channel::connect(master, &*tls()?).await?;
        let told = channel.client().beats(BeatsRequest {}).await;
        Ok::<_, String>((channel, told.map_err(|status| status.message().to_owned())?))
    };
    let (_channel, told) = match timeout(CONNECT_MAX, opening).await {
        Ok(Ok(opened)) => opened,
        Ok(Err(why)) => return why,
        Err(_) => return "no answer in time".into(),
    };
    let mut told = told.into_inner();
    loop {
        match timeout(SILENCE_MAX, told.next()).await {
            Ok(Some(Ok(heartbeats))) => {
                take(&sessions.live().beats, sessions.road().clock(), &heartbeats);
            }
            Ok(Some(Err(status))) => return status.message().to_owned(),
            Ok(None) => return "it has ended the stream".into(),
            Err(_) => return "it is silent".into(),
        }
    }
}

fn take(beats: &Beats, clock: &Clock, heartbeats: &Heartbeats) {
    let now = clock.now().as_micros();
    for Heartbeat { node, boot_id, age_ms } in &heartbeats.beats {
        let age = i64::try_from(*age_ms).unwrap_or(i64::MAX).saturating_mul(1000);
        beats.heard(node, boot_id, Timestamp::from_micros(now.saturating_sub(age)), false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_master_knows_how_long_ago_a_node_was_heard_and_tells_nobody() {
        let (one, other) = (Beats::default(), Beats::default());
        let now = Timestamp::from_seconds(100);
        one.heard("n", "boot", now.plus_seconds(-3), true);
        let (told, _) = heard(&one, 0, now);
        let clock = Clock::set_at(Timestamp::from_seconds(5000));
        take(&other, &clock, &told);
        let beat = other.of("n").unwrap();
        assert_eq!((beat.at, &*beat.boot), (Timestamp::from_seconds(4997), "boot"));
        assert_eq!(heard(&other, 0, clock.now()).0.beats, []);
    }

    #[test]
    fn the_end_of_a_session_is_told_with_its_last_beat() {
        let (one, other) = (Beats::default(), Beats::default());
        let (now, clock) = (Timestamp::from_seconds(10), Clock::set_at(Timestamp::from_seconds(9)));
        one.heard("n", "boot", now, true);
        take(&other, &clock, &heard(&one, 0, now).0);
        one.ended("n", "boot");
        take(&other, &clock, &heard(&one, 0, now).0);
        assert_eq!(&*other.of("n").unwrap().boot, "");
    }
}
