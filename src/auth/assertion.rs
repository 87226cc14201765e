//! `private_key_jwt` (RFC 7523, section 2.2): a client proves who it is by signing, and has no secret that could leak here.
//!
//! Every rule is written out in [`AssertionKey::verify`]. That an assertion is used once only is for the caller to keep: it
//! needs a memory.

use aws_lc_rs::rsa::PublicEncryptingKey;
use base64::{Engine, prelude::BASE64_STANDARD};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, dangerous::insecure_decode_claims, decode, decode_header};
use serde::Deserialize;
use time::{Duration, OffsetDateTime};

use super::signing_key::MODULUS_BITS_MIN;
use crate::domain::id::ClientId;

/// `client_assertion_type` of RFC 7523, section 2.2.
pub const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// Longest life of an assertion that is accepted: it is made for one request, and remembered as long as it lives.
const LIFETIME_MAX: Duration = Duration::minutes(5);
/// How far the client's clock may stand from ours.
const LEEWAY: Duration = Duration::seconds(10);
const ASSERTION_BYTES_MAX: usize = 4096;
const ID_BYTES_MAX: usize = 256;

/// The public half of a client's RSA key, of at least 2,048 bits.
pub struct AssertionKey {
    pem: String,
    key: DecodingKey,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected an RSA public key of at least {MODULUS_BITS_MIN} bits as PEM (BEGIN PUBLIC KEY)")]
pub struct InvalidAssertionKey;

/// Why an assertion was refused. The client learns no more than that it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AssertionError {
    #[error("the assertion is not a JWT that names its client")]
    Malformed,
    #[error("the assertion is not signed with RS256")]
    WrongAlgorithm,
    #[error("the signature does not fit")]
    WrongSignature,
    #[error("the assertion is meant for somebody else")]
    WrongAudience,
    #[error("issuer and subject are not both the client")]
    WrongClient,
    #[error("the assertion has expired, is not valid yet, or lives longer than five minutes")]
    WrongTime,
    #[error("the assertion has no id")]
    NoId,
}

/// What is left to check of a good assertion: that it is new.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assertion {
    pub id: String,
    /// After this it need not be remembered any more.
    pub expires_at: OffsetDateTime,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    exp: NumericDate,
    nbf: Option<NumericDate>,
    iat: Option<NumericDate>,
    jti: Option<String>,
}

/// Seconds since 1970, with or without a fraction (RFC 7519, section 2): many clients send what their clock says.
#[derive(Clone, Copy, Deserialize)]
struct NumericDate(f64);

impl NumericDate {
    /// The fraction cut off; what lies beyond all time stays there.
    fn seconds(self) -> i64 {
        self.0 as i64
    }
}

/// The client that an assertion claims to come from. Nothing is proven yet.
pub fn claimed_client(assertion: &str) -> Result<ClientId, AssertionError> {
    #[derive(Deserialize)]
    struct Subject {
        sub: String,
    }
    if assertion.len() > ASSERTION_BYTES_MAX {
        return Err(AssertionError::Malformed);
    }
    let claims: Subject = insecure_decode_claims(assertion).map_err(|_| AssertionError::Malformed)?;
    claims.sub.parse().map_err(|_| AssertionError::Malformed)
}

impl AssertionKey {
    pub fn from_pem(pem: &str) -> Result<Self, InvalidAssertionKey> {
        let body: String = pem.lines().filter(|line| !line.starts_with("-----")).map(str::trim).collect();
        let der = BASE64_STANDARD.decode(body).map_err(|_| InvalidAssertionKey)?;
        let key = PublicEncryptingKey::from_der(&der).map_err(|_| InvalidAssertionKey)?;
        if key.key_size_bits() < MODULUS_BITS_MIN {
            return Err(InvalidAssertionKey);
        }
        let key = DecodingKey::from_rsa_pem(pem.as_bytes()).map_err(|_| InvalidAssertionKey)?;
        Ok(Self { pem: pem.to_owned(), key })
    }

    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// `audiences`: the names of this authorization server, its issuer and its token endpoint (RFC 7523, section 3).
    pub fn verify(
        &self,
        assertion: &str,
        client: ClientId,
        audiences: &[&str],
        now: OffsetDateTime,
    ) -> Result<Assertion, AssertionError> {
        let header = decode_header(assertion).map_err(|_| AssertionError::Malformed)?;
        if header.alg != Algorithm::RS256 {
            return Err(AssertionError::WrongAlgorithm);
        }
        if header.crit.is_some() {
            return Err(AssertionError::Malformed);
        }
        let mut rules = Validation::new(Algorithm::RS256);
        rules.algorithms = vec![Algorithm::RS256];
        rules.validate_aud = true;
        rules.set_audience(audiences);
        rules.set_required_spec_claims(&["iss", "sub", "aud", "exp"]);
        // Checked below, against our own clock.
        rules.validate_exp = false;
        rules.validate_nbf = false;
        let claims = decode::<Claims>(assertion, &self.key, &rules).map_err(|error| refusal(error.kind()))?.claims;

        let client = client.to_string();
        if claims.iss != client || claims.sub != client {
            return Err(AssertionError::WrongClient);
        }
        let (now, leeway) = (now.unix_timestamp(), LEEWAY.whole_seconds());
        let expires_at = claims.exp.seconds();
        let begun = |begins_at: NumericDate| begins_at.seconds() <= now + leeway;
        let in_time = expires_at > now - leeway
            && expires_at <= now + leeway + LIFETIME_MAX.whole_seconds()
            && claims.nbf.is_none_or(begun)
            && claims.iat.is_none_or(begun);
        if !in_time {
            return Err(AssertionError::WrongTime);
        }
        let expires_at = OffsetDateTime::from_unix_timestamp(expires_at).map_err(|_| AssertionError::WrongTime)?;
        let id = claims.jti.filter(|id| (1..=ID_BYTES_MAX).contains(&id.len())).ok_or(AssertionError::NoId)?;
        Ok(Assertion { id, expires_at: expires_at + LEEWAY })
    }
}

fn refusal(kind: &jsonwebtoken::errors::ErrorKind) -> AssertionError {
    use jsonwebtoken::errors::ErrorKind;
    match kind {
        ErrorKind::InvalidSignature => AssertionError::WrongSignature,
        ErrorKind::InvalidAlgorithm => AssertionError::WrongAlgorithm,
        ErrorKind::InvalidAudience => AssertionError::WrongAudience,
        _ => AssertionError::Malformed,
    }
}
