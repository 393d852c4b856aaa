//! The same services over JSON, as etcd's gateway serves them: POST, bytes in base64, 64-bit numbers as
//! strings, fields under their names in the protos.
//!
//! Nothing here knows a message. A path leads to a method of the descriptors; the body becomes a message
//! by them, goes to the service as a gRPC request within the process, and the answer comes back the same
//! way. So what holds over gRPC holds here: authentication, limits, refusals.
//!
//! Keeps: a body, and each object of a streamed one, has a bound. A streamed answer is written object by
//! object as it comes, and nothing more of it is asked for than the client takes.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, BodyDataStream};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::stream::{self, Stream, StreamExt};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::BodyExt;
use prost::Message;
use prost_reflect::{
    DescriptorPool, DynamicMessage, MessageDescriptor, MethodDescriptor, SerializeOptions,
};
use tonic::{Code, Status};
use tower::ServiceExt;

use super::wire::DESCRIPTORS;

/// Where each method is found. Methods that are missing are only served over gRPC.
const PATHS: &[(&str, &str)] = &[
    ("/v3/kv/range", "etcdserverpb.KV/Range"),
    ("/v3/kv/put", "etcdserverpb.KV/Put"),
    ("/v3/kv/deleterange", "etcdserverpb.KV/DeleteRange"),
    ("/v3/kv/txn", "etcdserverpb.KV/Txn"),
    ("/v3/kv/compaction", "etcdserverpb.KV/Compact"),
    ("/v3/watch", "etcdserverpb.Watch/Watch"),
    ("/v3/lease/grant", "etcdserverpb.Lease/LeaseGrant"),
    ("/v3/lease/revoke", "etcdserverpb.Lease/LeaseRevoke"),
    ("/v3/kv/lease/revoke", "etcdserverpb.Lease/LeaseRevoke"),
    ("/v3/lease/keepalive", "etcdserverpb.Lease/LeaseKeepAlive"),
    ("/v3/lease/timetolive", "etcdserverpb.Lease/LeaseTimeToLive"),
    ("/v3/kv/lease/timetolive", "etcdserverpb.Lease/LeaseTimeToLive"),
    ("/v3/lease/leases", "etcdserverpb.Lease/LeaseLeases"),
    ("/v3/kv/lease/leases", "etcdserverpb.Lease/LeaseLeases"),
    ("/v3/cluster/member/add", "etcdserverpb.Cluster/MemberAdd"),
    ("/v3/cluster/member/remove", "etcdserverpb.Cluster/MemberRemove"),
    ("/v3/cluster/member/update", "etcdserverpb.Cluster/MemberUpdate"),
    ("/v3/cluster/member/list", "etcdserverpb.Cluster/MemberList"),
    ("/v3/cluster/member/promote", "etcdserverpb.Cluster/MemberPromote"),
    ("/v3/maintenance/alarm", "etcdserverpb.Maintenance/Alarm"),
    ("/v3/maintenance/status", "etcdserverpb.Maintenance/Status"),
    ("/v3/maintenance/defragment", "etcdserverpb.Maintenance/Defragment"),
    ("/v3/maintenance/hash", "etcdserverpb.Maintenance/Hash"),
    ("/v3/maintenance/hashkv", "etcdserverpb.Maintenance/HashKV"),
    ("/v3/maintenance/snapshot", "etcdserverpb.Maintenance/Snapshot"),
    ("/v3/maintenance/transfer-leadership", "etcdserverpb.Maintenance/MoveLeader"),
    ("/v3/maintenance/downgrade", "etcdserverpb.Maintenance/Downgrade"),
    ("/v3/auth/enable", "etcdserverpb.Auth/AuthEnable"),
    ("/v3/auth/disable", "etcdserverpb.Auth/AuthDisable"),
    ("/v3/auth/status", "etcdserverpb.Auth/AuthStatus"),
    ("/v3/auth/authenticate", "etcdserverpb.Auth/Authenticate"),
    ("/v3/auth/user/add", "etcdserverpb.Auth/UserAdd"),
    ("/v3/auth/user/get", "etcdserverpb.Auth/UserGet"),
    ("/v3/auth/user/list", "etcdserverpb.Auth/UserList"),
    ("/v3/auth/user/delete", "etcdserverpb.Auth/UserDelete"),
    ("/v3/auth/user/changepw", "etcdserverpb.Auth/UserChangePassword"),
    ("/v3/auth/user/grant", "etcdserverpb.Auth/UserGrantRole"),
    ("/v3/auth/user/revoke", "etcdserverpb.Auth/UserRevokeRole"),
    ("/v3/auth/role/add", "etcdserverpb.Auth/RoleAdd"),
    ("/v3/auth/role/get", "etcdserverpb.Auth/RoleGet"),
    ("/v3/auth/role/list", "etcdserverpb.Auth/RoleList"),
    ("/v3/auth/role/delete", "etcdserverpb.Auth/RoleDelete"),
    ("/v3/auth/role/grant", "etcdserverpb.Auth/RoleGrantPermission"),
    ("/v3/auth/role/revoke", "etcdserverpb.Auth/RoleRevokePermission"),
    ("/v3/lock/lock", "v3lockpb.Lock/Lock"),
    ("/v3/lock/unlock", "v3lockpb.Lock/Unlock"),
    ("/v3/election/campaign", "v3electionpb.Election/Campaign"),
    ("/v3/election/proclaim", "v3electionpb.Election/Proclaim"),
    ("/v3/election/leader", "v3electionpb.Election/Leader"),
    ("/v3/election/observe", "v3electionpb.Election/Observe"),
    ("/v3/election/resign", "v3electionpb.Election/Resign"),
];

/// Headers of a request that the services know.
const PASSED_ON: &[&str] = &["authorization", "token", "hasleader", "client-api-version"];

#[derive(Clone)]
struct Gateway {
    grpc: Router,
    methods: Arc<HashMap<&'static str, MethodDescriptor>>,
    bytes_max: usize,
}

/// `grpc` serves what a path leads to. Base64 makes a body a third longer.
pub(crate) fn routes(grpc: Router, message_bytes_max: usize) -> Router {
    let pool = DescriptorPool::decode(DESCRIPTORS).expect("the build script made them");
    let methods = PATHS.iter().map(|(path, method)| {
        let (service, name) = method.split_once('/').expect("a service and a method");
        let service = pool.get_service_by_name(service).expect("the protos have the service");
        let method = service.methods().find(|method| method.name() == name);
        (*path, method.expect("the protos have the method"))
    });
    let gateway = Gateway {
        grpc,
        methods: Arc::new(methods.collect()),
        bytes_max: message_bytes_max / 3 * 4,
    };
    PATHS
        .iter()
        .fold(Router::new(), |router, (path, _)| router.route(path, post(serve)))
        .with_state(gateway)
}

async fn serve(State(gateway): State<Gateway>, request: Request) -> Response {
    let Some(method) = gateway.methods.get(request.uri().path()) else {
        return refused(&Status::unimplemented("there is nothing here"));
    };
    match transcode(&gateway, method, request).await {
        Ok(response) => response,
        Err(status) => refused(&status),
    }
}

async fn transcode(
    gateway: &Gateway,
    method: &MethodDescriptor,
    request: Request,
) -> Result<Response, Status> {
    let (head, body) = request.into_parts();
    let objects = Objects::new(body.into_data_stream(), gateway.bytes_max);
    let input = method.input();
    let body = if method.is_client_streaming() {
        // The request stays open after its last object, as etcd's does: what was asked for goes on.
        let frames = objects.map(move |object| frame(&input, &object?)).chain(stream::pending());
        Body::from_stream(frames)
    } else {
        let object = objects.only().await?;
        Body::from(frame(&input, &object)?)
    };
    let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
    let mut inner = http::Request::post(path)
        .version(http::Version::HTTP_2)
        .header(header::CONTENT_TYPE, "application/grpc")
        .header("te", "trailers");
    for name in PASSED_ON {
        if let Some(value) = head.headers.get(*name) {
            inner = inner.header(*name, value);
        }
    }
    let mut inner = inner.body(body).map_err(|error| Status::internal(error.to_string()))?;
    // Whose certificate it was is not passed on: etcd's gateway does not either, since such a request
    // can be made by a page in somebody's browser.
    if let Some(address) = head.extensions.get::<axum::extract::ConnectInfo<std::net::SocketAddr>>()
    {
        inner.extensions_mut().insert(*address);
    }
    let response = match gateway.grpc.clone().oneshot(inner).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    let answer = Answer::new(method.output(), response);
    if method.is_server_streaming() { answer.streamed().await } else { answer.whole().await }
}

/// A message made from JSON, as one frame of gRPC.
fn frame(descriptor: &MessageDescriptor, json: &[u8]) -> Result<Bytes, Status> {
    let mut from = serde_json::Deserializer::from_slice(json);
    let options = prost_reflect::DeserializeOptions::new().deny_unknown_fields(true);
    let message = DynamicMessage::deserialize_with_options(descriptor.clone(), &mut from, &options)
        .map_err(|error| Status::invalid_argument(error.to_string()))?;
    let bytes = message.encoded_len();
    let mut framed = BytesMut::with_capacity(5 + bytes);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(bytes).map_err(|_| super::status::request_too_large())?);
    message.encode(&mut framed).map_err(|error| Status::internal(error.to_string()))?;
    Ok(framed.freeze())
}

/// The JSON objects of a body, one after the other.
struct Objects {
    body: BodyDataStream,
    read: BytesMut,
    bytes_max: usize,
    ended: bool,
}

impl Objects {
    fn new(body: BodyDataStream, bytes_max: usize) -> Objects {
        Objects { body, read: BytesMut::new(), bytes_max, ended: false }
    }

    /// The one object of a body; an empty body is an empty object.
    async fn only(mut self) -> Result<Bytes, Status> {
        while self.more().await? {}
        let whitespace = self.read.iter().all(u8::is_ascii_whitespace);
        Ok(if whitespace { Bytes::from_static(b"{}") } else { self.read.freeze() })
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(object) = self.take()? {
                return Ok(Some(object));
            }
            if !self.more().await? {
                return match self.read.iter().all(u8::is_ascii_whitespace) {
                    true => Ok(None),
                    false => {
                        Err(Status::invalid_argument("the last object of the body is cut off"))
                    }
                };
            }
        }
    }

    /// The first object of what was read, if all of it is there.
    fn take(&mut self) -> Result<Option<Bytes>, Status> {
        let mut found = serde_json::Deserializer::from_slice(&self.read)
            .into_iter::<&serde_json::value::RawValue>();
        match found.next() {
            Some(Ok(_)) => {
                let end = found.byte_offset();
                Ok(Some(self.read.split_to(end).freeze()))
            }
            Some(Err(error)) if !error.is_eof() => Err(Status::invalid_argument(error.to_string())),
            Some(Err(_)) | None => Ok(None),
        }
    }

    /// Reads on; false at the end.
    async fn more(&mut self) -> Result<bool, Status> {
        if self.ended {
            return Ok(false);
        }
        match self.body.next().await {
            Some(Ok(bytes)) if self.read.len() + bytes.len() > self.bytes_max => {
                Err(super::status::request_too_large())
            }
            Some(Ok(bytes)) => {
                self.read.extend_from_slice(&bytes);
                Ok(true)
            }
            Some(Err(error)) => Err(Status::cancelled(error.to_string())),
            None => {
                self.ended = true;
                Ok(false)
            }
        }
    }

    fn map<T>(
        self,
        each: impl Fn(Result<Bytes, Status>) -> Result<T, Status>,
    ) -> impl Stream<Item = Result<T, Status>> {
        stream::unfold((self, each, false), |(mut objects, each, failed)| async move {
            if failed {
                return None;
            }
            let object = objects.next().await.transpose()?;
            let failed = object.is_err();
            Some((each(object), (objects, each, failed)))
        })
    }
}

/// What a service answers, on its way to JSON.
struct Answer {
    descriptor: MessageDescriptor,
    headers: HeaderMap,
    body: Body,
    read: BytesMut,
    trailers: Option<HeaderMap>,
}

impl Answer {
    fn new(descriptor: MessageDescriptor, response: Response) -> Answer {
        let (head, body) = response.into_parts();
        Answer { descriptor, headers: head.headers, body, read: BytesMut::new(), trailers: None }
    }

    async fn whole(mut self) -> Result<Response, Status> {
        let message = self.next().await?;
        let message = message.ok_or_else(|| Status::internal("an answer without a message"))?;
        let body = Body::from(json(&message)?);
        // The trailers say whether that was all there was to say.
        while self.next().await?.is_some() {}
        Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
    }

    async fn streamed(mut self) -> Result<Response, Status> {
        // What is refused at once is refused with a code of its own.
        let first = self.next().await?;
        let state = (first, self, false);
        let lines = stream::unfold(state, |(held, mut answer, ended)| async move {
            if ended {
                return None;
            }
            let next = match held {
                Some(message) => Ok(Some(message)),
                None => answer.next().await,
            };
            let (line, ended) = match next {
                Ok(None) => return None,
                Ok(Some(message)) => match json(&message) {
                    Ok(json) => ([b"{\"result\":", json.as_slice(), b"}\n"].concat(), false),
                    Err(status) => (error_line(&status), true),
                },
                Err(status) => (error_line(&status), true),
            };
            Some((Ok::<_, std::convert::Infallible>(Bytes::from(line)), (None, answer, ended)))
        });
        let body = Body::from_stream(lines);
        Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
    }

    /// The next message; `None` after the last, if the call went well.
    async fn next(&mut self) -> Result<Option<DynamicMessage>, Status> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => self.read.extend_from_slice(&bytes),
                    Err(frame) => self.trailers = frame.into_trailers().ok(),
                },
                Some(Err(error)) => return Err(Status::internal(error.to_string())),
                None => {
                    let trailers = self.trailers.as_ref().unwrap_or(&self.headers);
                    return match Status::from_header_map(trailers) {
                        Some(status) if status.code() != Code::Ok => Err(status),
                        _ => Ok(None),
                    };
                }
            }
        }
    }

    fn take(&mut self) -> Result<Option<DynamicMessage>, Status> {
        if self.read.len() < 5 {
            return Ok(None);
        }
        let bytes = u32::from_be_bytes(self.read[1..5].try_into().expect("four bytes")) as usize;
        if self.read.len() < 5 + bytes {
            return Ok(None);
        }
        self.read.advance(5);
        let message = self.read.split_to(bytes).freeze();
        let message = DynamicMessage::decode(self.descriptor.clone(), message);
        message.map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}

fn json(message: &DynamicMessage) -> Result<Vec<u8>, Status> {
    let options = SerializeOptions::new().use_proto_field_name(true);
    let mut out = serde_json::Serializer::new(Vec::new());
    message
        .serialize_with_options(&mut out, &options)
        .map_err(|error| Status::internal(error.to_string()))?;
    Ok(out.into_inner())
}

/// A refusal as etcd's gateway writes it.
fn refused(status: &Status) -> Response {
    let body = serde_json::json!({
        "error": status.message(),
        "code": status.code() as i32,
        "message": status.message(),
    });
    let mut response = (http_code(status.code()), body.to_string()).into_response();
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn error_line(status: &Status) -> Vec<u8> {
    let error = serde_json::json!({
        "error": {
            "grpc_code": status.code() as i32,
            "http_code": http_code(status.code()).as_u16(),
            "message": status.message(),
        }
    });
    format!("{error}\n").into_bytes()
}

fn http_code(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => {
            StatusCode::BAD_REQUEST
        }
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
