//! Frames on their way out.

use bytes::{BufMut as _, Bytes, BytesMut};

pub(super) const VERSION: u16 = 3;
pub(super) const SYN_STREAM: u16 = 1;
pub(super) const SYN_REPLY: u16 = 2;
pub(super) const RST_STREAM: u16 = 3;
pub(super) const PING: u16 = 6;
pub(super) const GOAWAY: u16 = 7;

/// The flag by which one side says that it is done with a stream.
pub const FIN: u8 = 1;

/// Begins a zlib stream (RFC 1950): deflate with a window of 32 KiB and a preset dictionary, which is named by
/// its checksum, that of SPDY/3's.
const ZLIB_BEGIN: [u8; 6] = [0x78, 0xbb, 0xe3, 0xc6, 0xa7, 0xc2];
/// A stored block with nothing in it (RFC 1951): what was stored before must be handed out.
const FLUSH: [u8; 5] = [0x00, 0x00, 0x00, 0xff, 0xff];
const STORED_BYTES_MAX: usize = 0xffff;

/// Writes headers of new streams, one after another on one connection.
#[derive(Debug, Default)]
pub struct Headers {
    begun: bool,
}

impl Headers {
    /// Opens a stream.
    pub fn syn_stream(&mut self, stream: u32, headers: &[(&str, &str)]) -> Bytes {
        let block = self.block(headers);
        let mut frame = BytesMut::new();
        control(&mut frame, SYN_STREAM, 0, 10 + block.len());
        frame.put_u32(stream & 0x7fff_ffff);
        // No associated stream, no priority, no slot.
        frame.put_u32(0);
        frame.put_u16(0);
        frame.extend_from_slice(&block);
        frame.freeze()
    }

    fn block(&mut self, headers: &[(&str, &str)]) -> BytesMut {
        let mut plain = BytesMut::new();
        plain.put_u32(length(headers.len()));
        for (name, value) in headers {
            // Names are lower case on the wire.
            let name = name.to_ascii_lowercase();
            for text in [name.as_str(), value] {
                plain.put_u32(length(text.len()));
                plain.extend_from_slice(text.as_bytes());
            }
        }
        let mut block = BytesMut::new();
        if !std::mem::replace(&mut self.begun, true) {
            block.extend_from_slice(&ZLIB_BEGIN);
        }
        for stored in plain.chunks(STORED_BYTES_MAX) {
            let length = u16::try_from(stored.len()).expect("a chunk is no longer than that");
            block.put_u8(0);
            block.put_u16_le(length);
            block.put_u16_le(!length);
            block.extend_from_slice(stored);
        }
        block.extend_from_slice(&FLUSH);
        block
    }
}

fn length(length: usize) -> u32 {
    u32::try_from(length).expect("headers are short")
}

fn control(frame: &mut BytesMut, kind: u16, flags: u8, length: usize) {
    frame.put_u16(0x8000 | VERSION);
    frame.put_u16(kind);
    flags_and_length(frame, flags, length);
}

fn flags_and_length(frame: &mut BytesMut, flags: u8, length: usize) {
    let length = u32::try_from(length).ok().filter(|it| *it < 1 << 24);
    let length = length.expect("frames are made of messages, which are bounded");
    frame.put_u32(u32::from(flags) << 24 | length);
}

/// Bytes on a stream.
#[must_use]
pub fn data(stream: u32, bytes: &[u8]) -> Bytes {
    frame(stream, 0, bytes)
}

/// No more will come on a stream.
#[must_use]
pub fn fin(stream: u32) -> Bytes {
    frame(stream, FIN, &[])
}

fn frame(stream: u32, flags: u8, bytes: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(8 + bytes.len());
    frame.put_u32(stream & 0x7fff_ffff);
    flags_and_length(&mut frame, flags, bytes.len());
    frame.extend_from_slice(bytes);
    frame.freeze()
}

/// An answer to a ping, which is the same again.
#[must_use]
pub fn ping(id: u32) -> Bytes {
    let mut frame = BytesMut::new();
    control(&mut frame, PING, 0, 4);
    frame.put_u32(id);
    frame.freeze()
}
