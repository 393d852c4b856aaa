//! A message over the limit, refused as etcd refuses it: `ResourceExhausted`, in grpc-go's words.
//!
//! The transport refuses it before a service sees it, by a code and words of its own that no client of
//! etcd knows. Only these are replaced; every other refusal goes by as it is.

use http::{HeaderMap, HeaderValue};
use percent_encoding::percent_decode;
use tonic::Code;

/// How the transport begins what it says of a message that is too long.
const TRANSPORT: &str = "Error, decoded message length too large: found ";

/// Replaces the transport's refusal of a message that is too long, in headers or trailers.
pub(crate) fn reword(headers: &mut HeaderMap) {
    let is_out_of_range =
        headers.get("grpc-status").is_some_and(|code| code == "11" /* OutOfRange */);
    if !is_out_of_range {
        return;
    }
    let Some(said) = headers.get("grpc-message") else { return };
    let said = percent_decode(said.as_bytes()).decode_utf8_lossy().into_owned();
    let Some(words) = etcds_words(&said) else { return };
    headers.insert("grpc-status", HeaderValue::from(Code::ResourceExhausted as i32));
    headers.insert("grpc-message", words);
}

fn etcds_words(said: &str) -> Option<HeaderValue> {
    let (found, rest) = said.strip_prefix(TRANSPORT)?.split_once(" bytes, the limit is: ")?;
    let limit = rest.strip_suffix(" bytes")?;
    let (found, limit) = (found.parse::<u64>().ok()?, limit.parse::<u64>().ok()?);
    let words = format!("grpc: received message larger than max ({found} vs. {limit})");
    HeaderValue::from_str(&words).ok()
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::*;

    fn reworded(status: Status) -> Status {
        let mut headers = status.into_http::<()>().headers().clone();
        reword(&mut headers);
        Status::from_header_map(&headers).unwrap()
    }

    #[test]
    fn only_what_the_transport_says_of_a_long_message_is_replaced() {
        let status = reworded(Status::out_of_range(
            "Error, decoded message length too large: found 3145738 bytes, the limit is: 2097152 \
             bytes",
        ));
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(
            status.message(),
            "grpc: received message larger than max (3145738 vs. 2097152)"
        );
        for other in [super::super::status::compacted(), Status::internal("found 1 bytes")] {
            let same = reworded(other.clone());
            assert_eq!((same.code(), same.message()), (other.code(), other.message()));
        }
    }
}
