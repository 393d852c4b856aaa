//! The KV service: ranges, puts, deletes, transactions, compaction.
//!
//! Keeps: a read and its permission come from one view. A linearizable one waits for a barrier first.
//! Never: holds more of a streamed range than one piece of it.

use std::pin::Pin;

use futures::stream::{self, Stream};
use kontiki_storage::record::KeyValue;
use kontiki_storage::request::{Answer, Command, Operation, Outcome, Range, Transaction};
use kontiki_storage::view::{Pages, View};
use tonic::{Request, Response, Status};

use super::auth::rules;
use super::front::{Front, Service};
use super::metrics::Write;
use super::wire::etcdserverpb as pb;
use super::wire::etcdserverpb::kv_server::Kv;
use super::{status, translate};

/// What one piece of a streamed range weighs, as etcd's do.
const PIECE_BYTES: usize = 3 << 19;

/// A range that reads this much at once is read where it holds up no other task.
const INLINE_KEYS_MAX: u64 = 100;

#[derive(Clone)]
pub(crate) struct KvService(pub(crate) Front);

#[tonic::async_trait]
impl Kv for KvService {
    type RangeStreamStream =
        Pin<Box<dyn Stream<Item = Result<pb::RangeStreamResponse, Status>> + Send>>;

    async fn range(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Response<pb::RangeResponse>, Status> {
        let caller = self.0.enter(&request, reading(request.get_ref().serializable))?;
        let request = request.into_inner();
        let serializable = request.serializable;
        let range = translate::range(request)?;
        let view = self.0.view(serializable).await?;
        let (control, who) = self.0.judge(&caller, &view)?;
        self.0.reads(&control)?;
        who.may_read(&range.range)?;
        let answer = aside(is_small(&range), || view.range(&range)).map_err(status::of_store)?;
        self.0.metrics().ranges.inc();
        let header = self.0.header_at(view.revision());
        Ok(Response::new(translate::range_answer(answer, Some(header))))
    }

    async fn range_stream(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        let caller = self.0.enter(&request, Service::Voters)?;
        let request = request.into_inner();
        let serializable = request.serializable;
        let range = translate::range(request)?;
        if !range.streams() {
            return Err(Status::unimplemented(
                "RangeStream does not support custom sort orders and revision filters",
            ));
        }
        let view = self.0.view(serializable).await?;
        let (control, who) = self.0.judge(&caller, &view)?;
        self.0.reads(&control)?;
        who.may_read(&range.range)?;
        self.0.metrics().ranges.inc();
        Ok(Response::new(Box::pin(pieces(&self.0, &view, range))))
    }

    async fn put(
        &self,
        request: Request<pb::PutRequest>,
    ) -> Result<Response<pb::PutResponse>, Status> {
        let caller = self.0.enter(&request, Service::Voters)?;
        let put = translate::put(request.into_inner())?;
        let answer = self.0.write(&caller, Command::Put(put)).await?;
        self.0.metrics().count(Write::Put);
        match answer {
            Answer { revision, outcome: Outcome::Put(put) } => {
                let header = self.0.header_at(revision);
                Ok(Response::new(translate::put_answer(put, Some(header))))
            }
            other => Err(unfit(&other)),
        }
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        let caller = self.0.enter(&request, Service::Voters)?;
        let delete = translate::delete(request.into_inner())?;
        let answer = self.0.write(&caller, Command::Delete(delete)).await?;
        self.0.metrics().count(Write::Delete);
        match answer {
            Answer { revision, outcome: Outcome::Delete(delete) } => {
                let header = self.0.header_at(revision);
                Ok(Response::new(translate::delete_answer(delete, Some(header))))
            }
            other => Err(unfit(&other)),
        }
    }

    async fn txn(
        &self,
        request: Request<pb::TxnRequest>,
    ) -> Result<Response<pb::TxnResponse>, Status> {
        let caller = self.0.enter(&request, Service::Voters)?;
        let request = request.into_inner();
        let serializable = only_serializable(&request);
        let transaction = translate::transaction(request)?;
        transaction.check().map_err(status::of_store)?;
        self.0.metrics().count(Write::Transaction);
        if transaction.is_read_only() {
            let view = self.0.view(serializable).await?;
            let (control, who) = self.0.judge(&caller, &view)?;
            self.0.reads(&control)?;
            rules::transaction(&who, &transaction, &mut Vec::new())?;
            let answer =
                aside(transaction_is_small(&transaction), || view.transaction(&transaction));
            let header = self.0.header_at(view.revision());
            let answer = answer.map_err(status::of_store)?;
            return Ok(Response::new(translate::transaction_answer(answer, Some(header))));
        }
        match self.0.write(&caller, Command::Transaction(transaction)).await? {
            Answer { revision, outcome: Outcome::Transaction(answer) } => {
                let header = self.0.header_at(revision);
                Ok(Response::new(translate::transaction_answer(answer, Some(header))))
            }
            other => Err(unfit(&other)),
        }
    }

    async fn compact(
        &self,
        request: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        let caller = self.0.enter(&request, Service::Voters)?;
        let pb::CompactionRequest { revision, physical } = request.into_inner();
        if revision < 0 {
            return Err(status::compacted());
        }
        let command = Command::Compact(translate::revision(revision));
        let answer = self.0.write(&caller, command).await?;
        if physical {
            // What was forgotten may only be dropped from the disk once that is durable.
            self.0.replica().flush().await.map_err(status::of)?;
        }
        let header = Some(self.0.header_at(answer.revision));
        Ok(Response::new(pb::CompactionResponse { header }))
    }
}

pub(crate) fn unfit(answer: &Answer) -> Status {
    Status::internal(format!("an answer that does not fit its request: {answer:?}"))
}

fn reading(serializable: bool) -> Service {
    if serializable { Service::Anyone } else { Service::Voters }
}

/// A transaction of reads none of which has to be fresh.
fn only_serializable(request: &pb::TxnRequest) -> bool {
    use pb::request_op::Request;
    request.success.iter().chain(&request.failure).all(|operation| match &operation.request {
        Some(Request::RequestRange(range)) => range.serializable,
        _ => false,
    })
}

fn is_small(range: &Range) -> bool {
    use kontiki_storage::request::KeyRange;
    matches!(range.range, KeyRange::One(_)) || (1..=INLINE_KEYS_MAX).contains(&range.limit)
}

fn transaction_is_small(transaction: &Transaction) -> bool {
    let mut operations = transaction.success.iter().chain(&transaction.failure);
    operations.all(|operation| match operation {
        Operation::Range(range) => is_small(range),
        _ => false,
    })
}

/// Runs a read, if it may take long, where it holds up no other task.
pub(crate) fn aside<T>(small: bool, read: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    let threaded = Handle::try_current()
        .is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread);
    if threaded && !small { tokio::task::block_in_place(read) } else { read() }
}

/// A range in pieces. All but the last carry keys alone; put together they are the answer in one piece.
fn pieces(
    front: &Front,
    view: &View,
    range: Range,
) -> impl Stream<Item = Result<pb::RangeStreamResponse, Status>> + Send + use<> {
    let header = front.header_at(view.revision());
    let reading = Reading { pages: view.pages(range), header, held: None, done: false };
    stream::try_unfold(reading, |mut reading| async move {
        let piece = aside(false, || reading.next()).map_err(status::of_store)?;
        Ok(piece.map(|piece| (piece, reading)))
    })
}

struct Reading {
    pages: Pages,
    header: pb::ResponseHeader,
    /// Read one page ahead, to know which is the last.
    held: Option<Vec<KeyValue>>,
    done: bool,
}

impl Reading {
    fn next(&mut self) -> Result<Option<pb::RangeStreamResponse>, kontiki_storage::Error> {
        if self.done {
            return Ok(None);
        }
        let page = match self.held.take() {
            Some(page) => page,
            None => self.pages.next_page(PIECE_BYTES)?.unwrap_or_default(),
        };
        self.held = self.pages.next_page(PIECE_BYTES)?;
        let mut response = pb::RangeResponse {
            kvs: page.into_iter().map(translate::key_value).collect(),
            ..pb::RangeResponse::default()
        };
        if self.held.is_none() {
            self.done = true;
            let (count, more) = self.pages.totals()?;
            response.header = Some(self.header);
            (response.count, response.more) = (translate::signed(count), more);
        }
        Ok(Some(pb::RangeStreamResponse { range_response: Some(response) }))
    }
}
