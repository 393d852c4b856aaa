//! From a question to its answer: what is ours at once, what is others' after asking them.
//!
//! Keeps: at most [`ASKED_MAX`] questions wait for others; what is beyond fails at once, and ours go on being
//! answered. An alias is followed [`ALIASES_MAX`] times.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::cache::{Cache, Question};
use super::message::answer_to;
use super::records::Records;
use super::upstream::Upstream;
use super::zone::{Answer, Zone};

const ASKED_MAX: usize = 256;
const ALIASES_MAX: usize = 8;

pub struct Resolver {
    zone: Zone,
    records: Arc<dyn Records>,
    upstream: Upstream,
    cache: Mutex<Cache>,
    places: Arc<Semaphore>,
    turn: AtomicUsize,
}

/// How far one can get without asking others.
pub enum Begun {
    Done(Message),
    Elsewhere(Rest),
}

/// What is left to be asked.
pub struct Rest {
    answer: Message,
    question: Question,
    _place: OwnedSemaphorePermit,
}

impl Resolver {
    #[must_use]
    pub fn new(zone: Zone, records: Arc<dyn Records>, upstream: Upstream) -> Resolver {
        let (cache, places) = (Mutex::default(), Arc::new(Semaphore::new(ASKED_MAX)));
        Resolver { zone, records, upstream, cache, places, turn: AtomicUsize::new(0) }
    }

    /// Answers a question as far as the cluster's names and what is remembered go.
    pub fn begin(&self, asked: &Message) -> Begun {
        let mut answer = answer_to(asked);
        let Some(query) = asked.queries.first() else {
            return Begun::Done(failed(answer, ResponseCode::FormErr));
        };
        let (mut name, wanted) = (query.name().clone(), query.query_type());
        // Those who ask for names without an end mean them to have one.
        name.set_fqdn(true);
        for _ in 0..=ALIASES_MAX {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            match self.zone.answer(&*self.records, &name, wanted, turn) {
                Answer::Found { answers, additionals } => {
                    answer.metadata.authoritative = true;
                    if answers.is_empty() {
                        let zone = self.zone_of(&name);
                        answer.add_authority(self.authority(zone));
                    }
                    answer.add_answers(answers);
                    answer.add_additionals(additionals);
                    return Begun::Done(answer);
                }
                Answer::Missing(zone) => {
                    answer.metadata.authoritative = true;
                    answer.add_authority(self.authority(zone));
                    return Begun::Done(failed(answer, ResponseCode::NXDomain));
                }
                Answer::Unknown => return Begun::Done(failed(answer, ResponseCode::ServFail)),
                Answer::Alias(record) => {
                    answer.metadata.authoritative = true;
                    let target = match &record.data {
                        RData::CNAME(target) => target.0.clone(),
                        _ => return Begun::Done(failed(answer, ResponseCode::ServFail)),
                    };
                    answer.add_answer(record);
                    if matches!(wanted, RecordType::CNAME | RecordType::ANY) {
                        return Begun::Done(answer);
                    }
                    name = target;
                }
                Answer::Elsewhere => return self.elsewhere(asked, answer, &name, wanted),
            }
        }
        Begun::Done(failed(answer, ResponseCode::ServFail))
    }

    fn elsewhere(
        &self,
        asked: &Message,
        answer: Message,
        name: &Name,
        wanted: RecordType,
    ) -> Begun {
        let question = Question {
            name: name.to_lowercase(),
            wanted,
            signed: asked.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok),
            unchecked: asked.metadata.checking_disabled,
        };
        if let Some(known) = self.cache.lock().get(&question, Instant::now()) {
            return Begun::Done(joined(answer, known));
        }
        match self.places.clone().try_acquire_owned() {
            Ok(place) => Begun::Elsewhere(Rest { answer, question, _place: place }),
            Err(_) => Begun::Done(failed(answer, ResponseCode::ServFail)),
        }
    }

    /// Asks others for the rest.
    pub async fn finish(&self, rest: Rest) -> Message {
        match self.upstream.ask(&rest.question).await {
            Some((told, bytes)) => {
                self.cache.lock().put(rest.question, &told, bytes, Instant::now());
                joined(rest.answer, told)
            }
            None => failed(rest.answer, ResponseCode::ServFail),
        }
    }

    fn zone_of(&self, name: &Name) -> Name {
        if self.zone.domain.zone_of(name) { self.zone.domain.clone() } else { name.trim_to(2) }
    }

    fn authority(&self, zone: Name) -> hickory_proto::rr::Record {
        self.zone.authority(zone, self.records.revision())
    }
}

fn failed(mut answer: Message, code: ResponseCode) -> Message {
    answer.metadata.response_code = code;
    answer
}

/// What others say, after what we had to say first.
fn joined(mut answer: Message, told: Message) -> Message {
    answer.metadata.response_code = told.metadata.response_code;
    answer.metadata.authentic_data = told.metadata.authentic_data && answer.answers.is_empty();
    answer.add_answers(told.answers);
    answer.add_authorities(told.authorities);
    answer.add_additionals(told.additionals);
    answer
}
