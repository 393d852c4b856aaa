//! Messages: what can be answered at once, and how an answer becomes bytes.
//!
//! Keeps: an answer goes to its question, by id and name. One that does not fit keeps as many of its records as
//! fit and says so (TC), and whoever wants all asks over TCP.

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};

/// What a datagram carries to a client that says nothing.
const PLAIN_MAX: u16 = 512;
/// What a datagram carries at most: it passes any network in one piece.
pub const DATAGRAM_MAX: u16 = 1232;
/// What TCP carries.
pub const STREAM_MAX: u16 = u16::MAX;
/// The version of EDNS that there is.
const EDNS_VERSION: u8 = 0;
/// Of a message without anything in it.
const HEADER_BYTES: usize = 12;

/// Bytes that were received.
pub enum Received {
    /// A question, with nothing wrong about it.
    Question(Box<Message>),
    /// What is wrong with it can be said.
    Refused(Box<Message>),
    /// It is no question: nobody waits for an answer.
    Noise,
}

#[must_use]
pub fn receive(bytes: &[u8]) -> Received {
    let Ok(message) = Message::from_vec(bytes) else { return unreadable(bytes) };
    if message.metadata.message_type != MessageType::Query {
        return Received::Noise;
    }
    match fault(&message) {
        Some(code) => {
            let mut answer = answer_to(&message);
            answer.metadata.response_code = code;
            Received::Refused(Box::new(answer))
        }
        None => Received::Question(Box::new(message)),
    }
}

fn unreadable(bytes: &[u8]) -> Received {
    // The id, and the bit that says whether it is an answer.
    match bytes {
        [high, low, flags, ..] if bytes.len() >= HEADER_BYTES && flags & 0x80 == 0 => {
            let id = u16::from_be_bytes([*high, *low]);
            let answer = Message::error_msg(id, OpCode::Query, ResponseCode::FormErr);
            Received::Refused(Box::new(answer))
        }
        _ => Received::Noise,
    }
}

fn fault(message: &Message) -> Option<ResponseCode> {
    if message.metadata.op_code != OpCode::Query {
        return Some(ResponseCode::NotImp);
    }
    let [query] = message.queries.as_slice() else { return Some(ResponseCode::FormErr) };
    if message.edns.as_ref().is_some_and(|edns| edns.version() > EDNS_VERSION) {
        return Some(ResponseCode::BADVERS);
    }
    let transfer = matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR);
    (transfer || query.query_class() != DNSClass::IN).then_some(ResponseCode::Refused)
}

/// An answer with nothing in it yet.
#[must_use]
pub fn answer_to(question: &Message) -> Message {
    let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
    answer.metadata = Metadata::response_from_request(&question.metadata);
    answer.metadata.recursion_available = true;
    answer.queries.clone_from(&question.queries);
    if question.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(DATAGRAM_MAX);
        answer.edns = Some(edns);
    }
    answer
}

/// How long a datagram to whoever asked may be.
#[must_use]
pub fn datagram_max(question: &Message) -> u16 {
    let said = question.edns.as_ref().map_or(PLAIN_MAX, Edns::max_payload);
    said.clamp(PLAIN_MAX, DATAGRAM_MAX)
}

/// The bytes of an answer, at most `most`. None only for what cannot be written at all.
#[must_use]
pub fn encode(mut answer: Message, most: u16) -> Option<Vec<u8>> {
    let most = usize::from(most);
    let whole = answer.to_vec().ok()?;
    if whole.len() <= most {
        return Some(whole);
    }
    // What was not asked for goes first, and is not missed.
    answer.additionals.clear();
    let plain = answer.to_vec().ok()?;
    if plain.len() <= most {
        return Some(plain);
    }
    answer.authorities.clear();
    answer.metadata.truncation = true;
    let answers = std::mem::take(&mut answer.answers);
    let with = |count: usize| {
        let mut some = answer.clone();
        some.answers = answers[..count].to_vec();
        some.to_vec().ok().filter(|bytes| bytes.len() <= most)
    };
    let (mut fits, mut above) = (0, answers.len());
    while fits + 1 < above {
        let middle = usize::midpoint(fits, above);
        match with(middle) {
            Some(_) => fits = middle,
            None => above = middle,
        }
    }
    with(fits)
}
