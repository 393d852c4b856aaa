//! `serviceaccounts/token`: a token for an account, made by who holds the keys.

use super::Road;
use super::body;
use super::change::Writer;
use super::options::WriteOptions;
use super::reply::Reply;
use super::target::Target;
use crate::admission::Operation;
use crate::error::Status;
use crate::object::meta;
use crate::request::{Request, User};

pub(super) async fn token(
    road: &Road,
    who: &User,
    target: &Target,
    request: &Request,
) -> Result<Reply, Status> {
    let options = WriteOptions::read("CreateOptions", request, road.clock.now())?;
    let mut wanted = body::TOKEN_REQUEST.decode(&request.body)?;
    let named = meta::name(&wanted);
    if !named.is_empty() && named != target.name {
        return Err(Status::bad_request(format!(
            "the name of the object ({named}) does not match the name on the URL ({})",
            target.name
        )));
    }
    meta::set(&mut wanted, "name", target.name.clone());
    meta::set(&mut wanted, "namespace", target.namespace.clone());
    road.objects.barrier().await?;
    let account = target.stored(road)?.ok_or_else(|| target.not_found())?;
    let asking = Writer { road, who, target, options: &options, warnings: Vec::new() };
    let mut attempt = asking.attempt(Operation::Create, None);
    attempt.object = Some(wanted);
    road.admission.mutate(&mut attempt).await?;
    road.admission.validate(&mut attempt).await?;
    let wanted = attempt.object.take().unwrap_or_default();
    let warnings = std::mem::take(&mut attempt.warnings);
    let mut issued = road.tokens.issue(who, account.value()?, wanted).await?;
    meta::set(&mut issued, "creationTimestamp", options.now.rfc3339());
    Ok(Reply::value(201, issued, warnings))
}
