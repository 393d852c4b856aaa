//! etcd's requests as the store understands them, and the store's answers as etcd's clients do.
//!
//! Keeps: every range that leaves here is clipped (`keys`).
//! Never: judges by the state; what needs the state is asked where the request is carried out.

use bytes::Bytes;
use kontiki_raft::replica::Header;
use kontiki_storage::LeaseId;
use kontiki_storage::record::{self, EventKind};
use kontiki_storage::request::{
    Bounds, Compare, Delete, DeleteAnswer, Operand, Operation, OperationAnswer, Order, Put,
    PutAnswer, Range, RangeAnswer, Relation, Target, Transaction, TransactionAnswer,
};
use kontiki_storage::revision::Revision;
use prost::Message;
use tonic::Status;

use super::keys;
use super::status;
use super::wire::etcdserverpb as pb;
use super::wire::mvccpb;

/// How deep transactions may be nested here: as deep as the store takes them.
const DEPTH_MAX: usize = kontiki_storage::request::TRANSACTION_DEPTH_MAX;

/// No key was ever changed at a revision below 2, so this bound lets nothing through.
const BELOW_ALL: Revision = Revision(1);

pub(crate) fn header(header: Header) -> pb::ResponseHeader {
    pb::ResponseHeader {
        cluster_id: header.cluster.0,
        member_id: header.member.0,
        revision: signed(header.revision.0),
        raft_term: header.term,
    }
}

/// Counters of the store never come near the end of either type.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A revision a client names; what is negative counts as none.
pub(crate) fn revision(number: i64) -> Revision {
    Revision(u64::try_from(number).unwrap_or_default())
}

pub(crate) fn range(request: pb::RangeRequest) -> Result<Range, Status> {
    use pb::range_request::{SortOrder, SortTarget};
    if request.key.is_empty() {
        return Err(status::empty_key());
    }
    let order = match SortOrder::try_from(request.sort_order) {
        Ok(SortOrder::None) => Order::None,
        Ok(SortOrder::Ascend) => Order::Ascending,
        Ok(SortOrder::Descend) => Order::Descending,
        Err(_) => return Err(status::invalid_sort()),
    };
    let target = match SortTarget::try_from(request.sort_target) {
        Ok(SortTarget::Key) => Target::Key,
        Ok(SortTarget::Version) => Target::Version,
        Ok(SortTarget::Create) => Target::Created,
        Ok(SortTarget::Mod) => Target::Modified,
        Ok(SortTarget::Value) => Target::Value,
        Err(_) => return Err(status::invalid_sort()),
    };
    let bounds = |min: i64, max: i64| Bounds {
        min: revision(min),
        max: if max < 0 { BELOW_ALL } else { revision(max) },
    };
    Ok(Range {
        range: keys::clipped(request.key, request.range_end),
        limit: u64::try_from(request.limit).unwrap_or_default(),
        revision: revision(request.revision),
        order,
        target,
        keys_only: request.keys_only,
        count_only: request.count_only,
        modified: bounds(request.min_mod_revision, request.max_mod_revision),
        created: bounds(request.min_create_revision, request.max_create_revision),
    })
}

pub(crate) fn put(request: pb::PutRequest) -> Result<Put, Status> {
    if request.key.is_empty() {
        return Err(status::empty_key());
    }
    if keys::is_reserved(&request.key) {
        return Err(status::reserved_key());
    }
    Ok(Put {
        key: request.key,
        value: request.value,
        lease: LeaseId(request.lease),
        previous: request.prev_kv,
        ignore_value: request.ignore_value,
        ignore_lease: request.ignore_lease,
    })
}

pub(crate) fn delete(request: pb::DeleteRangeRequest) -> Result<Delete, Status> {
    if request.key.is_empty() {
        return Err(status::empty_key());
    }
    let range = keys::clipped(request.key, request.range_end);
    Ok(Delete { range, previous: request.prev_kv })
}

pub(crate) fn transaction(request: pb::TxnRequest) -> Result<Transaction, Status> {
    nested(request, 1)
}

fn nested(request: pb::TxnRequest, depth: usize) -> Result<Transaction, Status> {
    if depth > DEPTH_MAX {
        return Err(status::too_many_operations());
    }
    let branch = |operations: Vec<pb::RequestOp>| {
        operations.into_iter().map(|it| operation(it, depth)).collect::<Result<Vec<_>, _>>()
    };
    Ok(Transaction {
        compare: request.compare.into_iter().map(compare).collect::<Result<_, _>>()?,
        success: branch(request.success)?,
        failure: branch(request.failure)?,
    })
}

fn operation(operation: pb::RequestOp, depth: usize) -> Result<Operation, Status> {
    use pb::request_op::Request;
    Ok(match operation.request.ok_or_else(status::key_not_found)? {
        // Unlike a range of its own, one in a transaction may not name a negative revision.
        Request::RequestRange(request) if request.revision < 0 => return Err(status::compacted()),
        Request::RequestRange(request) => Operation::Range(range(request)?),
        Request::RequestPut(request) => Operation::Put(put(request)?),
        Request::RequestDeleteRange(request) => Operation::Delete(delete(request)?),
        Request::RequestTxn(request) => Operation::Transaction(nested(request, depth + 1)?),
    })
}

fn compare(compare: pb::Compare) -> Result<Compare, Status> {
    use pb::compare::{CompareResult, CompareTarget, TargetUnion};
    if compare.key.is_empty() {
        return Err(status::empty_key());
    }
    let relation = match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => Relation::Equal,
        Ok(CompareResult::Greater) => Relation::Greater,
        Ok(CompareResult::Less) => Relation::Less,
        Ok(CompareResult::NotEqual) => Relation::NotEqual,
        Err(_) => return Err(status::invalid_compare()),
    };
    let target = CompareTarget::try_from(compare.target).map_err(|_| status::invalid_compare())?;
    // A union that does not fit the target counts as zero, or as the empty value.
    let given = compare.target_union;
    let counted = |number: i64, operand: fn(u64) -> Operand| against(relation, number, operand);
    let (relation, operand) = match target {
        CompareTarget::Version => match given {
            Some(TargetUnion::Version(number)) => counted(number, Operand::Version),
            _ => (relation, Operand::Version(0)),
        },
        CompareTarget::Create => match given {
            Some(TargetUnion::CreateRevision(number)) => {
                counted(number, |number| Operand::Created(Revision(number)))
            }
            _ => (relation, Operand::Created(Revision::ZERO)),
        },
        CompareTarget::Mod => match given {
            Some(TargetUnion::ModRevision(number)) => {
                counted(number, |number| Operand::Modified(Revision(number)))
            }
            _ => (relation, Operand::Modified(Revision::ZERO)),
        },
        CompareTarget::Value => match given {
            Some(TargetUnion::Value(value)) => (relation, Operand::Value(value)),
            _ => (relation, Operand::Value(Bytes::new())),
        },
        CompareTarget::Lease => match given {
            Some(TargetUnion::Lease(id)) => (relation, Operand::Lease(LeaseId(id))),
            _ => (relation, Operand::Lease(LeaseId::NONE)),
        },
    };
    Ok(Compare { range: keys::clipped(compare.key, compare.range_end), relation, operand })
}

/// The same comparison where the number may be negative, which no counter of the store ever is.
fn against(relation: Relation, number: i64, operand: fn(u64) -> Operand) -> (Relation, Operand) {
    match (u64::try_from(number), relation) {
        (Ok(number), relation) => (relation, operand(number)),
        (Err(_), Relation::Greater | Relation::NotEqual) => (Relation::NotEqual, operand(u64::MAX)),
        (Err(_), Relation::Less | Relation::Equal) => (Relation::Less, operand(0)),
    }
}

pub(crate) fn key_value(kv: record::KeyValue) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: kv.key,
        create_revision: signed(kv.created.0),
        mod_revision: signed(kv.modified.0),
        version: signed(kv.version),
        value: kv.value,
        lease: kv.lease.0,
    }
}

pub(crate) fn range_answer(
    answer: RangeAnswer,
    header: Option<pb::ResponseHeader>,
) -> pb::RangeResponse {
    pb::RangeResponse {
        header,
        kvs: answer.kvs.into_iter().map(key_value).collect(),
        more: answer.more,
        count: signed(answer.count),
    }
}

pub(crate) fn put_answer(answer: PutAnswer, header: Option<pb::ResponseHeader>) -> pb::PutResponse {
    pb::PutResponse { header, prev_kv: answer.previous.map(key_value) }
}

pub(crate) fn delete_answer(
    answer: DeleteAnswer,
    header: Option<pb::ResponseHeader>,
) -> pb::DeleteRangeResponse {
    pb::DeleteRangeResponse {
        header,
        deleted: signed(answer.deleted),
        prev_kvs: answer.previous.into_iter().map(key_value).collect(),
    }
}

/// `header` is that of the whole; the answers inside carry the revision alone, as etcd's do.
pub(crate) fn transaction_answer(
    answer: TransactionAnswer,
    header: Option<pb::ResponseHeader>,
) -> pb::TxnResponse {
    use pb::response_op::Response;
    let revision = header.as_ref().map(|header| header.revision).unwrap_or_default();
    let inner = || Some(pb::ResponseHeader { revision, ..pb::ResponseHeader::default() });
    let responses = answer.answers.into_iter().map(|answer| {
        let response = match answer {
            OperationAnswer::Range(answer) => {
                Response::ResponseRange(range_answer(answer, inner()))
            }
            OperationAnswer::Put(answer) => Response::ResponsePut(put_answer(answer, inner())),
            OperationAnswer::Delete(answer) => {
                Response::ResponseDeleteRange(delete_answer(answer, inner()))
            }
            OperationAnswer::Transaction(answer) => {
                Response::ResponseTxn(transaction_answer(answer, inner()))
            }
        };
        pb::ResponseOp { response: Some(response) }
    });
    pb::TxnResponse { header, succeeded: answer.succeeded, responses: responses.collect() }
}

/// An event as it stands in a watch's response, with or without what was there before.
pub(crate) fn event(event: &record::Event, previous: bool) -> Bytes {
    let kind = match event.kind {
        EventKind::Put => mvccpb::event::EventType::Put,
        EventKind::Delete => mvccpb::event::EventType::Delete,
    };
    let before = event.previous.as_ref().filter(|_| previous);
    let message = mvccpb::Event {
        r#type: kind.into(),
        kv: Some(key_value(event.kv.clone())),
        prev_kv: before.cloned().map(key_value),
    };
    message.encode_to_vec().into()
}
