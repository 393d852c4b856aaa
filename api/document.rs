//! A document that many clients read again and again: its bytes, and a tag by which they know them.

use std::fmt::Write;

use bytes::Bytes;
use sha2::{Digest, Sha512};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    pub bytes: Bytes,
    /// Without quotes.
    pub etag: String,
}

impl Document {
    /// Tagged by what it says.
    #[must_use]
    pub fn of(bytes: Vec<u8>) -> Document {
        Document { etag: tag(&bytes), bytes: bytes.into() }
    }
}

/// As upstream makes them: SHA-512 in capitals.
#[must_use]
pub fn tag(of: &[u8]) -> String {
    Sha512::digest(of).iter().fold(String::with_capacity(128), |mut text, byte| {
        let _ = write!(text, "{byte:02X}");
        text
    })
}
