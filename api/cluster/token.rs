//! Join tokens: `K1<sha256 of the CA>::<id>.<secret>`.
//!
//! Keeps: the first part tells a joiner whom it speaks to before it says anything; the second tells the
//! cluster that the joiner was invited. The store holds only the secret's hash, so a copy of the store
//! lets nobody in. The secret is random (160 bits), so a plain hash is enough: there is nothing to guess.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

const MARK: &str = "K1";
const ID_CHARACTERS: usize = 8;
const SECRET_CHARACTERS: usize = 32;
/// Nothing that looks like something else.
const ALPHABET: &[u8; 32] = b"23456789abcdefghijkmnpqrstuvwxyz";

/// A token as its holder has it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// SHA-256 of the CA's certificate (DER).
    pub ca: [u8; 32],
    pub id: String,
    pub secret: String,
}

impl Token {
    /// A new token, from random bytes.
    #[must_use]
    pub fn new(ca: [u8; 32], random: [u8; ID_CHARACTERS + SECRET_CHARACTERS]) -> Token {
        let text: String =
            random.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect();
        let (id, secret) = text.split_at(ID_CHARACTERS);
        Token { ca, id: id.to_owned(), secret: secret.to_owned() }
    }

    /// What the store keeps of the secret.
    #[must_use]
    pub fn hash(&self) -> String {
        hash(&self.secret)
    }

    /// What goes into the `Authorization` header, when the CA has been checked.
    #[must_use]
    pub fn bearer(&self) -> String {
        format!("Bearer {}.{}", self.id, self.secret)
    }
}

/// The hash of a secret, as hexadecimal text.
#[must_use]
pub fn hash(secret: &str) -> String {
    hex(&Sha256::digest(secret.as_bytes()))
}

/// The fingerprint by which a token names a CA.
#[must_use]
pub fn fingerprint(certificate: &[u8]) -> [u8; 32] {
    Sha256::digest(certificate).into()
}

/// Reads an `Authorization` header: id and secret.
#[must_use]
pub fn parse_bearer(header: &str) -> Option<(&str, &str)> {
    let (id, secret) = header.strip_prefix("Bearer ")?.split_once('.')?;
    (is_plain(id, ID_CHARACTERS) && is_plain(secret, SECRET_CHARACTERS)).then_some((id, secret))
}

/// Whether two hashes are the same, in a time that does not tell where they differ.
#[must_use]
pub fn same(left: &str, right: &str) -> bool {
    left.len() == right.len()
        && left.bytes().zip(right.bytes()).fold(0, |all, (l, r)| all | (l ^ r)) == 0
}

fn is_plain(text: &str, characters: usize) -> bool {
    text.len() == characters && text.bytes().all(|byte| ALPHABET.contains(&byte))
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{MARK}{}::{}.{}", hex(&self.ca), self.id, self.secret)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A secret has no business in a log.
        write!(f, "Token({})", self.id)
    }
}

impl FromStr for Token {
    type Err = String;

    fn from_str(text: &str) -> Result<Token, String> {
        let shape = "a token looks like K1<64 hexadecimal digits>::<id>.<secret>; \
                     `kontiki token create` on a master prints one";
        let read = || {
            let (ca, rest) = text.trim().strip_prefix(MARK)?.split_once("::")?;
            let (id, secret) = rest.split_once('.')?;
            let whole = is_plain(id, ID_CHARACTERS) && is_plain(secret, SECRET_CHARACTERS);
            whole.then_some(Token { ca: unhex(ca)?, id: id.to_owned(), secret: secret.to_owned() })
        };
        read().ok_or_else(|| format!("the token is damaged or cut off: {shape}"))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; 32];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_printed_is_read_again(ca: [u8; 32], random: [[u8; 8]; 5]) {
            let random: Vec<u8> = random.concat();
            let token = Token::new(ca, random.try_into().unwrap());
            prop_assert_eq!(&token.to_string().parse::<Token>().unwrap(), &token);
            let bearer = token.bearer();
            prop_assert_eq!(parse_bearer(&bearer), Some((&*token.id, &*token.secret)));
        }

        #[test]
        fn anything_else_is_refused_and_harms_nobody(text: String) {
            prop_assert!(text.parse::<Token>().is_err());
            prop_assert!(parse_bearer(&text).is_none());
        }
    }

    #[test]
    fn a_token_that_lost_its_end_says_so() {
        let token = Token::new([7; 32], [1; 40]).to_string();
        let error = token[..token.len() - 1].parse::<Token>().unwrap_err();
        assert!(error.contains("cut off"), "{error}");
        let token = token.parse::<Token>().unwrap();
        assert!(!format!("{token:?}").contains(&token.secret));
    }

    #[test]
    fn hashes_are_compared_in_full() {
        assert!(same("abc", "abc"));
        assert!(!same("abc", "abd"));
        assert!(!same("abc", "ab"));
    }
}
