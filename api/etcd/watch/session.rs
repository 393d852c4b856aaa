//! One stream of watches: one loop that takes requests and gives responses.
//!
//! Keeps: what is told of a watch was allowed when it happened. A change of permissions is looked at
//! before the events that followed it, and ends the watches it forbids.
//! Never: reads another request while a response waits to be taken.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Wake as _};

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{self, Stream, StreamExt};
use kontiki_storage::record::Encoding;
use kontiki_storage::request::KeyRange;
use kontiki_storage::revision::Revision;
use kontiki_storage::watch::{Cut, Delivery, Request, Watcher};
use tokio::time::{Instant, MissedTickBehavior};
use tonic::{Code, Status, Streaming};

use super::bells::{Bell, Bells, Source};
use super::fragment;
use super::watches::{Flags, Watches};
use crate::etcd::front::{Caller, Front};
use crate::etcd::leaderless::Led;
use crate::etcd::metrics::StreamCount;
use crate::etcd::wire::etcdserverpb as pb;
use crate::etcd::wire::etcdserverpb::watch_create_request::FilterType;
use crate::etcd::wire::etcdserverpb::watch_request::RequestUnion;
use crate::etcd::{keys, status, translate};

/// Stands for no watch, or for all of the stream.
const NO_WATCH: i64 = -1;

pub(super) struct Session {
    front: Front,
    caller: Caller,
    bells: Bells,
    /// Comes true when the client's wish for a leader has been in vain for too long.
    leader_lost: BoxFuture<'static, Status>,
    /// `None` once the client has said all it will say.
    requests: Option<Streaming<pb::WatchRequest>>,
    watches: Watches,
    /// Tells of changes of the rows that permissions come from.
    rules: Watcher,
    rules_bell: Arc<Bell>,
    progress_wanted: bool,
    progress_timer: tokio::time::Interval,
    /// The responses of one request or delivery, on their way out.
    responses: VecDeque<pb::WatchResponse>,
    _count: StreamCount,
}

enum Happening {
    Request(Option<Result<pb::WatchRequest, Status>>),
    Told(i64, Result<Delivery, Cut>),
    RulesChanged(Result<Delivery, Cut>),
    ProgressTick,
    ProgressReached(Revision),
    LeaderLost(Status),
}

impl Session {
    pub(super) fn new(
        front: Front,
        caller: Caller,
        led: Led,
        requests: Streaming<pb::WatchRequest>,
    ) -> Session {
        let interval = front.config().progress_interval;
        // Spread out, or clients that came together would all be told at once.
        let interval = interval.mul_f64(1.0 + rand::random_range(0.0..0.1));
        let mut progress_timer = tokio::time::interval_at(Instant::now() + interval, interval);
        progress_timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let bells = Bells::default();
        for source in [Source::Requests, Source::ProgressTimer, Source::Leadership] {
            bells.hang(source);
        }
        Session {
            rules: watch_rules(&front),
            rules_bell: bells.hang(Source::Rules),
            caller,
            leader_lost: Box::pin(async move { led.lost().await }),
            requests: Some(requests),
            watches: Watches::new(bells.clone()),
            bells,
            progress_wanted: false,
            progress_timer,
            responses: VecDeque::new(),
            _count: front.metrics().watch_stream(),
            front,
        }
    }

    pub(super) fn run(self) -> impl Stream<Item = Result<pb::WatchResponse, Status>> + Send {
        stream::try_unfold(self, |mut session| async move {
            let response = session.next().await?;
            Ok(response.map(|response| (response, session)))
        })
    }

    /// The next response; `None` when nothing can come any more.
    async fn next(&mut self) -> Result<Option<pb::WatchResponse>, Status> {
        loop {
            if let Some(response) = self.responses.pop_front() {
                return Ok(Some(response));
            }
            if self.requests.is_none() && self.watches.len() == 0 {
                return Ok(None);
            }
            match poll_fn(|context| self.poll_happening(context)).await {
                Happening::Request(Some(request)) => self.request(request?),
                Happening::Request(None) => self.requests = None,
                Happening::Told(id, told) => self.told(id, told)?,
                Happening::RulesChanged(told) => self.rules_changed(told)?,
                Happening::ProgressTick => self.progress_tick(),
                Happening::ProgressReached(revision) => {
                    self.progress_wanted = false;
                    self.respond(revision, NO_WATCH, |_| {});
                }
                Happening::LeaderLost(lost) => return Err(lost),
            }
        }
    }

    fn poll_happening(&mut self, context: &mut Context<'_>) -> Poll<Happening> {
        let Session { bells, requests, watches, rules, progress_timer, leader_lost, .. } = self;
        let happened = bells.poll(context, |source, context| match source {
            Source::Requests => match requests {
                Some(requests) => requests.poll_next_unpin(context).map(Happening::Request),
                None => Poll::Pending,
            },
            Source::Rules => rules.poll_next(context).map(Happening::RulesChanged),
            Source::Watch(id) => watches.poll(id, context).map(|told| Happening::Told(id, told)),
            Source::ProgressTimer => {
                progress_timer.poll_tick(context).map(|_| Happening::ProgressTick)
            }
            Source::Leadership => leader_lost.poll_unpin(context).map(Happening::LeaderLost),
        });
        // After the watches, which have nothing to tell now: a watch that still catches up answers none.
        if happened.is_pending() && self.progress_wanted {
            let newest = self.front.replica().store().hub().revision();
            if let Some(revision) = self.watches.progress(newest) {
                return Poll::Ready(Happening::ProgressReached(revision));
            }
        }
        happened
    }

    fn request(&mut self, request: pb::WatchRequest) {
        match request.request_union {
            Some(RequestUnion::CreateRequest(request)) => {
                if let Err(reason) = self.create(request) {
                    self.refuse(reason);
                }
            }
            Some(RequestUnion::CancelRequest(request)) => self.cancel_as_asked(request.watch_id),
            Some(RequestUnion::ProgressRequest(_)) => self.progress_wanted = true,
            // Something newer than this program; the stream goes on without it, as etcd's does.
            None => {}
        }
    }

    /// An id that no watch has is passed over, as in etcd.
    fn cancel_as_asked(&mut self, id: i64) {
        if self.watches.contains(id) {
            self.cancel(id, String::new());
        }
    }

    /// Begins a watch, or says why not.
    fn create(&mut self, request: pb::WatchCreateRequest) -> Result<(), String> {
        let range = wanted_range(&request)?;
        if request.start_revision < 0 {
            return Err(status::compacted().message().to_owned());
        }
        self.allowed(&range).map_err(|refused| as_go_prints(&refused))?;
        let max = self.front.config().watches_per_stream_max;
        if self.watches.len() >= max {
            return Err(format!("etcdserver: more than {max} watches on one stream"));
        }
        let id = match request.watch_id {
            0 => self.watches.free_id(),
            id if self.watches.contains(id) => {
                return Err("mvcc: duplicate watch ID provided on the WatchStream".to_owned());
            }
            id => id,
        };
        let has = |filter: FilterType| request.filters.contains(&(filter as i32));
        let wanted = Request {
            range,
            start: translate::revision(request.start_revision),
            puts: !has(FilterType::Noput),
            deletes: !has(FilterType::Nodelete),
            previous: request.prev_kv,
        };
        let watcher = self.front.replica().watch(wanted.clone());
        // A client that begins now goes on from here should the stream break before the first event: so
        // it must be the very moment from which this watch tells all.
        let begun = match wanted.start {
            Revision::ZERO => watcher.cursor().previous(),
            _ => self.front.replica().store().revision(),
        };
        let flags = Flags {
            previous: request.prev_kv,
            fragment: request.fragment,
            progress: request.progress_notify,
        };
        self.watches.insert(id, watcher, wanted, flags);
        self.respond(begun, id, |response| response.created = true);
        Ok(())
    }

    fn refuse(&mut self, reason: String) {
        let now = self.front.replica().store().revision();
        self.respond(now, NO_WATCH, |response| {
            response.created = true;
            response.canceled = true;
            response.cancel_reason = reason;
        });
    }

    fn told(&mut self, id: i64, told: Result<Delivery, Cut>) -> Result<(), Status> {
        match told {
            Ok(delivery) => {
                // Whatever was agreed on before these events can be seen by now.
                if self.rules.has_unread()
                    && let Some(changed) = self.rules.try_next()
                {
                    self.rules_changed(changed)?;
                }
                self.deliver(id, delivery);
                Ok(())
            }
            Err(Cut::Compacted { compacted }) => {
                self.compacted(id, compacted);
                Ok(())
            }
            // The store was replaced by a newer one. Its history may well reach back far enough.
            Err(Cut::TooOld { .. }) => {
                self.resume(id);
                Ok(())
            }
            Err(Cut::Closed) => Err(status::stopped()),
            Err(Cut::Failed(error)) => {
                let refused = status::of_store(error);
                self.cancel(id, refused.message().to_owned());
                Ok(())
            }
        }
    }

    fn deliver(&mut self, id: i64, delivery: Delivery) {
        let bytes_max = self.front.config().message_bytes_max();
        let header = self.front.header_at(delivery.revision);
        let Some(watch) = self.watches.get_mut(id) else {
            return;
        };
        watch.told = true;
        let previous = watch.previous;
        let form = if previous { Encoding::EtcdWithPrevious } else { Encoding::Etcd };
        let encoded = delivery
            .events
            .iter()
            .map(|event| event.encoded(form, |event| translate::event(event, previous)));
        let response = pb::WatchResponse {
            header: Some(header),
            watch_id: id,
            events: encoded.collect(),
            ..pb::WatchResponse::default()
        };
        if watch.fragment {
            self.responses.extend(fragment::split(response, bytes_max));
        } else {
            self.responses.push_back(response);
        }
    }

    fn compacted(&mut self, id: i64, compacted: Revision) {
        self.watches.remove(id);
        let now = self.front.replica().store().revision();
        self.respond(now, id, |response| {
            response.canceled = true;
            response.compact_revision = translate::signed(compacted.0);
        });
    }

    fn cancel(&mut self, id: i64, reason: String) {
        self.watches.remove(id);
        let now = self.front.replica().store().revision();
        self.respond(now, id, |response| {
            response.canceled = true;
            response.cancel_reason = reason;
        });
    }

    fn resume(&mut self, id: i64) {
        let Some(watch) = self.watches.get_mut(id) else {
            return;
        };
        let request = watch.request.clone().from(watch.cursor());
        let watcher = self.front.replica().watch(request);
        watch.resume(watcher);
    }

    /// Looks at every watch by the rules of now.
    fn rules_changed(&mut self, told: Result<Delivery, Cut>) -> Result<(), Status> {
        match told {
            Ok(_) => {}
            Err(Cut::Closed) => return Err(status::stopped()),
            // It is the newest state that counts, so nothing is missed by beginning anew.
            Err(_) => {
                self.rules = watch_rules(&self.front);
                self.rules_bell.wake_by_ref();
            }
        }
        let forbidden: Vec<(i64, Status)> = self
            .watches
            .iter()
            .filter_map(|(id, watch)| Some((id, self.allowed(&watch.request.range).err()?)))
            .collect();
        for (id, refused) in forbidden {
            self.cancel(id, as_go_prints(&refused));
        }
        Ok(())
    }

    fn allowed(&self, range: &KeyRange) -> Result<(), Status> {
        let view = self.front.replica().store().view();
        let (_, who) = self.front.judge(&self.caller, &view)?;
        who.may_read(range)
    }

    /// Tells those who want it, and were not told anything since the last time, how far they are.
    fn progress_tick(&mut self) {
        let mut level = Vec::new();
        for (id, watch) in self.watches.iter_mut().filter(|(_, watch)| watch.progress) {
            if !std::mem::take(&mut watch.told)
                && let Some(revision) = watch.progress()
            {
                level.push((id, revision));
            }
        }
        for (id, revision) in level {
            self.respond(revision, id, |_| {});
        }
    }

    fn respond(
        &mut self,
        revision: Revision,
        watch_id: i64,
        fill: impl FnOnce(&mut pb::WatchResponse),
    ) {
        let header = Some(self.front.header_at(revision));
        let mut response = pb::WatchResponse { header, watch_id, ..pb::WatchResponse::default() };
        fill(&mut response);
        self.responses.push_back(response);
    }
}

fn watch_rules(front: &Front) -> Watcher {
    front.replica().watch(Request::new(KeyRange::One(keys::state())))
}

/// An empty key is the smallest there is.
fn wanted_range(request: &pb::WatchCreateRequest) -> Result<KeyRange, String> {
    let key = match request.key.is_empty() {
        true => bytes::Bytes::from_static(b"\0"),
        false => request.key.clone(),
    };
    let empty = || Err("mvcc: watcher range is empty".to_owned());
    let bounded = !matches!(request.range_end.as_ref(), [] | [0]);
    if bounded && key >= request.range_end {
        return empty();
    }
    match keys::clipped(key, request.range_end.clone()) {
        KeyRange::Between { start, end } if end <= start => empty(),
        range => Ok(range),
    }
}

/// A refusal as it reads in a response's `cancel_reason`, where etcd's clients look for it.
fn as_go_prints(refused: &Status) -> String {
    let code = match refused.code() {
        Code::PermissionDenied => "PermissionDenied",
        Code::Unauthenticated => "Unauthenticated",
        Code::InvalidArgument => "InvalidArgument",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        _ => "Unknown",
    };
    format!("rpc error: code = {code} desc = {}", refused.message())
}
