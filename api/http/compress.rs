//! gzip, for bodies that are large enough to be worth it.

use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, HeaderValue, VARY};

/// A body that is compressed as it goes out.
pub(super) struct Gzip(GzEncoder<Vec<u8>>);

impl Gzip {
    pub(super) fn new() -> Gzip {
        // The fastest: upstream's level too.
        Gzip(GzEncoder::new(Vec::new(), Compression::fast()))
    }

    pub(super) fn mark(headers: &mut HeaderMap) {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    }

    pub(super) fn whole(bytes: &[u8]) -> Bytes {
        let mut gzip = Gzip::new();
        gzip.write(bytes);
        gzip.end()
    }

    /// What can be sent after `bytes` went in; perhaps nothing yet.
    pub(super) fn part(&mut self, bytes: &[u8]) -> Bytes {
        self.write(bytes);
        std::mem::take(self.0.get_mut()).into()
    }

    pub(super) fn end(self) -> Bytes {
        self.0.finish().expect("writing to memory does not fail").into()
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("writing to memory does not fail");
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn parts_make_up_the_whole() {
        let text = "objects ".repeat(50_000);
        let mut gzip = Gzip::new();
        let mut sent = Vec::new();
        for part in text.as_bytes().chunks(7000) {
            sent.extend_from_slice(&gzip.part(part));
        }
        sent.extend_from_slice(&gzip.end());
        let mut read = String::new();
        flate2::read::GzDecoder::new(sent.as_slice()).read_to_string(&mut read).unwrap();
        assert_eq!(read, text);
        assert!(sent.len() < text.len() / 10);
    }
}
