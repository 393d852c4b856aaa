//! Streams to nodes: what can be wanted of a node, and what one gets.
//!
//! The REST front decides what is wanted ([`wire::Want`]) and gets a stream of bytes; who carries it there is
//! behind [`Nodes`]. The messages are those of `proto/node/node.proto`, so what was decided on a master is what
//! an agent reads.
//!
//! Never: names of objects that were not looked up, or options that were not checked.

pub mod anyone;
mod want;

pub use want::want;

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::error::{Reason, Status};

/// The messages of the node protocol.
pub mod wire {
    #![allow(clippy::all, reason = "made by the compiler of the proto")]
    tonic::include_proto!("kontiki.node.v1");
}

/// Bytes both ways, each way with its own flow control.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A tunnel that is open. Dropping it closes it.
pub struct Tunnel {
    /// Which of the protocols wanted the node agreed on; empty where none was.
    pub protocol: String,
    pub bytes: Box<dyn Duplex>,
}

/// Whoever can reach nodes.
pub trait Nodes: Send + Sync {
    /// Opens a tunnel to a node, wherever its session is.
    fn open<'a>(&'a self, node: &'a str, want: wire::Want)
    -> BoxFuture<'a, Result<Tunnel, Status>>;
}

impl From<Status> for wire::Refused {
    fn from(status: Status) -> wire::Refused {
        let reason = serde_json::to_value(status.reason());
        let reason = reason.ok().and_then(|it| it.as_str().map(str::to_owned));
        wire::Refused {
            key: bytes::Bytes::new(),
            code: status.code().into(),
            reason: reason.unwrap_or_default(),
            message: status.message().into(),
        }
    }
}

impl From<wire::Refused> for Status {
    fn from(refused: wire::Refused) -> Status {
        let reason = serde_json::from_value(refused.reason.into()).unwrap_or(Reason::Unknown);
        let status = Status::new(reason, refused.message);
        match u16::try_from(refused.code) {
            Ok(code @ 400..=599) => status.with_code(code),
            _ => status.with_code(500),
        }
    }
}
