//! Answers of others, kept for a moment.
//!
//! Keeps: at most [`ENTRIES_MAX`] answers of at most [`BYTES_MAX`] each, none longer than it says of itself and
//! never longer than [`AGE_MAX_S`]. What is given out says how much of its time is left.
//! Time is an argument.

use std::collections::HashMap;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::time::Instant;

const ENTRIES_MAX: usize = 2048;
const BYTES_MAX: usize = 4096;
const AGE_MAX_S: u32 = 30;

/// What is asked: a name in lower case, a type, and whether signatures are wanted and unchecked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    pub name: Name,
    pub wanted: RecordType,
    pub signed: bool,
    pub unchecked: bool,
}

#[derive(Default)]
pub struct Cache(HashMap<Question, Entry>);

struct Entry {
    answer: Message,
    since: Instant,
    until: Instant,
}

impl Cache {
    /// An answer that still holds, with the time that is left to it.
    #[must_use]
    pub fn get(&self, question: &Question, now: Instant) -> Option<Message> {
        let entry = self.0.get(question).filter(|entry| now < entry.until)?;
        let age_s = u32::try_from((now - entry.since).as_secs()).unwrap_or(u32::MAX);
        let mut answer = entry.answer.clone();
        let sections = [&mut answer.answers, &mut answer.authorities, &mut answer.additionals];
        for record in sections.into_iter().flatten() {
            record.ttl = record.ttl.saturating_sub(age_s);
        }
        Some(answer)
    }

    /// Keeps an answer, if it may be kept.
    pub fn put(&mut self, question: Question, answer: &Message, bytes: usize, now: Instant) {
        let age_s = match lifetime_s(answer) {
            Some(age_s) if age_s > 0 && bytes <= BYTES_MAX => age_s.min(AGE_MAX_S),
            _ => return,
        };
        if self.0.len() >= ENTRIES_MAX && !self.0.contains_key(&question) {
            self.0.retain(|_, entry| now < entry.until);
        }
        if self.0.len() >= ENTRIES_MAX && !self.0.contains_key(&question) {
            let next = self.0.iter().min_by_key(|(_, entry)| entry.until);
            if let Some(question) = next.map(|(question, _)| question.clone()) {
                self.0.remove(&question);
            }
        }
        let until = now + Duration::from_secs(age_s.into());
        self.0.insert(question, Entry { answer: answer.clone(), since: now, until });
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.len()
    }
}

/// How long an answer holds by what it says; none: it may not be kept.
fn lifetime_s(answer: &Message) -> Option<u32> {
    if answer.metadata.truncation {
        return None;
    }
    let shortest = answer.answers.iter().map(|record| record.ttl).min();
    match (answer.metadata.response_code, shortest) {
        (ResponseCode::NoError, Some(ttl)) => Some(ttl),
        // That there is nothing holds as long as the zone says.
        (ResponseCode::NoError | ResponseCode::NXDomain, _) => {
            answer.authorities.iter().find_map(|record| match &record.data {
                RData::SOA(soa) => Some(soa.minimum.min(record.ttl)),
                _ => None,
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::OpCode;
    use hickory_proto::rr::Record;
    use hickory_proto::rr::rdata::A;

    use super::*;

    fn question(name: &str) -> Question {
        let name = Name::from_ascii(name).unwrap();
        Question { name, wanted: RecordType::A, signed: false, unchecked: false }
    }

    fn answer(ttl: u32) -> Message {
        let mut answer = Message::response(1, OpCode::Query);
        let name = Name::from_ascii("a.example.").unwrap();
        let data = RData::A(A::new(192, 0, 2, 1));
        answer.add_answer(Record::from_rdata(name, ttl, data));
        answer
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_kept_as_long_as_it_says_and_tells_what_is_left() {
        let (mut cache, start) = (Cache::default(), Instant::now());
        cache.put(question("a.example."), &answer(10), 100, start);
        let at = |seconds| start + Duration::from_secs(seconds);
        let left =
            |seconds| cache.get(&question("a.example."), at(seconds)).map(|it| it.answers[0].ttl);
        assert_eq!([left(0), left(4), left(9), left(10)], [Some(10), Some(6), Some(1), None]);
        assert!(cache.get(&question("b.example."), start).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_not_be_kept_is_not() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let mut failed = answer(10);
        failed.metadata.response_code = ResponseCode::ServFail;
        let mut cut = answer(10);
        cut.metadata.truncation = true;
        let empty = Message::response(1, OpCode::Query);
        for (answer, bytes) in [(&failed, 100), (&cut, 100), (&answer(0), 100), (&empty, 100)] {
            cache.put(question("a.example."), answer, bytes, now);
        }
        cache.put(question("a.example."), &answer(10), BYTES_MAX + 1, now);
        assert_eq!(cache.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_cache_forgets_what_would_have_ended_first() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        cache.put(question("first.example."), &answer(5), 100, now);
        for number in 0..ENTRIES_MAX {
            cache.put(question(&format!("n{number}.example.")), &answer(20), 100, now);
        }
        assert_eq!(cache.len(), ENTRIES_MAX);
        assert!(cache.get(&question("first.example."), now).is_none());
        assert!(cache.get(&question("n0.example."), now).is_some());
    }
}
