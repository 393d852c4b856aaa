//! Where a list goes on: the token that a client hands back unread.
//!
//! ```text
//! base64url without padding of {"v":"meta.k8s.io/v1","rv":<revision>,"start":"<rest of the key>\0"}
//! ```
//! and, where it is known, `"left":<how many objects there are from there on>`: to count them at each page
//! would be to read all of the rest each time.
//! Revision -1 goes on with the newest state, after the one that the list began with is forgotten.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kontiki_storage::revision::Revision;
use serde::{Deserialize, Serialize};

use crate::error::Status;

const VERSION: &str = "meta.k8s.io/v1";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    /// `None`: whatever is newest.
    pub revision: Option<Revision>,
    /// The first key that may come, behind what all keys of the list begin with.
    pub start: String,
    /// How many objects there are from there on at that revision, if nothing is passed over.
    pub left: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    v: String,
    rv: i64,
    start: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    left: Option<u64>,
}

impl Token {
    pub(super) fn write(&self) -> String {
        let rv = self.revision.map_or(-1, |revision| i64::try_from(revision.0).unwrap_or(-1));
        let wire = Wire { v: VERSION.into(), rv, start: self.start.clone(), left: self.left };
        let json = serde_json::to_vec(&wire).expect("a token can be written as JSON");
        URL_SAFE_NO_PAD.encode(json)
    }

    pub(super) fn read(text: &str) -> Result<Token, Status> {
        let refused = |why: &str| Status::bad_request(format!("continue key is not valid: {why}"));
        let json = URL_SAFE_NO_PAD
            .decode(text.trim_end_matches('='))
            .map_err(|it| refused(&it.to_string()))?;
        let wire: Wire = serde_json::from_slice(&json).map_err(|it| refused(&it.to_string()))?;
        if wire.v != VERSION {
            return Err(refused(&format!(
                "server does not recognize this encoded version \"{}\"",
                wire.v
            )));
        }
        let revision = match wire.rv {
            -1 => None,
            rv => match u64::try_from(rv) {
                Ok(rv @ 1..) => Some(Revision(rv)),
                _ => return Err(refused("incorrect encoded start resourceVersion")),
            },
        };
        if wire.start.is_empty() {
            return Err(refused("encoded start key empty"));
        }
        if !is_clean(&wire.start) {
            return Err(refused(&wire.start));
        }
        Ok(Token { revision, start: wire.start, left: wire.left })
    }
}

/// Nothing in it leads anywhere else.
fn is_clean(path: &str) -> bool {
    let path = path.trim_end_matches('\0');
    let path = path.strip_prefix('/').unwrap_or(path);
    path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_the_form_that_upstream_gives_it() {
        let token = Token { revision: Some(Revision(7)), start: "ns/a\0".into(), left: None };
        let json = URL_SAFE_NO_PAD.decode(token.write()).unwrap();
        assert_eq!(json, br#"{"v":"meta.k8s.io/v1","rv":7,"start":"ns/a\u0000"}"#);
        assert_eq!(Token::read(&token.write()).unwrap(), token);
        let newest = Token { revision: None, ..token.clone() };
        assert_eq!(Token::read(&newest.write()).unwrap(), newest);
        let counted = Token { left: Some(3), ..token };
        assert_eq!(Token::read(&counted.write()).unwrap(), counted);
    }

    #[test]
    fn a_token_that_leads_out_of_the_list_is_refused() {
        for start in ["../b", "a/../../b", "", "a//b", "./a"] {
            let token = Token { revision: None, start: start.into(), left: None };
            assert_eq!(Token::read(&token.write()).unwrap_err().code(), 400, "{start}");
        }
        assert!(Token::read("%%%").is_err());
        assert!(Token::read(&URL_SAFE_NO_PAD.encode("{}")).is_err());
    }
}
