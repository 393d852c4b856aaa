//! PUT: the object in the place of the one that is there, and for some kinds where none is.

use parking_lot::Mutex;

use super::Road;
use super::body;
use super::change::{Edit, Made, Scope, Writer, making};
use super::fields::Track;
use super::options::WriteOptions;
use super::reply::Reply;
use super::target::Target;
use crate::error::Status;
use crate::object::meta;
use crate::request::{Request, User};

impl Road {
    pub(super) async fn update(
        &self,
        who: &User,
        target: Target,
        request: Request,
    ) -> Result<Reply, Status> {
        let scope = Scope::Whole;
        self.replace(who, target, request, scope).await
    }

    /// An update of the part that `scope` lets through.
    pub(super) async fn replace(
        &self,
        who: &User,
        target: Target,
        request: Request,
        scope: Scope,
    ) -> Result<Reply, Status> {
        let options = WriteOptions::read("UpdateOptions", &request, self.clock.now())?;
        let decoded = body::decode(&target.kind, &request.body, options.validation)?;
        let name = meta::name(&decoded.value);
        if name != target.name {
            return Err(Status::bad_request(if name.is_empty() {
                "name is required on the object to be updated".to_owned()
            } else {
                format!(
                    "the name of the object ({name}) does not match the name on the URL ({})",
                    target.name
                )
            }));
        }
        let creates = target.kind.create_on_update && matches!(scope, Scope::Whole);
        // Few are made twice: those are decoded again, and no copy is made for the others.
        let first = Mutex::new(Some(decoded));
        let made = || -> Result<Made, Status> {
            let decoded = match first.lock().take() {
                Some(decoded) => decoded,
                None => body::decode(&target.kind, &request.body, options.validation)?,
            };
            let body::Decoded { value, warnings } = decoded;
            Ok(Made { value, warnings, track: Track::Update })
        };
        let make = making(|_| Box::pin(std::future::ready(made())));
        let create = || {
            self.permit_verb(who, &request, "create")?;
            let mut made = made()?;
            if !meta::uid(&made.value).is_empty() {
                let why = format!(
                    "Precondition failed: UID in precondition: {}, UID in object meta: ",
                    meta::uid(&made.value)
                );
                return Err(Status::conflict(&target.kind.group_resource(), &target.name, &why));
            }
            meta::unset(&mut made.value, "resourceVersion");
            Ok(made)
        };
        let edit = Edit {
            make: &make,
            create: if creates { Some(&create) } else { None },
            scope,
            admits: true,
        };
        let mut writer =
            Writer { road: self, who, target: &target, options: &options, warnings: Vec::new() };
        writer.edit(&edit).await
    }
}
