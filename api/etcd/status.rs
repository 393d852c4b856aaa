//! Every refusal in the code and the words that etcd's clients know it by.
//!
//! clientv3 finds its errors by the whole message, so these are wire facts. What has no counterpart in
//! etcd keeps our own words.

use kontiki_raft::error::{Error, MembershipError};
use kontiki_storage::Error as StoreError;
use tonic::{Code, Status};

macro_rules! refusals {
    ($($name:ident = $code:ident, $text:literal;)*) => {
        $(
            pub(crate) fn $name() -> Status {
                Status::new(Code::$code, concat!("etcdserver: ", $text))
            }
        )*
    };
}

refusals! {
    empty_key = InvalidArgument, "key is not provided";
    key_not_found = InvalidArgument, "key not found";
    value_provided = InvalidArgument, "value is provided";
    lease_provided = InvalidArgument, "lease is provided";
    too_many_operations = InvalidArgument, "too many operations in txn request";
    duplicate_key = InvalidArgument, "duplicate key given in txn request";
    invalid_sort = InvalidArgument, "invalid sort option";
    request_too_large = InvalidArgument, "request is too large";
    bad_urls = InvalidArgument, "given member URLs are invalid";
    reserved_key = InvalidArgument, "key is reserved for the server itself";
    invalid_compare = InvalidArgument, "invalid compare target or result";

    compacted = OutOfRange, "mvcc: required revision has been compacted";
    future_revision = OutOfRange, "mvcc: required revision is a future revision";
    lease_ttl_too_large = OutOfRange, "too large lease TTL";
    no_space = ResourceExhausted, "mvcc: database space exceeded";
    too_many_requests = ResourceExhausted, "too many requests";
    lease_not_found = NotFound, "requested lease not found";
    member_not_found = NotFound, "member not found";
    lease_exists = FailedPrecondition, "lease already exists";

    member_exists = FailedPrecondition, "member ID already exist";
    peer_url_exists = FailedPrecondition, "Peer URLs already exists";
    not_enough_started =
        FailedPrecondition, "re-configuration failed due to not enough started members";
    member_not_learner = FailedPrecondition, "can only promote a learner member";
    learner_not_ready =
        FailedPrecondition, "can only promote a learner member which is in sync with leader";
    too_many_learners = FailedPrecondition, "too many learner members in cluster";
    not_for_learners = FailedPrecondition, "rpc not supported for learner";
    bad_transferee = FailedPrecondition, "bad leader transferee";
    not_leader = FailedPrecondition, "not leader";

    root_user_missing = FailedPrecondition, "root user does not exist";
    root_role_missing = FailedPrecondition, "root user does not have root role";
    user_exists = FailedPrecondition, "user name already exists";
    user_empty = InvalidArgument, "user name is empty";
    user_not_found = FailedPrecondition, "user name not found";
    role_exists = FailedPrecondition, "role name already exists";
    role_empty = InvalidArgument, "role name is empty";
    role_not_found = FailedPrecondition, "role name not found";
    role_not_granted = FailedPrecondition, "role is not granted to the user";
    permission_not_granted = FailedPrecondition, "permission is not granted to the role";
    permission_not_given = InvalidArgument, "permission not given";
    permission_denied = PermissionDenied, "permission denied";
    auth_failed = InvalidArgument, "authentication failed, invalid user ID or password";
    auth_not_enabled = FailedPrecondition, "authentication is not enabled";
    invalid_auth_token = Unauthenticated, "invalid auth token";
    invalid_auth_management = InvalidArgument, "invalid auth management";
    auth_old_revision = InvalidArgument, "revision of auth store is old";

    no_leader = Unavailable, "no leader";
    stopped = Unavailable, "server stopped";
    timed_out = Unavailable, "request timed out";
    unhealthy = Unavailable, "unhealthy cluster";
    corrupt = DataLoss, "corrupt cluster";

    wrong_downgrade_format = InvalidArgument, "wrong downgrade target version format";
    invalid_downgrade_target = InvalidArgument, "invalid downgrade target version";
    no_downgrade = FailedPrecondition, "no inflight downgrade job";
}

pub(crate) fn of(error: Error) -> Status {
    match error {
        Error::Store(error) => of_store(error),
        Error::NoLeader(_) => no_leader(),
        // It may have been carried out: the client is told what etcd tells it then.
        Error::Unknown(_) | Error::ReadTimeout(_) => timed_out(),
        Error::Overloaded { .. } => too_many_requests(),
        Error::TooLarge { .. } => request_too_large(),
        Error::Membership(error) => of_membership(error),
        Error::Stopped(_) => stopped(),
        directory @ Error::Directory { .. } => Status::internal(directory.to_string()),
    }
}

pub(crate) fn of_store(error: StoreError) -> Status {
    match error {
        StoreError::EmptyKey => empty_key(),
        StoreError::TooManyOperations { .. } => too_many_operations(),
        StoreError::DuplicateKey => duplicate_key(),
        StoreError::ValueProvided => value_provided(),
        StoreError::LeaseProvided => lease_provided(),
        StoreError::LeaseTtlTooLarge { .. } => lease_ttl_too_large(),
        StoreError::Compacted { .. } => compacted(),
        StoreError::Future { .. } => future_revision(),
        StoreError::KeyNotFound => key_not_found(),
        StoreError::LeaseNotFound(_) => lease_not_found(),
        StoreError::LeaseExists(_) => lease_exists(),
        StoreError::ConditionFailed => auth_old_revision(),
        StoreError::NoSpace { .. } => no_space(),
        StoreError::Damaged(_) => corrupt(),
        other => Status::internal(other.to_string()),
    }
}

fn of_membership(error: MembershipError) -> Status {
    match error {
        MembershipError::NotFound(_) | MembershipError::Removed(_) => member_not_found(),
        MembershipError::Exists(_) => member_exists(),
        MembershipError::AddressTaken(_) => peer_url_exists(),
        MembershipError::NotLearner(_) => member_not_learner(),
        MembershipError::NotCaughtUp { .. } => learner_not_ready(),
        MembershipError::TooManyLearners(_) => too_many_learners(),
        MembershipError::LosesQuorum { .. } => not_enough_started(),
        MembershipError::BadTransferee(_) => bad_transferee(),
        MembershipError::InProgress => unhealthy(),
        other => Status::failed_precondition(format!("etcdserver: {other}")),
    }
}
