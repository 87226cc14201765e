//! The RSA keys behind access tokens and evidence: one signs, every listed one verifies, each named by its `kid`.

use std::sync::{Arc, PoisonError, RwLock};

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    rsa::{KeyPair, KeySize},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey,
    jwk::{AlgorithmParameters, Jwk, ThumbprintHash},
};
use serde::Serialize;
use time::OffsetDateTime;
use zeroize::Zeroizing;

/// Smallest RSA modulus that signs tokens (NIST SP 800-57 part 1: 112-bit strength). New keys have 3,072 bits.
pub const MODULUS_BITS_MIN: usize = 2048;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SigningKeyError {
    #[error("expected an RSA private key as PKCS #8 PEM of at least {MODULUS_BITS_MIN} bits")]
    NotAnRsaKey,
    #[error("the RSA key has {bits} bits; at least {needed} are needed")]
    TooShort { bits: usize, needed: usize },
}

/// A key that signs and verifies.
pub struct SigningKey {
    kid: String,
    private: EncodingKey,
    public: DecodingKey,
    modulus: String,
    exponent: String,
}

impl SigningKey {
    /// A fresh RSA key of 3,072 bits as PKCS #8 PEM. Takes up to a second or two.
    #[expect(clippy::expect_used, reason = "no safe way to go on without key generation")]
    pub fn generate_pem() -> Zeroizing<String> {
        let pair = KeyPair::generate(KeySize::Rsa3072).expect("RSA key generation works");
        let der = AsDer::<Pkcs8V1Der>::as_der(&pair).expect("a fresh key has a PKCS #8 form");
        let body = Zeroizing::new(STANDARD.encode(der.as_ref()));
        let mut pem = Zeroizing::new(String::with_capacity(body.len() + body.len() / 64 + 64));
        pem.push_str("-----BEGIN PRIVATE KEY-----\n");
        for (position, symbol) in body.chars().enumerate() {
            pem.push(symbol);
            if position % 64 == 63 {
                pem.push('\n');
            }
        }
        if !pem.ends_with('\n') {
            pem.push('\n');
        }
        pem.push_str("-----END PRIVATE KEY-----\n");
        pem
    }

    pub fn from_pem(pem: &str) -> Result<Self, SigningKeyError> {
        Self::from_pem_of(pem, MODULUS_BITS_MIN)
    }

    /// The same for a use that asks for a longer key.
    pub fn from_pem_of(pem: &str, bits_min: usize) -> Result<Self, SigningKeyError> {
        let private = EncodingKey::from_rsa_pem(pem.as_bytes()).map_err(|_| SigningKeyError::NotAnRsaKey)?;
        let jwk = Jwk::from_encoding_key(&private, Algorithm::RS256).map_err(|_| SigningKeyError::NotAnRsaKey)?;
        let AlgorithmParameters::RSA(parameters) = &jwk.algorithm else {
            return Err(SigningKeyError::NotAnRsaKey);
        };
        let bits = modulus_bits(&parameters.n).ok_or(SigningKeyError::NotAnRsaKey)?;
        if bits < bits_min {
            return Err(SigningKeyError::TooShort { bits, needed: bits_min });
        }
        Ok(Self {
            // RFC 7638: the same key has the same name everywhere, and nobody has to keep a list.
            kid: jwk.thumbprint(ThumbprintHash::SHA256).map_err(|_| SigningKeyError::NotAnRsaKey)?,
            public: DecodingKey::from_jwk(&jwk).map_err(|_| SigningKeyError::NotAnRsaKey)?,
            modulus: parameters.n.clone(),
            exponent: parameters.e.clone(),
            private,
        })
    }

    pub fn kid(&self) -> &str {
        &self.kid
    }

    pub(super) fn private(&self) -> &EncodingKey {
        &self.private
    }

    pub(super) fn public(&self) -> &DecodingKey {
        &self.public
    }
}

pub(super) fn modulus_bits(modulus: &str) -> Option<usize> {
    let bytes = URL_SAFE_NO_PAD.decode(modulus).ok()?;
    let leading = bytes.iter().position(|&byte| byte != 0)?;
    Some((bytes.len() - leading) * 8 - bytes[leading].leading_zeros() as usize)
}

/// What may be told of a signing key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyStatus {
    pub kid: String,
    /// 1970 for the one key of an installation that does not rotate.
    pub signs_from: OffsetDateTime,
    pub signing: bool,
}

/// A signing key and the moment from which it signs.
pub struct DatedKey {
    pub signs_from: OffsetDateTime,
    pub key: SigningKey,
}

/// The keys in use. Every one of them verifies and stands in the key set; the newest that has begun to sign signs. A rotation
/// adds a key that begins later, when every verifier knows it, and drops an old one when no token of it lives any more.
pub struct SigningKeys {
    /// By the moment they begin; at least one.
    keys: Vec<DatedKey>,
}

impl SigningKeys {
    /// The one key of an installation that does not rotate.
    pub fn single(key: SigningKey) -> Self {
        Self { keys: vec![DatedKey { signs_from: OffsetDateTime::UNIX_EPOCH, key }] }
    }

    /// `None` for no key at all.
    pub fn new(mut keys: Vec<DatedKey>) -> Option<Self> {
        keys.sort_by_key(|dated| dated.signs_from);
        keys.dedup_by(|one, other| one.key.kid == other.key.kid);
        if keys.is_empty() { None } else { Some(Self { keys }) }
    }

    /// A first key signs even before its time: there is no other.
    pub(super) fn current(&self, now: OffsetDateTime) -> &SigningKey {
        let begun = self.keys.iter().rev().find(|dated| dated.signs_from <= now);
        &begun.unwrap_or(&self.keys[0]).key
    }

    pub fn status(&self, now: OffsetDateTime) -> Vec<KeyStatus> {
        let current = self.current(now).kid();
        let status = |dated: &DatedKey| KeyStatus {
            kid: dated.key.kid.clone(),
            signs_from: dated.signs_from,
            signing: dated.key.kid == current,
        };
        self.keys.iter().map(status).collect()
    }

    pub(super) fn find(&self, kid: &str) -> Option<&SigningKey> {
        self.all().find(|key| key.kid == kid)
    }

    pub fn kids(&self) -> impl Iterator<Item = &str> {
        self.all().map(SigningKey::kid)
    }

    fn all(&self) -> impl Iterator<Item = &SigningKey> {
        self.keys.iter().map(|dated| &dated.key)
    }

    pub fn jwks(&self) -> Jwks {
        let public = |key: &SigningKey| PublicJwk {
            kty: "RSA",
            key_use: "sig",
            alg: "RS256",
            kid: key.kid.clone(),
            n: key.modulus.clone(),
            e: key.exponent.clone(),
        };
        Jwks { keys: self.all().map(public).collect() }
    }
}

/// Keys that others can take the place of while requests are at work with them.
pub(super) struct KeysInUse(RwLock<Arc<SigningKeys>>);

impl KeysInUse {
    pub(super) fn new(keys: SigningKeys) -> Self {
        Self(RwLock::new(Arc::new(keys)))
    }

    pub(super) fn replace(&self, keys: SigningKeys) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
    }

    pub(super) fn get(&self) -> Arc<SigningKeys> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A JSON Web Key Set, RFC 7517: public halves only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Jwks {
    pub keys: Vec<PublicJwk>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PublicJwk {
    pub kty: &'static str,
    #[serde(rename = "use")]
    pub key_use: &'static str,
    pub alg: &'static str,
    pub kid: String,
    /// Modulus, base64url.
    pub n: String,
    /// Exponent, base64url.
    pub e: String,
}
