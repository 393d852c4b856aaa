//! The keys that sign and verify service accounts' tokens, and the documents that tell others about them.
//!
//! Keeps: one key signs; any number verify, so that a key can be replaced while tokens of the older live on.
//! Only ES256. A key's id is made of its public half, as Kubernetes does.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData, SubjectPublicKeyInfo};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::claims::Claims;

/// Why a key cannot be used. The text names no secret.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the signing key of service accounts is not a PEM with an EC key of curve P-256: {0}")]
    Signing(String),
    #[error("key {at} that verifies service accounts is not a PEM with an EC key of P-256: {why}")]
    Verifying { at: usize, why: String },
}

/// Signs and verifies.
pub struct Keys {
    signing: EncodingKey,
    /// The signing key's own first.
    verifying: Vec<Verifying>,
}

struct Verifying {
    id: String,
    key: DecodingKey,
    x: String,
    y: String,
}

impl Keys {
    /// `signing` is a private key in PKCS#8; `older` are private or public keys whose tokens are still good.
    pub fn read(signing: &str, older: &[String]) -> Result<Keys, Error> {
        let pair = KeyPair::from_pem_and_sign_algo(signing, &PKCS_ECDSA_P256_SHA256)
            .map_err(|error| Error::Signing(error.to_string()))?;
        let own = Verifying::of(&pair).map_err(Error::Signing)?;
        let signer = EncodingKey::from_ec_der(pair.serialized_der());
        let mut verifying = vec![own];
        for (at, pem) in older.iter().enumerate() {
            let one = Verifying::read(pem).map_err(|why| Error::Verifying { at, why })?;
            if verifying.iter().all(|known| known.id != one.id) {
                verifying.push(one);
            }
        }
        Ok(Keys { signing: signer, verifying })
    }

    /// The compact form of a token.
    pub(super) fn sign(&self, claims: &Claims) -> Result<String, String> {
        let mut header = Header::new(Algorithm::ES256);
        header.typ = None;
        header.kid = Some(self.verifying[0].id.clone());
        jsonwebtoken::encode(&header, claims, &self.signing).map_err(|error| error.to_string())
    }

    /// What a token says, if one of the keys signed it. Times, issuer and audiences are not looked at.
    pub(super) fn verify(&self, token: &str) -> Result<Claims, String> {
        let header = jsonwebtoken::decode_header(token).map_err(|error| error.to_string())?;
        let wanted = |key: &&Verifying| header.kid.as_ref().is_none_or(|id| *id == key.id);
        let mut why = "invalid signature, no keys found".to_owned();
        for key in self.verifying.iter().filter(wanted) {
            let mut validation = Validation::new(Algorithm::ES256);
            validation.validate_exp = false;
            validation.validate_aud = false;
            validation.required_spec_claims.clear();
            match jsonwebtoken::decode::<Claims>(token, &key.key, &validation) {
                Ok(data) => return Ok(data.claims),
                Err(error) => why = error.to_string(),
            }
        }
        Err(why)
    }

    /// `/openid/v1/jwks`
    #[must_use]
    pub fn jwks(&self) -> Value {
        let keys = self.verifying.iter().map(|key| {
            json!({"use": "sig", "kty": "EC", "kid": key.id, "crv": "P-256", "alg": "ES256",
                   "x": key.x, "y": key.y})
        });
        json!({"keys": keys.collect::<Vec<_>>()})
    }
}

/// `/.well-known/openid-configuration`
#[must_use]
pub fn discovery(issuer: &str, jwks_uri: &str) -> Value {
    json!({
        "issuer": issuer,
        "jwks_uri": jwks_uri,
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    })
}

impl Verifying {
    fn read(pem: &str) -> Result<Verifying, String> {
        if pem.contains("PRIVATE KEY") {
            let pair = KeyPair::from_pem_and_sign_algo(pem, &PKCS_ECDSA_P256_SHA256);
            return Verifying::of(&pair.map_err(|error| error.to_string())?);
        }
        let public = SubjectPublicKeyInfo::from_pem(pem).map_err(|error| error.to_string())?;
        Verifying::of(&public)
    }

    fn of(public: &impl PublicKeyData) -> Result<Verifying, String> {
        // An uncompressed point: a byte 4, then both coordinates.
        let point = public.der_bytes();
        if public.algorithm() != &PKCS_ECDSA_P256_SHA256 || point.len() != 65 || point[0] != 4 {
            return Err("another kind of key".into());
        }
        let coordinate = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let (x, y) = (coordinate(&point[1..33]), coordinate(&point[33..]));
        let id = URL_SAFE_NO_PAD.encode(Sha256::digest(public.subject_public_key_info()));
        let key = DecodingKey::from_ec_components(&x, &y).map_err(|error| error.to_string())?;
        Ok(Verifying { id, key, x, y })
    }
}
