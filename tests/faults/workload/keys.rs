//! Registers, sets, lists and transactions.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rand::RngExt;

use super::{Ground, Workload};
use crate::client::Client;
use crate::history::{Answer, Ask, Guard, Outcome, Step, Stored};

/// Operations on one register before the next begins: a search is as hard as its longest history.
const REGISTER_LIFE: u64 = 200;
/// The same for a group of lists: each version repeats the one before.
const LIST_LIFE: u64 = 300;
const KEYS: u64 = 12;

fn get(key: &str) -> Step {
    Step::Get { key: key.into(), end: None, at: 0 }
}

fn put(key: &str, value: String) -> Step {
    Step::Put { key: key.into(), value, lease: 0 }
}

fn alone(step: Step) -> Ask {
    Ask { then: vec![step], ..Ask::default() }
}

fn found(outcome: &Outcome) -> Option<(u64, Vec<&[(String, Stored)]>)> {
    let Outcome::Done { revision, answers, .. } = outcome else { return None };
    let found = answers.iter().filter_map(|answer| match answer {
        Answer::Found(found) => Some(found.as_slice()),
        _ => None,
    });
    Some((*revision, found.collect()))
}

async fn ask(ground: &Ground, client: &mut Client, workload: Workload, ask: Ask) -> Outcome {
    let outcome = client.ask(workload.name(), ask).await;
    if let Outcome::Done { revision, .. } = &outcome {
        ground.note(*revision);
    }
    outcome
}

pub async fn registers(ground: Arc<Ground>, mut client: Client) -> Option<String> {
    let mut seen: Option<(String, String)> = None;
    while !ground.stopped() {
        let number = ground.next();
        let key = format!("t/r/{}", number / REGISTER_LIFE);
        let value = number.to_string();
        let step = match (client.random.random_range(0..10), &seen) {
            (0..3, _) => alone(put(&key, value)),
            (3..6, Some((of, from))) if *of == key => Ask {
                guards: vec![Guard::Value { key: key.clone(), value: from.clone() }],
                ..alone(put(&key, value))
            },
            _ => alone(get(&key)),
        };
        let outcome = ask(&ground, &mut client, Workload::Register, step).await;
        if let Some((_, all)) = found(&outcome)
            && let Some((key, stored)) = all.first().and_then(|found| found.first())
        {
            seen = Some((key.clone(), stored.value.clone()));
        }
        ground.rest(&mut client).await;
    }
    None
}

pub async fn set(ground: Arc<Ground>, mut client: Client) -> Option<String> {
    while !ground.stopped() {
        let number = ground.next();
        let add = alone(put(&format!("t/s/{number}"), format!("s{number}")));
        ask(&ground, &mut client, Workload::Set, add).await;
        ground.rest(&mut client).await;
    }
    None
}

/// Reads some lists and adds to some of them, if none has changed meanwhile.
pub async fn append(ground: Arc<Ground>, mut client: Client) -> Option<String> {
    while !ground.stopped() {
        let number = ground.next();
        let group = number / LIST_LIFE;
        let count = client.random.random_range(1..=3);
        let first = client.random.random_range(0..5);
        let keys: Vec<String> =
            (0..count).map(|nth| format!("t/a/{group}-{}", (first + nth) % 5)).collect();
        let read = Ask { then: keys.iter().map(|key| get(key)).collect(), ..Ask::default() };
        let outcome = ask(&ground, &mut client, Workload::Append, read).await;
        if let Some((_, all)) = found(&outcome)
            && all.len() == keys.len()
        {
            let mut change = Ask::default();
            for (nth, (key, found)) in keys.iter().zip(all).enumerate() {
                let known = found.first().map(|(_, stored)| stored);
                let revision = known.map_or(0, |stored| stored.modified);
                change.guards.push(Guard::Modified { key: key.clone(), revision });
                change.then.push(get(key));
                change.otherwise.push(get(key));
                if nth == 0 || client.random.random_bool(0.5) {
                    let before = known.map_or("", |stored| stored.value.as_str());
                    let value = format!("{before} {number}.{nth}");
                    change.then.push(put(key, value.trim().to_owned()));
                }
            }
            ask(&ground, &mut client, Workload::Append, change).await;
        }
        ground.rest(&mut client).await;
    }
    None
}

pub async fn transactions(ground: Arc<Ground>, mut client: Client) -> Option<String> {
    let mut known: Vec<(String, u64)> = Vec::new();
    while !ground.stopped() {
        let number = ground.next();
        let random = &mut client.random;
        let any =
            |random: &mut rand::rngs::StdRng| format!("t/x/{:02}", random.random_range(0..KEYS));
        let (key, other) = (any(random), any(random));
        let newest = ground.newest.load(Ordering::Relaxed);
        let one = match random.random_range(0..22) {
            0..4 => alone(put(&key, format!("x{number}"))),
            4..6 => alone(Step::Delete { key, end: None }),
            6 => alone(Step::Delete { key: key.clone(), end: Some(format!("{key}~")) }),
            7 => {
                let (key, end) = if key < other { (key, other) } else { (other, key) };
                alone(Step::Delete { key, end: Some(end) })
            }
            8..10 => Ask { stale: true, ..alone(everything(0)) },
            10..12 => {
                let oldest = ground.compacted.load(Ordering::Relaxed).max(2);
                alone(everything(random.random_range(oldest.min(newest)..=newest)))
            }
            12..14 => alone(everything(0)),
            14..16 if key != other => Ask {
                then: vec![
                    put(&key, format!("x{number}")),
                    get(&other),
                    put(&other, format!("y{number}")),
                    everything(0),
                ],
                ..Ask::default()
            },
            // The past, read where something is written too: members must agree whether it is forgotten.
            16..18 => {
                let oldest = ground.compacted.load(Ordering::Relaxed).saturating_sub(50).max(2);
                let at = random.random_range(oldest.min(newest)..=newest);
                let then = vec![put(&key, format!("x{number}")), everything(at)];
                Ask { then, ..Ask::default() }
            }
            _ if key != other => {
                let guards = known.iter().filter(|(it, _)| *it == key || *it == other);
                let guards = guards.map(|(key, revision)| Guard::Modified {
                    key: key.clone(),
                    revision: *revision,
                });
                Ask {
                    guards: guards.collect(),
                    then: vec![
                        put(&key, format!("x{number}")),
                        Step::Delete { key: other.clone(), end: None },
                        get(&key),
                    ],
                    otherwise: vec![get(&key), get(&other)],
                    stale: false,
                }
            }
            _ => alone(get(&key)),
        };
        let outcome = ask(&ground, &mut client, Workload::Transaction, one).await;
        if let Some((_, all)) = found(&outcome) {
            for (key, stored) in all.into_iter().flatten() {
                known.retain(|(it, _)| it != key);
                known.push((key.clone(), stored.modified));
            }
        }
        ground.rest(&mut client).await;
    }
    None
}

fn everything(at: u64) -> Step {
    Step::Get { key: "t/x/".into(), end: Some("t/x0".into()), at }
}
