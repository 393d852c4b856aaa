//! Frames that come in, in whatever pieces.
//!
//! Keeps: bytes of a stream are handed on as they come; of a control frame no more than
//! [`CONTROL_BYTES_MAX`] is held.

use bytes::{Buf as _, Bytes, BytesMut};

use super::frames::{FIN, GOAWAY, PING, RST_STREAM, SYN_REPLY, SYN_STREAM, VERSION};

const CONTROL_BYTES_MAX: usize = 64 << 10;
const HEAD_BYTES: usize = 8;

/// What the other side says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Some bytes of a stream, and whether they are its last.
    Data { stream: u32, bytes: Bytes, fin: bool },
    /// A stream was opened by the other side, or one of ours was taken; with `fin` nothing comes on it.
    Opened { stream: u32, fin: bool },
    /// A stream has ended, whatever was still to come.
    Reset { stream: u32 },
    /// To be answered with the same.
    Ping { id: u32 },
    /// No further streams are taken.
    Going,
}

/// What comes is not SPDY/3.1.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("what the container runtime sends is no SPDY/3.1: {0}")]
pub struct Malformed(String);

/// Makes events of bytes.
#[derive(Debug, Default)]
pub struct Reader {
    held: BytesMut,
    /// Of the data frame that is being read.
    stream: u32,
    fin: bool,
    left: usize,
}

impl Reader {
    pub fn add(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// The next event, if enough has come for one.
    pub fn next(&mut self) -> Result<Option<Event>, Malformed> {
        loop {
            if self.left > 0 {
                if self.held.is_empty() {
                    return Ok(None);
                }
                let bytes = self.held.split_to(self.left.min(self.held.len())).freeze();
                self.left -= bytes.len();
                let fin = self.left == 0 && self.fin;
                return Ok(Some(Event::Data { stream: self.stream, bytes, fin }));
            }
            if self.held.len() < HEAD_BYTES {
                return Ok(None);
            }
            let mut head = &self.held[..HEAD_BYTES];
            let (first, second) = (head.get_u32(), head.get_u32());
            let (flags, length) = ((second >> 24) as u8, (second & 0x00ff_ffff) as usize);
            let fin = flags & FIN != 0;
            if first & 0x8000_0000 == 0 {
                self.held.advance(HEAD_BYTES);
                (self.stream, self.fin, self.left) = (first, fin, length);
                if length == 0 {
                    let bytes = Bytes::new();
                    return Ok(Some(Event::Data { stream: first, bytes, fin }));
                }
                continue;
            }
            let version = (first >> 16 & 0x7fff) as u16;
            if version != VERSION {
                return Err(Malformed(format!("a frame of version {version}")));
            }
            if length > CONTROL_BYTES_MAX {
                return Err(Malformed(format!("a control frame of {length} bytes")));
            }
            if self.held.len() < HEAD_BYTES + length {
                return Ok(None);
            }
            self.held.advance(HEAD_BYTES);
            let body = self.held.split_to(length);
            if let Some(event) = control((first & 0xffff) as u16, fin, &body)? {
                return Ok(Some(event));
            }
        }
    }
}

/// `None`: nothing that concerns us.
fn control(kind: u16, fin: bool, mut body: &[u8]) -> Result<Option<Event>, Malformed> {
    let mut number = || {
        if body.len() < 4 {
            return Err(Malformed(format!("a frame of type {kind} is too short")));
        }
        Ok(body.get_u32())
    };
    Ok(Some(match kind {
        SYN_STREAM | SYN_REPLY => Event::Opened { stream: number()? & 0x7fff_ffff, fin },
        RST_STREAM => Event::Reset { stream: number()? & 0x7fff_ffff },
        PING => Event::Ping { id: number()? },
        GOAWAY => Event::Going,
        // Settings, further headers, windows.
        _ => return Ok(None),
    }))
}
