//! What the masters are still to be told: the last word on the node and on each pod.
//!
//! Keeps: a later word takes the place of the earlier one. What was not acknowledged is said again, by the next
//! session too. The end of a pod is said with or after its last status.
//! Never: holds more than one word for each pod.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bytes::Bytes;
use kontiki_api::error::Reason;
use kontiki_api::tunnel::wire::{self, NodeReport, Pod, PodReport, Report, Unwritten, report};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// Of one message.
const REPORTS_MAX: usize = 64;
const BYTES_MAX: usize = 1 << 20;
/// Before something that could not be written is said again.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    Node,
    /// By its uid.
    Pod(String),
}

#[derive(Debug)]
struct Word {
    number: u64,
    report: Report,
    not_before: Instant,
}

/// The words that wait.
#[derive(Debug, Default)]
pub struct Outbox {
    state: Mutex<State>,
    put: Notify,
}

#[derive(Debug, Default)]
struct State {
    words: BTreeMap<Who, Word>,
    number: u64,
    /// The node's object was not there.
    node_missing: bool,
}

/// A word on its way.
#[derive(Debug)]
pub(super) struct Sent {
    who: Who,
    number: u64,
    pub report: Report,
}

impl Outbox {
    /// How the node is; `labels` where it is to be registered.
    pub fn node(&self, status: &Value, labels: Option<HashMap<String, String>>) {
        let registers = labels.is_some();
        let status = Bytes::from(status.to_string());
        let report = NodeReport { status, registers, labels: labels.unwrap_or_default() };
        self.put(Who::Node, report::What::Node(report));
    }

    /// How a pod is: a strategic merge patch of its status.
    pub fn pod(&self, pod: Pod, status: &Value) {
        let status = Bytes::from(status.to_string());
        let who = Who::Pod(pod.uid.clone());
        self.put(who, report::What::Pod(PodReport { pod: Some(pod), status, gone: false }));
    }

    /// Nothing of the pod is left.
    pub fn gone(&self, pod: Pod) {
        let who = Who::Pod(pod.uid.clone());
        let gone = PodReport { pod: Some(pod), status: Bytes::new(), gone: true };
        self.put(who, report::What::Pod(gone));
    }

    fn put(&self, who: Who, what: report::What) {
        let mut state = self.state.lock();
        state.number += 1;
        let number = state.number;
        let mut what = what;
        if let Some(before) = state.words.get(&who).and_then(|word| word.report.what.as_ref()) {
            unite(&mut what, before);
        }
        let report = Report { what: Some(what) };
        state.words.insert(who, Word { number, report, not_before: Instant::now() });
        drop(state);
        self.put.notify_one();
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.state.lock().words.is_empty()
    }

    /// Whether the node was reported and is not there; said once.
    #[must_use]
    pub fn node_was_missing(&self) -> bool {
        std::mem::take(&mut self.state.lock().node_missing)
    }

    /// A session begins: nothing has to wait for what another could not do.
    pub(super) fn begin(&self) {
        let now = Instant::now();
        self.state.lock().words.values_mut().for_each(|word| word.not_before = now);
    }

    /// What is to be said next, at least one word, the oldest first. It stays here until it is written.
    pub(super) async fn next(&self) -> Vec<Sent> {
        loop {
            let put = self.put.notified();
            let (batch, wakes) = self.due(Instant::now());
            if !batch.is_empty() {
                return batch;
            }
            match wakes {
                Some(at) => tokio::select! {
                    () = put => {}
                    () = sleep_until(at) => {}
                },
                None => put.await,
            }
        }
    }

    fn due(&self, now: Instant) -> (Vec<Sent>, Option<Instant>) {
        let state = self.state.lock();
        let mut due: Vec<(&Who, &Word)> =
            state.words.iter().filter(|(_, word)| word.not_before <= now).collect();
        due.sort_by_key(|(_, word)| word.number);
        let mut bytes = 0;
        let fits = due.into_iter().take(REPORTS_MAX).take_while(|(_, word)| {
            let first = bytes == 0;
            bytes += weight(&word.report);
            first || bytes <= BYTES_MAX
        });
        let sent = fits.map(|(who, word)| Sent {
            who: who.clone(),
            number: word.number,
            report: word.report.clone(),
        });
        (sent.collect(), state.words.values().map(|word| word.not_before).min())
    }

    /// What became of a message: what was written is forgotten unless there is a later word.
    pub(super) fn written(&self, node: &str, sent: Vec<Sent>, unwritten: Vec<Unwritten>) {
        let mut failed: HashMap<u32, Unwritten> =
            unwritten.into_iter().map(|it| (it.at, it)).collect();
        let again_at = Instant::now() + PAUSE;
        let mut state = self.state.lock();
        for (at, Sent { who, number, .. }) in (0u32..).zip(sent) {
            let failed = failed.remove(&at);
            if let Some(Unwritten { code, reason, message, again, .. }) = &failed {
                let what = match &who {
                    Who::Node => "the node",
                    Who::Pod(_) => "a pod",
                };
                tracing::warn!(node, what, code, message, again, "a report was not written");
                let is_missing = serde_json::from_value::<Reason>(reason.as_str().into())
                    .is_ok_and(|reason| reason == Reason::NotFound);
                state.node_missing |= who == Who::Node && is_missing;
            }
            let Some(word) = state.words.get_mut(&who).filter(|word| word.number == number) else {
                continue;
            };
            if failed.is_some_and(|it| it.again) {
                word.not_before = again_at;
            } else {
                state.words.remove(&who);
            }
        }
    }
}

fn weight(report: &Report) -> usize {
    match &report.what {
        Some(report::What::Node(node)) => node.status.len(),
        Some(report::What::Pod(pod)) => pod.status.len(),
        None => 0,
    }
}

/// What the word before said and this one does not.
fn unite(what: &mut report::What, before: &report::What) {
    match (what, before) {
        (report::What::Pod(now), report::What::Pod(before)) => {
            if now.status.is_empty() {
                now.status.clone_from(&before.status);
            }
            now.gone |= before.gone;
        }
        (report::What::Node(now), report::What::Node(before))
            if before.registers && !now.registers =>
        {
            now.registers = true;
            now.labels.clone_from(&before.labels);
        }
        _ => {}
    }
}

/// A pod as reports name it.
#[must_use]
pub fn named(metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> wire::Pod {
    wire::Pod {
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(uid: &str) -> Pod {
        Pod { namespace: "n".into(), name: uid.into(), uid: uid.into() }
    }

    fn said(sent: &[Sent]) -> Vec<(String, bool)> {
        let pods = sent.iter().filter_map(|it| match &it.report.what {
            Some(report::What::Pod(pod)) => {
                Some((String::from_utf8_lossy(&pod.status).into_owned(), pod.gone))
            }
            _ => None,
        });
        pods.collect()
    }

    fn unwritten(at: u32, reason: &str, again: bool) -> Unwritten {
        Unwritten { at, code: 404, reason: reason.into(), message: String::new(), again }
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_word_counts_and_is_said_until_it_is_written() {
        let outbox = Outbox::default();
        outbox.pod(pod("a"), &json!(1));
        outbox.pod(pod("b"), &json!(2));
        outbox.pod(pod("a"), &json!(3));
        outbox.gone(pod("b"));
        let batch = outbox.next().await;
        assert_eq!(said(&batch), [("3".into(), false), ("2".into(), true)]);
        assert_eq!(outbox.next().await.len(), 2, "nothing was written");
        outbox.pod(pod("a"), &json!(4));
        outbox.written("n", batch, vec![unwritten(1, "", true)]);
        let batch = outbox.next().await;
        assert_eq!(said(&batch), [("4".into(), false)], "the other waits");
        outbox.written("n", batch, Vec::new());
        let batch = outbox.next().await;
        assert_eq!(said(&batch), [("2".into(), true)]);
        outbox.written("n", batch, vec![unwritten(0, "Forbidden", false)]);
        assert!(outbox.is_empty(), "what will never be written is not said again");
    }

    #[tokio::test]
    async fn a_node_registers_until_that_is_written_and_is_told_when_it_is_gone() {
        let outbox = Outbox::default();
        outbox.node(&json!({}), Some(HashMap::from([("a".to_owned(), "b".to_owned())])));
        outbox.node(&json!({"later": true}), None);
        let batch = outbox.next().await;
        let Some(report::What::Node(node)) = &batch[0].report.what else { panic!("{batch:?}") };
        assert!(node.registers && node.labels["a"] == "b" && node.status.len() > 2);
        outbox.written("n", batch, vec![unwritten(0, "NotFound", false)]);
        assert!(outbox.node_was_missing() && !outbox.node_was_missing());
    }
}
