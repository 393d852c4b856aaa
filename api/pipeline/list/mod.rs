//! Many objects, of one moment.
//!
//! Keeps: a list says the store's revision at which it was read, never an object's and never a clock's; all
//! of its pages show that one moment, or the client is told that it is forgotten.
//! Never: holds more of a list in memory than a page, unless a limit keeps it small.

mod token;

use std::sync::Arc;

use bytes::Bytes;
use kontiki_storage::request::{KeyRange, Range};
use kontiki_storage::revision::Revision;
use kontiki_storage::view::{Pages, View};
use serde_json::Value;

use super::Road;
use super::options::{Selection, Version, check_list, read_version};
use super::renewals::Renewals;
use super::reply::Reply;
use super::shown::Shown;
use super::target::Target;
use crate::error::{Reason, Status};
use crate::kinds::Kind;
use crate::objects::{self, Object, key};
use crate::request::{Options, Request};

use token::Token;

/// How much is read from the store at a time.
const PAGE_BYTES: usize = 1 << 20;
/// What a list with a limit may gather; it goes on with a token when there is more.
const GATHERED_BYTES_MAX: usize = 32 << 20;

const TOO_OLD_TO_GO_ON: &str = "The provided continue parameter is too old to display a consistent \
     list result. You can start a new list without the continue parameter, or use the \
    continue token \
     in this response to retrieve the remainder of the results. Continuing with the provided token \
     results in an inconsistent list - objects that were created, modified, or deleted between the \
     time the first chunk was returned and now may show up in the list.";

/// A list that is read as it is sent.
pub struct Listing {
    kind: Arc<Kind>,
    revision: Revision,
    go_on: Option<String>,
    remaining: Option<u64>,
    selection: Selection,
    renewals: Option<Renewals>,
    source: Source,
}

enum Source {
    /// All of it, page by page.
    Rest(Box<Pages>),
    /// What a limit let through.
    Gathered(Vec<Shown>),
}

impl std::fmt::Debug for Listing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Listing({} at {})", self.kind.gvk(), self.revision)
    }
}

impl Listing {
    /// What was found elsewhere, as a list.
    pub(super) fn of(kind: &Arc<Kind>, revision: Revision, items: Vec<Shown>) -> Listing {
        Listing {
            kind: kind.clone(),
            revision,
            go_on: None,
            remaining: None,
            selection: Selection::default(),
            renewals: None,
            source: Source::Gathered(items),
        }
    }

    #[must_use]
    pub fn kind(&self) -> &Arc<Kind> {
        &self.kind
    }

    /// The `metadata` of the list.
    #[must_use]
    pub fn metadata(&self) -> Value {
        let mut metadata = serde_json::json!({"resourceVersion": self.revision.to_string()});
        if let Some(go_on) = &self.go_on {
            metadata["continue"] = go_on.as_str().into();
        }
        if let Some(remaining) = self.remaining {
            metadata["remainingItemCount"] = remaining.into();
        }
        metadata
    }

    /// What the JSON of the list is opened by, up to and including the bracket of its items.
    #[must_use]
    pub fn opening(&self) -> String {
        let (kind, version) = (&self.kind.list_kind, self.kind.group_version());
        let metadata = self.metadata();
        format!(
            "{{\"kind\":\"{kind}\",\"apiVersion\":\"{version}\",\"metadata\":{metadata},\"items\":["
        )
    }

    /// The next objects, at least one; `None` at the end.
    pub fn next_page(&mut self) -> Result<Option<Vec<Shown>>, Status> {
        match &mut self.source {
            Source::Gathered(items) => {
                Ok(Some(std::mem::take(items)).filter(|items| !items.is_empty()))
            }
            Source::Rest(pages) => {
                while let Some(page) = pages.next_page(PAGE_BYTES).map_err(objects::stored)? {
                    let renewals = self.renewals.as_ref();
                    let show = |object| match renewals {
                        Some(renewals) => renewals.show(object),
                        None => object,
                    };
                    let objects = page.into_iter().map(Object::from).map(show);
                    let items = select(&self.kind, &self.selection, objects)?;
                    if !items.is_empty() {
                        return Ok(Some(items));
                    }
                }
                Ok(None)
            }
        }
    }

    /// The whole as JSON, for who is in this process.
    pub fn json(mut self) -> Result<Bytes, Status> {
        let mut out = self.opening().into_bytes();
        let mut first = true;
        while let Some(page) = self.next_page()? {
            for item in page {
                if !std::mem::take(&mut first) {
                    out.push(b',');
                }
                item.write_item(&mut out)?;
            }
        }
        out.extend_from_slice(b"]}");
        Ok(out.into())
    }
}

/// Those of `objects` that are meant, as the row shows them.
pub(super) fn select(
    kind: &Arc<Kind>,
    selection: &Selection,
    objects: impl Iterator<Item = Object>,
) -> Result<Vec<Shown>, Status> {
    let mut items = Vec::new();
    for object in objects {
        let shown = Shown::new(kind, object)?;
        if selection.selects(&shown)? {
            items.push(shown);
        }
    }
    Ok(items)
}

/// At which moment a list is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    /// Not older than the request.
    Newest,
    Any,
    NotBefore(Revision),
    Exactly(Revision),
}

/// What of the range is read, and when.
fn plan(options: &Options) -> Result<(Moment, Option<Token>), Status> {
    check_list(options)?;
    let version = read_version(options.resource_version.as_deref())?;
    if let Some(text) = options.go_on.as_deref().filter(|it| !it.is_empty()) {
        if matches!(version, Version::At(_)) {
            return Err(Status::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        let token = Token::read(text)?;
        return Ok((token.revision.map_or(Moment::Newest, Moment::Exactly), Some(token)));
    }
    let exact = options.resource_version_match.as_deref() == Some("Exact");
    let unsaid = options.resource_version_match.as_deref().unwrap_or_default().is_empty();
    let has_limit = options.limit.is_some_and(|limit| limit > 0);
    let moment = match version {
        Version::Unset => Moment::Newest,
        Version::Any => Moment::Any,
        Version::At(revision) if exact || (unsaid && has_limit) => Moment::Exactly(revision),
        Version::At(revision) => Moment::NotBefore(revision),
    };
    Ok((moment, None))
}

impl Road {
    pub(super) async fn list(&self, target: &Target, request: &Request) -> Result<Reply, Status> {
        let (moment, token) = plan(&request.options)?;
        let selection = Selection::read(&target.kind, &request.options)?;
        match moment {
            Moment::Newest => self.objects.barrier().await?,
            Moment::Any => {}
            Moment::NotBefore(revision) | Moment::Exactly(revision) => self.reach(revision).await?,
        }
        let view = self.objects.view();
        let prefix = prefix(target);
        let at = match moment {
            Moment::Exactly(revision) if revision < view.compacted() => {
                return Err(forgotten(token));
            }
            Moment::Exactly(revision) => revision,
            _ => Revision::ZERO,
        };
        let revision = if at == Revision::ZERO { view.revision() } else { at };
        let range = match &token {
            Some(token) => from(&prefix, &token.start),
            None => narrow(target, &selection),
        };
        let limit = request.options.limit.unwrap_or(0);
        let (kind, renewals) = (&target.kind, &self.renewals);
        let asked = Asked { kind, selection, renewals, prefix, range, at, revision };
        let listing = if limit == 0 {
            asked.all(&view)
        } else {
            // A compaction may have overtaken it since its moment was looked at.
            let some = asked.some(&view, limit, token.as_ref().and_then(|token| token.left));
            some.map_err(|it| if it.is(Reason::Expired) { forgotten(token) } else { it })?
        };
        Ok(Reply::list(listing))
    }
}

/// What all keys of the list begin with.
fn prefix(target: &Target) -> String {
    let mut prefix = key::of_resource(&target.kind.stored);
    if !target.namespace.is_empty() {
        prefix.push_str(&target.namespace);
        prefix.push('/');
    }
    prefix
}

/// The keys that can be meant: one, where the selector names it.
pub(super) fn narrow(target: &Target, selection: &Selection) -> KeyRange {
    let kind = &target.kind;
    let name = selection.fields.exactly("metadata.name");
    match name {
        Some(name) if !name.is_empty() && (!kind.namespaced || !target.namespace.is_empty()) => {
            KeyRange::One(key::of_object(&kind.stored, &target.namespace, name))
        }
        _ => key::range(&kind.stored, Some(&target.namespace)),
    }
}

/// The part of the list that begins with `start`.
fn from(prefix: &str, start: &str) -> KeyRange {
    let start = start.strip_prefix('/').unwrap_or(start);
    match KeyRange::prefix(prefix.to_owned()) {
        KeyRange::Between { end, .. } => {
            KeyRange::Between { start: format!("{prefix}{start}").into(), end }
        }
        other => other,
    }
}

fn forgotten(token: Option<Token>) -> Status {
    match token {
        Some(token) => {
            let token = Token { revision: None, left: None, ..token };
            Status::new(Reason::Expired, TOO_OLD_TO_GO_ON).with_continue(token.write())
        }
        None => Status::expired("The resourceVersion for the provided list is too old."),
    }
}

struct Asked<'a> {
    kind: &'a Arc<Kind>,
    selection: Selection,
    renewals: &'a Renewals,
    prefix: String,
    range: KeyRange,
    at: Revision,
    revision: Revision,
}

impl Asked<'_> {
    fn all(self, view: &View) -> Listing {
        let pages = view.pages(Range { revision: self.at, ..Range::new(self.range) });
        Listing {
            kind: self.kind.clone(),
            revision: self.revision,
            go_on: None,
            remaining: None,
            selection: self.selection,
            renewals: Some(self.renewals.clone()),
            source: Source::Rest(Box::new(pages)),
        }
    }

    /// At most `limit` objects, and how the list goes on. `left`: how many there are, if that is known.
    fn some(self, view: &View, limit: u64, left: Option<u64>) -> Result<Listing, Status> {
        let everything = self.selection.is_everything();
        let range = Range {
            revision: self.at,
            // A selector passes over objects, so how many to read is not known.
            limit: if everything { limit } else { 0 },
            ..Range::new(self.range.clone())
        };
        let mut pages = view.pages(range);
        if left.is_some() {
            pages = pages.without_total();
        }
        let mut items: Vec<Shown> = Vec::new();
        let mut bytes = 0;
        let mut read = 0;
        // Behind which key the rest begins, if there is any.
        let mut stopped: Option<Bytes> = None;
        'reading: while let Some(page) = pages.next_page(PAGE_BYTES).map_err(objects::stored)? {
            for kv in page {
                if items.len() as u64 == limit || bytes >= GATHERED_BYTES_MAX {
                    stopped = items.last().map(|item| item.stored().key().clone());
                    break 'reading;
                }
                read += 1;
                let weight = kv.key.len() + kv.value.len();
                let object = self.renewals.show(Object::from(kv));
                let found = select(self.kind, &self.selection, [object].into_iter())?;
                bytes += if found.is_empty() { 0 } else { weight };
                items.extend(found);
            }
        }
        let mut remaining = None;
        if everything && stopped.is_none() {
            let (count, more) = pages.totals().map_err(objects::stored)?;
            if more {
                stopped = items.last().map(|item| item.stored().key().clone());
                // Who changes a token is told what is in it, and never that nothing is left of more.
                remaining =
                    left.unwrap_or(count).checked_sub(read).filter(|remaining| *remaining > 0);
            }
        }
        let go_on = stopped.map(|key| {
            let rest = key.strip_prefix(self.prefix.as_bytes()).unwrap_or(&key);
            let start = format!("{}\0", String::from_utf8_lossy(rest));
            Token { revision: Some(self.revision), start, left: remaining }.write()
        });
        Ok(Listing {
            kind: self.kind.clone(),
            revision: self.revision,
            go_on,
            remaining,
            selection: self.selection,
            renewals: None,
            source: Source::Gathered(items),
        })
    }
}
