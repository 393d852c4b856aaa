//! Commands as bytes: what stands in the replicated log and travels between masters.
//!
//! One version byte, then a protobuf message (see `wire` for the fields). Written by hand rather than
//! generated, because these messages are ours alone.
//!
//! Keeps: `decode(encode(x)) == x`; keys and values of decoded commands share the buffer they came in.
//! Never: panics, whatever the bytes. What cannot be read is [`Error::Malformed`]; whoever meets that in a
//! committed entry must stop, for the other members may have understood it.

mod wire;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use crate::error::Error;
use crate::request::Command;

/// The version this program writes.
const VERSION: u8 = 1;

#[must_use]
pub fn encode_commands(commands: &[Command]) -> Bytes {
    let message = wire::Commands { commands: commands.iter().map(wire::Command::from).collect() };
    let mut bytes = BytesMut::with_capacity(1 + message.encoded_len());
    bytes.put_u8(VERSION);
    message.encode(&mut bytes).expect("a growing buffer has room for every message");
    bytes.freeze()
}

pub fn decode_commands(bytes: Bytes) -> Result<Vec<Command>, Error> {
    let malformed = |reason: String| Error::Malformed(reason);
    match bytes.first() {
        Some(&VERSION) => {}
        Some(other) => {
            return Err(malformed(format!(
                "version {other}, this program reads {VERSION}; upgrade it"
            )));
        }
        None => return Err(malformed("no bytes at all".into())),
    }
    let message =
        wire::Commands::decode(bytes.slice(1..)).map_err(|error| malformed(format!("{error}")))?;
    message.commands.into_iter().map(Command::try_from).collect()
}

#[cfg(test)]
mod tests;
