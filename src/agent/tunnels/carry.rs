//! One tunnel, from its order to its end: bytes of the end that was wanted, over a stream of the session's
//! connection.
//!
//! Keeps: all that an end has said reaches the master, also when the end takes nothing more. A master that
//! ends a tunnel ends both ways.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, future, stream};
use kontiki_api::node::{Channel, pipe};
use kontiki_api::tunnel::wire::node_client::NodeClient;
use kontiki_api::tunnel::wire::{FromTunnel, Open, Opened, Piece, Refused, from_tunnel};
use kontiki_api::tunnel::{Duplex, Tunnel};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::time::timeout;

use super::Ends;

/// Until the master has taken the last piece and says so.
const LAST_WAIT_MAX: Duration = Duration::from_secs(30);

/// Carries out an order.
pub async fn order(client: NodeClient<Channel>, order: Open, ends: Ends) {
    let Open { key, want } = order;
    let carried = match ends.open(want.unwrap_or_default()).await {
        Ok(tunnel) => carry(client, key, tunnel).await,
        Err(status) => refuse(client, from_tunnel::Message::Refused(refusal(key, status))).await,
    };
    if let Err(error) = carried {
        tracing::debug!(%error, "a tunnel broke");
    }
}

/// What a refusal needs to be known by.
fn refusal(key: Bytes, status: kontiki_api::Status) -> Refused {
    Refused { key, ..status.into() }
}

fn message(message: from_tunnel::Message) -> FromTunnel {
    FromTunnel { message: Some(message) }
}

async fn refuse(mut client: NodeClient<Channel>, refused: from_tunnel::Message) -> io::Result<()> {
    let said = stream::once(future::ready(message(refused)));
    client.tunnel(said).await.map(drop).map_err(io::Error::other)
}

async fn carry(mut client: NodeClient<Channel>, key: Bytes, tunnel: Tunnel) -> io::Result<()> {
    let Tunnel { protocol, bytes } = tunnel;
    let (out, pieces) = pipe::queue();
    let first = message(from_tunnel::Message::Opened(Opened { key, protocol }));
    let data = |data| message(from_tunnel::Message::Data(data));
    let said = stream::once(future::ready(first)).chain(pipe::queued(pieces).map(data));
    let answers = client.tunnel(said).await.map_err(io::Error::other)?.into_inner();
    let arriving = pipe::arriving(answers, |piece: Piece| piece.data, pipe::Ended::default());
    relay(bytes, pipe::duplex(arriving, out)).await
}

async fn relay(end: Box<dyn Duplex>, master: Box<dyn Duplex>) -> io::Result<()> {
    let (mut from_end, to_end) = tokio::io::split(end);
    let (mut from_master, mut to_master) = tokio::io::split(master);
    let said = async {
        let said = copy(&mut from_end, &mut to_master).await;
        to_master.shutdown().await?;
        said.map(drop)
    };
    let heard = hear(&mut from_master, to_end);
    tokio::pin!(heard);
    tokio::select! {
        said = said => {
            // The master ends its side when it has read ours. Going before would cut off what is on its way.
            let ended = timeout(LAST_WAIT_MAX, &mut heard).await;
            said.and(ended.unwrap_or(Ok(())))
        }
        ended = &mut heard => ended,
    }
}

/// Until the master says no more. What an end does not take is thrown away: it may still be speaking.
async fn hear(
    from_master: &mut (impl tokio::io::AsyncRead + Unpin),
    to_end: impl tokio::io::AsyncWrite + Unpin,
) -> io::Result<()> {
    let mut to_end = Some(to_end);
    let mut piece = vec![0; pipe::PIECE_BYTES_MAX];
    loop {
        let length = from_master.read(&mut piece).await?;
        if length == 0 {
            return Ok(());
        }
        if let Some(end) = &mut to_end
            && end.write_all(&piece[..length]).await.is_err()
        {
            to_end = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    #[tokio::test]
    async fn an_end_that_takes_nothing_more_is_heard_to_its_last_word() {
        let (end, mut runtime) = duplex(1 << 20);
        let (master, mut client) = duplex(64);
        let relayed = tokio::spawn(relay(Box::new(end), Box::new(master)));
        let words = vec![7; 100_000];
        runtime.write_all(&words).await.unwrap();
        drop(runtime);
        client.write_all(b"nobody reads this").await.unwrap();
        let mut heard = vec![0; words.len()];
        client.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard, words);
        drop(client);
        relayed.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_master_that_goes_ends_the_other_side() {
        let (end, mut runtime) = duplex(64);
        let (master, client) = duplex(64);
        let relayed = tokio::spawn(relay(Box::new(end), Box::new(master)));
        drop(client);
        relayed.await.unwrap().unwrap();
        assert_eq!(runtime.read(&mut [0; 8]).await.unwrap(), 0);
    }
}
