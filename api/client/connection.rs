//! An HTTP/2 connection over TLS to one server.
//!
//! Keeps: a server that does not answer pings is gone. The connection lasts as long as somebody holds a sender
//! or an answer.

use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use http_body::Body;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

const CONNECT_WAIT_MAX: Duration = Duration::from_secs(10);
/// Who has not answered a ping by then is gone.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_WAIT_MAX: Duration = Duration::from_secs(15);

/// How much may be on its way to us that we have not read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Windows {
    pub stream_bytes: u32,
    pub connection_bytes: u32,
}

/// A server by its URL.
pub(crate) struct Server {
    pub authority: String,
    host: String,
    port: u16,
}

impl Server {
    /// `url` is `https://HOST:PORT`.
    pub fn parse(url: &str) -> Result<Server, String> {
        let shape = || format!("{url:?} is no server; give https://HOST:PORT");
        let uri: Uri = url.parse().map_err(|_| shape())?;
        let (Some("https"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(shape());
        };
        Ok(Server {
            authority: authority.to_string(),
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(6443),
        })
    }
}

/// Connects. `tls` has to offer `h2` alone.
pub(crate) async fn open<B>(
    server: &Server,
    tls: &Arc<ClientConfig>,
    windows: Windows,
) -> Result<SendRequest<B>, String>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let opening = timeout(CONNECT_WAIT_MAX, connect(server, tls, windows)).await;
    opening.unwrap_or_else(|_| Err("no connection in time".into()))
}

async fn connect<B>(
    server: &Server,
    tls: &Arc<ClientConfig>,
    windows: Windows,
) -> Result<SendRequest<B>, String>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let said = |error: &dyn std::fmt::Display| error.to_string();
    let name = ServerName::try_from(server.host.clone()).map_err(|error| said(&error))?;
    let stream = TcpStream::connect((server.host.as_str(), server.port)).await;
    let stream = stream.map_err(|error| said(&error))?;
    stream.set_nodelay(true).map_err(|error| said(&error))?;
    let tls = TlsConnector::from(tls.clone()).connect(name, stream).await;
    let tls = tls.map_err(|error| said(&error))?;
    let (sender, connection) = Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_WAIT_MAX)
        .initial_stream_window_size(windows.stream_bytes)
        .initial_connection_window_size(windows.connection_bytes)
        .handshake(TokioIo::new(tls))
        .await
        .map_err(|error| said(&error))?;
    // Ends with the connection, which ends when nobody holds a sender or an answer any more.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to an API server ended");
        }
    });
    Ok(sender)
}
