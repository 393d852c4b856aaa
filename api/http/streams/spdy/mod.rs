//! A small SPDY/3.1 client, for the streams that a container runtime serves.
//!
//! ```text
//! control  1 version:15 type:16 | flags:8 length:24 | body
//! data     0 stream:31          | flags:8 length:24 | bytes
//! ```
//! Keeps: the headers of all our streams are one zlib stream, as the protocol wants it. They are stored, not
//! compressed: that needs no dictionary, only its name.
//! Never: reads headers; those of a runtime's replies say nothing. Flow control within SPDY is not spoken:
//! no runtime does, and the tunnel has its own.

mod frames;
mod read;

pub use frames::{Headers, data, fin, ping};
pub use read::{Event, Reader};

#[cfg(test)]
mod tests;
