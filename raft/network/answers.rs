//! The store's answers as bytes: what a leader says came of a proposal, for the follower that forwarded it.
//!
//! Keeps: a client of a follower sees what a client of the leader would have seen: the same variant, the
//! same numbers, the same words.
//! Never: loses an error. One whose variant is not known here (a newer master leads) keeps its words, and
//! a result that can't be read at all makes the whole message malformed: its fate is then unknown, which
//! is the truth.
//! An error is the leader's own: what it says of a disk (`Damaged`, `NoSpace`, ..) is said of the leader's.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use kontiki_storage::error::Error;
use kontiki_storage::record::{KeyValue, LeaseId};
use kontiki_storage::request::{
    Answer, DeleteAnswer, EntryAnswers, OperationAnswer, Outcome, PutAnswer, RangeAnswer,
    TransactionAnswer,
};
use kontiki_storage::revision::{Index, Revision};

use crate::network::convert::Malformed;
use crate::network::wire;

pub(crate) fn wire_answers(answers: EntryAnswers) -> wire::Answers {
    let results = answers.into_iter().map(wire_result).collect();
    wire::Answers { results }
}

pub(crate) fn answers(answers: wire::Answers) -> Result<EntryAnswers, Malformed> {
    answers.results.into_iter().map(result).collect()
}

fn wire_result(result: Result<Answer, Error>) -> wire::CommandResult {
    use wire::command_result::Result as Wire;
    let result = match result {
        Ok(answer) => Wire::Answer(wire_answer(answer)),
        Err(error) => Wire::Error(wire_error(&error)),
    };
    wire::CommandResult { result: Some(result) }
}

fn result(result: wire::CommandResult) -> Result<Result<Answer, Error>, Malformed> {
    use wire::command_result::Result as Wire;
    match result.result.ok_or(Malformed::missing("result"))? {
        Wire::Answer(given) => Ok(Ok(answer(given)?)),
        Wire::Error(given) => Ok(Err(error(given))),
    }
}

fn wire_answer(answer: Answer) -> wire::Answer {
    use wire::answer::Outcome as Wire;
    let outcome = match answer.outcome {
        Outcome::Put(put) => Wire::Put(wire_put(put)),
        Outcome::Delete(delete) => Wire::Delete(wire_delete(delete)),
        Outcome::Transaction(transaction) => Wire::Transaction(wire_transaction(transaction)),
        Outcome::Compacted => Wire::Compacted(wire::Nothing {}),
        Outcome::LeaseGranted { id, ttl_s } => {
            Wire::LeaseGranted(wire::LeaseGranted { id: id.0, ttl_s })
        }
        Outcome::LeaseRevoked => Wire::LeaseRevoked(wire::Nothing {}),
        Outcome::LeasesExpired(count) => Wire::LeasesExpired(count),
        Outcome::Checkpointed => Wire::Checkpointed(wire::Nothing {}),
    };
    wire::Answer { revision: answer.revision.0, outcome: Some(outcome) }
}

fn answer(answer: wire::Answer) -> Result<Answer, Malformed> {
    use wire::answer::Outcome as Wire;
    let outcome = match answer.outcome.ok_or(Malformed::missing("outcome"))? {
        Wire::Put(given) => Outcome::Put(put(given)),
        Wire::Delete(given) => Outcome::Delete(delete(given)),
        Wire::Transaction(given) => Outcome::Transaction(transaction(given)?),
        Wire::Compacted(_) => Outcome::Compacted,
        Wire::LeaseGranted(given) => {
            Outcome::LeaseGranted { id: LeaseId(given.id), ttl_s: given.ttl_s }
        }
        Wire::LeaseRevoked(_) => Outcome::LeaseRevoked,
        Wire::LeasesExpired(count) => Outcome::LeasesExpired(count),
        Wire::Checkpointed(_) => Outcome::Checkpointed,
    };
    Ok(Answer { revision: Revision(answer.revision), outcome })
}

fn wire_transaction(transaction: TransactionAnswer) -> wire::TransactionAnswer {
    use wire::operation_answer::Answer as Wire;
    let operation = |answer| {
        let answer = match answer {
            OperationAnswer::Range(range) => Wire::Range(wire_range(range)),
            OperationAnswer::Put(put) => Wire::Put(wire_put(put)),
            OperationAnswer::Delete(delete) => Wire::Delete(wire_delete(delete)),
            OperationAnswer::Transaction(inner) => Wire::Transaction(wire_transaction(inner)),
        };
        wire::OperationAnswer { answer: Some(answer) }
    };
    let answers = transaction.answers.into_iter().map(operation).collect();
    wire::TransactionAnswer { succeeded: transaction.succeeded, answers }
}

fn transaction(transaction: wire::TransactionAnswer) -> Result<TransactionAnswer, Malformed> {
    use wire::operation_answer::Answer as Wire;
    let operation = |given: wire::OperationAnswer| {
        Ok(match given.answer.ok_or(Malformed::missing("operation's answer"))? {
            Wire::Range(given) => OperationAnswer::Range(range(given)),
            Wire::Put(given) => OperationAnswer::Put(put(given)),
            Wire::Delete(given) => OperationAnswer::Delete(delete(given)),
            // As deep as the decoder let it be, which has a limit of its own.
            Wire::Transaction(given) => OperationAnswer::Transaction(self::transaction(given)?),
        })
    };
    let answers = transaction.answers.into_iter().map(operation).collect::<Result<_, _>>()?;
    Ok(TransactionAnswer { succeeded: transaction.succeeded, answers })
}

fn wire_put(put: PutAnswer) -> wire::PutAnswer {
    wire::PutAnswer { previous: put.previous.map(wire_key_value) }
}

fn put(put: wire::PutAnswer) -> PutAnswer {
    PutAnswer { previous: put.previous.map(key_value) }
}

fn wire_delete(delete: DeleteAnswer) -> wire::DeleteAnswer {
    let previous = delete.previous.into_iter().map(wire_key_value).collect();
    wire::DeleteAnswer { deleted: delete.deleted, previous }
}

fn delete(delete: wire::DeleteAnswer) -> DeleteAnswer {
    let previous = delete.previous.into_iter().map(key_value).collect();
    DeleteAnswer { deleted: delete.deleted, previous }
}

fn wire_range(range: RangeAnswer) -> wire::RangeAnswer {
    let kvs = range.kvs.into_iter().map(wire_key_value).collect();
    wire::RangeAnswer { kvs, more: range.more, count: range.count }
}

fn range(range: wire::RangeAnswer) -> RangeAnswer {
    let kvs = range.kvs.into_iter().map(key_value).collect();
    RangeAnswer { kvs, more: range.more, count: range.count }
}

fn wire_key_value(kv: KeyValue) -> wire::KeyValue {
    wire::KeyValue {
        key: kv.key,
        value: kv.value,
        created: kv.created.0,
        modified: kv.modified.0,
        version: kv.version,
        lease: kv.lease.0,
    }
}

fn key_value(kv: wire::KeyValue) -> KeyValue {
    KeyValue {
        key: kv.key,
        value: kv.value,
        created: Revision(kv.created),
        modified: Revision(kv.modified),
        version: kv.version,
        lease: LeaseId(kv.lease),
    }
}

fn wire_error(error: &Error) -> wire::StoreError {
    use wire::store_error as part;
    use wire::store_error::Error as Wire;
    const NOTHING: wire::Nothing = wire::Nothing {};
    let variant = match error {
        // No command is answered with these; should one be, its words are what there is to say.
        Error::Malformed(_) | Error::Snapshot { .. } => {
            return wire::StoreError { error: None, text: error.to_string() };
        }
        Error::EmptyKey => Wire::EmptyKey(NOTHING),
        Error::TooManyOperations { given, max } => {
            Wire::TooManyOperations(part::TooManyOperations {
                given: *given as u64,
                max: *max as u64,
            })
        }
        Error::DuplicateKey => Wire::DuplicateKey(NOTHING),
        Error::ValueProvided => Wire::ValueProvided(NOTHING),
        Error::LeaseProvided => Wire::LeaseProvided(NOTHING),
        Error::LeaseTtlTooLarge { ttl_s, max } => {
            Wire::LeaseTtlTooLarge(part::LeaseTtlTooLarge { ttl_s: *ttl_s, max: *max })
        }
        Error::Compacted { asked, oldest } => {
            Wire::Compacted(part::Compacted { asked: asked.0, oldest: oldest.0 })
        }
        Error::Future { asked, newest } => {
            Wire::Future(part::Future { asked: asked.0, newest: newest.0 })
        }
        Error::KeyNotFound => Wire::KeyNotFound(NOTHING),
        Error::LeaseNotFound(id) => Wire::LeaseNotFound(id.0),
        Error::LeaseExists(id) => Wire::LeaseExists(id.0),
        Error::ConditionFailed => Wire::ConditionFailed(NOTHING),
        Error::NoSpace { path, free, reserved } => Wire::NoSpace(part::NoSpace {
            path: path.display().to_string(),
            free: *free,
            reserved: *reserved,
        }),
        Error::Refused { path, reason } => Wire::Refused(part::Refused {
            path: path.display().to_string(),
            reason: reason.clone(),
        }),
        Error::Damaged(what) => Wire::Damaged(what.clone()),
        Error::OutOfOrder { given, applied } => {
            Wire::OutOfOrder(part::OutOfOrder { given: given.0, applied: applied.0 })
        }
        Error::Engine { context, source } => {
            Wire::Engine(part::Engine { context: context.clone(), source: source.to_string() })
        }
    };
    wire::StoreError { error: Some(variant), text: error.to_string() }
}

fn error(error: wire::StoreError) -> Error {
    use wire::store_error::Error as Wire;
    let Some(variant) = error.error else {
        return Error::engine(
            error.text,
            io::Error::other("an error this version has no name for"),
        );
    };
    match variant {
        Wire::EmptyKey(_) => Error::EmptyKey,
        Wire::TooManyOperations(of) => {
            Error::TooManyOperations { given: count(of.given), max: count(of.max) }
        }
        Wire::DuplicateKey(_) => Error::DuplicateKey,
        Wire::ValueProvided(_) => Error::ValueProvided,
        Wire::LeaseProvided(_) => Error::LeaseProvided,
        Wire::LeaseTtlTooLarge(of) => Error::LeaseTtlTooLarge { ttl_s: of.ttl_s, max: of.max },
        Wire::Compacted(of) => {
            Error::Compacted { asked: Revision(of.asked), oldest: Revision(of.oldest) }
        }
        Wire::Future(of) => {
            Error::Future { asked: Revision(of.asked), newest: Revision(of.newest) }
        }
        Wire::KeyNotFound(_) => Error::KeyNotFound,
        Wire::LeaseNotFound(id) => Error::LeaseNotFound(LeaseId(id)),
        Wire::LeaseExists(id) => Error::LeaseExists(LeaseId(id)),
        Wire::ConditionFailed(_) => Error::ConditionFailed,
        Wire::NoSpace(of) => {
            Error::NoSpace { path: PathBuf::from(of.path), free: of.free, reserved: of.reserved }
        }
        Wire::Refused(of) => Error::Refused { path: PathBuf::from(of.path), reason: of.reason },
        Wire::Damaged(what) => Error::Damaged(what),
        Wire::OutOfOrder(of) => {
            Error::OutOfOrder { given: Index(of.given), applied: Index(of.applied) }
        }
        Wire::Engine(of) => {
            Error::Engine { context: of.context, source: Arc::new(io::Error::other(of.source)) }
        }
    }
}

/// Counts come from a `usize` and fit one on every machine Kontiki runs on.
fn count(given: u64) -> usize {
    usize::try_from(given).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
