//! The end of many objects, each as if it had been deleted by itself.

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};

use super::Road;
use super::delete::DeleteOptions;
use super::list::{Listing, narrow, select};
use super::options::{Selection, check_list};
use super::reply::Reply;
use super::shown::Shown;
use super::target::Target;
use crate::error::{Reason, Status};
use crate::object::meta;
use crate::objects::{self, Object};
use crate::request::{Request, User};
use kontiki_storage::request::Range;

/// Deletes that are under way at a time.
const AT_A_TIME: usize = 16;
/// How much is read at a time.
const PAGE_BYTES: usize = 1 << 20;

impl Road {
    pub(super) async fn delete_collection(
        &self,
        who: &User,
        target: Target,
        request: Request,
    ) -> Result<Reply, Status> {
        let options = DeleteOptions::of(&request)?;
        check_list(&request.options)?;
        let selection = Selection::read(&target.kind, &request.options)?;
        self.objects.barrier().await?;
        let view = self.objects.view();
        let revision = view.revision();
        let limit = request.options.limit.filter(|it| *it > 0).unwrap_or(u64::MAX);
        let mut pages = view.pages(Range::new(narrow(&target, &selection)));
        let mut deleted: Vec<Shown> = Vec::new();
        while let Some(page) = pages.next_page(PAGE_BYTES).map_err(objects::stored)? {
            let mut items = select(&target.kind, &selection, page.into_iter().map(Object::from))?;
            items.truncate(usize::try_from(limit).unwrap_or(usize::MAX) - deleted.len());
            let each: Vec<BoxFuture<'_, Result<(), Status>>> = items
                .iter()
                .map(|item| self.delete_item(who, &target, &options, item).boxed())
                .collect();
            stream::iter(each).buffer_unordered(AT_A_TIME).try_collect::<Vec<()>>().await?;
            deleted.append(&mut items);
            if deleted.len() as u64 >= limit {
                break;
            }
        }
        let listing = Listing::of(&target.kind, revision, deleted);
        Ok(Reply::list(listing))
    }

    async fn delete_item(
        &self,
        who: &User,
        target: &Target,
        options: &DeleteOptions,
        item: &Shown,
    ) -> Result<(), Status> {
        let value = item.value()?;
        let one = Target {
            namespace: meta::namespace(value).to_owned(),
            name: meta::name(value).to_owned(),
            ..target.clone()
        };
        match self.delete_one(who, &one, options).await {
            Ok(_) => Ok(()),
            // Somebody else was quicker: it is gone, as was asked.
            Err(status) if status.is(Reason::NotFound) => Ok(()),
            Err(status) => Err(status),
        }
    }
}
