//! Tells people what loops do, as Events beside the objects concerned.
//!
//! Keeps: the same thing said again raises a count instead of making an object, and so do things that are
//! much alike, after the first ten (a name that differs each time in what an error says); a source that
//! talks too much about one object is silenced for a while (upstream's `EventCorrelator`: 25 at once, then
//! one in five minutes).
//! Never: holds up a loop. What does not fit the queue is dropped and counted.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};
use kontiki_api::client::{Client, PatchKind, Typed};
use kontiki_api::error::Reason;
use kontiki_api::object::time::{Clock, Timestamp};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const QUEUE_MAX: usize = 1000;
const BURST: f64 = 25.0;
const REFILL: Duration = Duration::from_secs(300);
/// So many messages for one reason are told apart within as long.
const ALIKE_MAX: usize = 10;
const ALIKE_FOR: Duration = Duration::from_secs(600);
const COMBINED: &str = "(combined from similar events): ";
/// Things said that are remembered, to be counted when they are said again.
const REMEMBERED_MAX: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Severity {
    Normal,
    Warning,
}

/// What is said, about which object.
#[derive(Clone, Debug)]
struct Said {
    about: ObjectReference,
    component: Arc<str>,
    severity: Severity,
    reason: String,
    message: String,
    action: String,
    at: Timestamp,
}

/// Takes what loops of one component say. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    component: Arc<str>,
    clock: Clock,
    queue: mpsc::Sender<Said>,
}

/// Writes what the recorders took.
pub struct Writer {
    client: Client,
    queue: mpsc::Receiver<Said>,
    known: HashMap<Sameness, Known>,
    budgets: HashMap<(String, String), Budget>,
    alike: HashMap<Kindred, Alike>,
}

/// Who says it of which object, and why: all but the message.
type Kindred = (String, String, String);

/// What was said so far that is alike.
struct Alike {
    messages: HashSet<String>,
    last: Instant,
}

type Sameness = (String, String, String, String, String);

struct Known {
    namespace: String,
    name: String,
    count: i32,
    last: Instant,
}

struct Budget {
    tokens: f64,
    at: Instant,
}

/// The first recorder, and the writer whose `run` has to run. Further recorders are [`Recorder::of`].
#[must_use]
pub fn recorder(client: Client, clock: Clock) -> (Recorder, Writer) {
    let (sender, receiver) = mpsc::channel(QUEUE_MAX);
    let writer = Writer {
        client,
        queue: receiver,
        known: HashMap::new(),
        budgets: HashMap::new(),
        alike: HashMap::new(),
    };
    (Recorder { component: "kontiki".into(), clock, queue: sender }, writer)
}

impl Recorder {
    /// For another component: `deployment-controller`, `default-scheduler`.
    #[must_use]
    pub fn of(&self, component: &str) -> Recorder {
        Recorder { component: component.into(), ..self.clone() }
    }

    pub fn normal<K: Typed>(&self, about: &K, reason: &str, message: impl Into<String>) {
        self.say(reference(about), Severity::Normal, reason, message.into(), "");
    }

    pub fn warning<K: Typed>(&self, about: &K, reason: &str, message: impl Into<String>) {
        self.say(reference(about), Severity::Warning, reason, message.into(), "");
    }

    /// With everything given. `action` is what was tried (`Scheduling`, `Binding`).
    pub fn say(
        &self,
        about: ObjectReference,
        severity: Severity,
        reason: &str,
        message: String,
        action: &str,
    ) {
        let said = Said {
            about,
            component: self.component.clone(),
            severity,
            reason: reason.into(),
            message,
            action: action.into(),
            at: self.clock.now(),
        };
        if self.queue.try_send(said).is_err() {
            tracing::debug!(component = %self.component, reason, "an event was dropped");
        }
    }
}

/// Names an object for an event or another reference.
#[must_use]
pub fn reference<K: Typed>(object: &K) -> ObjectReference {
    let metadata = object.metadata();
    ObjectReference {
        api_version: Some(K::API_VERSION.into()),
        kind: Some(K::KIND.into()),
        name: metadata.name.clone(),
        namespace: metadata.namespace.clone(),
        uid: metadata.uid.clone(),
        resource_version: metadata.resource_version.clone(),
        field_path: None,
    }
}

impl Writer {
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                said = self.queue.recv() => match said {
                    Some(said) => self.write(said).await,
                    None => return,
                },
                () = stop.cancelled() => return,
            }
        }
    }

    async fn write(&mut self, said: Said) {
        if !self.within_budget(&said) {
            return;
        }
        let (same, message) = match self.combine(&said) {
            true => {
                let combined = format!("{COMBINED}{}", said.message);
                (sameness(&Said { message: COMBINED.into(), ..said.clone() }), combined)
            }
            false => (sameness(&said), said.message.clone()),
        };
        let said = Said { message, ..said };
        if let Some(known) = self.known.get_mut(&same) {
            let patch = json!({"count": known.count + 1, "lastTimestamp": said.at.rfc3339(),
                "message": said.message});
            let (namespace, name) = (known.namespace.clone(), known.name.clone());
            let result =
                self.client.patch::<Event>(&namespace, &name, PatchKind::Merge, &patch, None).await;
            match result {
                Ok(_) => {
                    known.count += 1;
                    known.last = Instant::now();
                    return;
                }
                // It has expired or was deleted: say it anew.
                Err(status) if status.is(Reason::NotFound) => {}
                Err(status) => {
                    tracing::debug!(%status, reason = said.reason, "an event was not written");
                    return;
                }
            }
        }
        let event = event(&said);
        match self.client.create(&event).await {
            Ok(made) => self.remember(same, &made),
            Err(status) => {
                tracing::debug!(%status, reason = said.reason, "an event was not written");
            }
        }
    }

    fn remember(&mut self, same: Sameness, made: &Event) {
        if self.known.len() >= REMEMBERED_MAX {
            let oldest = self.known.iter().min_by_key(|(_, known)| known.last);
            if let Some(oldest) = oldest.map(|(same, _)| same.clone()) {
                self.known.remove(&oldest);
            }
        }
        let known = Known {
            namespace: made.metadata.namespace.clone().unwrap_or_default(),
            name: made.metadata.name.clone().unwrap_or_default(),
            count: 1,
            last: Instant::now(),
        };
        self.known.insert(same, known);
    }

    /// Whether so much was said that is alike that this is not told apart any more.
    fn combine(&mut self, said: &Said) -> bool {
        if self.alike.len() >= REMEMBERED_MAX {
            self.alike.retain(|_, alike| alike.last.elapsed() < ALIKE_FOR);
        }
        let uid = said.about.uid.clone().unwrap_or_default();
        let kindred = (said.component.to_string(), uid, said.reason.clone());
        let now = Instant::now();
        let fresh = || Alike { messages: HashSet::new(), last: now };
        let alike = self.alike.entry(kindred).or_insert_with(fresh);
        if alike.last.elapsed() >= ALIKE_FOR {
            alike.messages.clear();
        }
        alike.last = now;
        if alike.messages.contains(&said.message) {
            return false;
        }
        let many = alike.messages.len() >= ALIKE_MAX;
        if !many {
            alike.messages.insert(said.message.clone());
        }
        many
    }

    fn within_budget(&mut self, said: &Said) -> bool {
        let now = Instant::now();
        let of = (said.component.to_string(), said.about.uid.clone().unwrap_or_default());
        if self.budgets.len() > REMEMBERED_MAX {
            self.budgets.retain(|_, budget| budget.tokens < BURST && budget.at.elapsed() < REFILL);
        }
        let budget = self.budgets.entry(of).or_insert(Budget { tokens: BURST, at: now });
        let earned = (now - budget.at).as_secs_f64() / REFILL.as_secs_f64();
        budget.tokens = (budget.tokens + earned).min(BURST);
        budget.at = now;
        if budget.tokens < 1.0 {
            return false;
        }
        budget.tokens -= 1.0;
        true
    }
}

fn sameness(said: &Said) -> Sameness {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    (
        said.component.to_string(),
        format!("{}/{}", text(&said.about.namespace), text(&said.about.name)),
        text(&said.about.uid),
        said.reason.clone(),
        said.message.clone(),
    )
}

/// The object, named as upstream names them: the object's name and the time in hexadecimal.
fn event(said: &Said) -> Event {
    let namespace = said.about.namespace.clone().filter(|namespace| !namespace.is_empty());
    let namespace = namespace.unwrap_or_else(|| "default".into());
    let name = said.about.name.as_deref().unwrap_or_default();
    // Two things said of one object in one microsecond differ in what they say.
    let mark = said.at.as_micros() ^ (i64::from(crc(&said.message)) << 20);
    let modern = !said.action.is_empty();
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{mark:016x}")),
            namespace: Some(namespace),
            ..ObjectMeta::default()
        },
        involved_object: said.about.clone(),
        reason: Some(said.reason.clone()),
        message: Some(said.message.clone()),
        type_: Some(format!("{:?}", said.severity)),
        source: Some(EventSource { component: Some(said.component.to_string()), host: None }),
        count: Some(1),
        first_timestamp: Some(Time(said.at.moment())),
        last_timestamp: Some(Time(said.at.moment())),
        event_time: modern.then(|| MicroTime(said.at.moment())),
        action: modern.then(|| said.action.clone()),
        reporting_component: Some(said.component.to_string()),
        reporting_instance: Some(said.component.to_string()),
        ..Event::default()
    }
}

/// A small mark of a text.
fn crc(text: &str) -> u16 {
    text.bytes().fold(0xffff_u16, |mark, byte| mark.rotate_left(5) ^ u16::from(byte))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Namespace;
    use kontiki_api::sandbox::Sandbox;

    use super::*;

    #[test]
    fn an_event_names_its_object_and_lies_beside_it() {
        let said = Said {
            about: ObjectReference {
                kind: Some("Pod".into()),
                namespace: Some("shop".into()),
                name: Some("web-1".into()),
                ..ObjectReference::default()
            },
            component: "default-scheduler".into(),
            severity: Severity::Warning,
            reason: "FailedScheduling".into(),
            message: "0/1 nodes are available".into(),
            action: "Scheduling".into(),
            at: Timestamp::from_micros(1_700_000_000_123_456),
        };
        let event = event(&said);
        assert_eq!(event.metadata.namespace.as_deref(), Some("shop"));
        assert!(event.metadata.name.unwrap().starts_with("web-1."));
        assert_eq!(event.type_.as_deref(), Some("Warning"));
        assert_eq!(event.action.as_deref(), Some("Scheduling"));
    }

    #[tokio::test]
    async fn what_is_much_alike_becomes_one_event_that_counts() {
        let sandbox = Sandbox::start().await;
        let client = sandbox.client();
        let (recorder, writer) = recorder(client.clone(), Clock::System);
        let about: Namespace = client.get("", "default").await.unwrap();
        for number in 0..15 {
            recorder.warning(&about, "FailedCreate", format!("pod web-{number} is not let in"));
        }
        drop(recorder);
        // It ends when everything is written.
        writer.run(CancellationToken::new()).await;
        let mut events = client.list::<Event>("default", Default::default()).await.unwrap().items;
        events.retain(|event| event.reason.as_deref() == Some("FailedCreate"));
        assert_eq!(events.len(), ALIKE_MAX + 1);
        let combined = |event: &&Event| {
            event.message.as_deref().is_some_and(|message| message.starts_with(COMBINED))
        };
        let combined: Vec<_> = events.iter().filter(combined).collect();
        assert_eq!((combined.len(), combined[0].count), (1, Some(5)));
        assert!(combined[0].message.as_deref().unwrap().ends_with("pod web-14 is not let in"));
        sandbox.stop().await;
    }
}
