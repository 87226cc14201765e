//! Access tokens: RS256-signed JWTs of the profile in RFC 9068. Issued and verified here, and nowhere else.
//!
//! Every rule of verification (algorithm, type, key, issuer, audience, times, leeway) is written out in `Tokens::verify`;
//! none is left to a library's default.

use std::{sync::Arc, time::Duration};

use jsonwebtoken::{Algorithm, Header, Validation, decode, decode_header, encode, errors::ErrorKind};
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use zeroize::Zeroizing;

pub use super::signing_key::{DatedKey, Jwks, KeyStatus, MODULUS_BITS_MIN, SigningKey, SigningKeyError, SigningKeys};
use super::{Principal, Scopes, signing_key::KeysInUse};
use crate::domain::{
    clock::Clock,
    id::{ClientId, TenantId},
};

/// Media type of an access token, RFC 9068, section 2.1: other JWTs of ours (receipts, say) are not accepted as one.
const TOKEN_TYPE: &str = "at+jwt";

/// Longest token that is looked at, in bytes. Ours are about 1,100; a longer one is not worth parsing.
const TOKEN_BYTES_MAX: usize = 4096;

/// How long an access token lives: 5 to 15 minutes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenLifetime(Duration);

impl TokenLifetime {
    pub const MIN: Self = Self(Duration::from_secs(5 * 60));
    pub const DEFAULT: Self = Self(Duration::from_secs(10 * 60));
    pub const MAX: Self = Self(Duration::from_secs(15 * 60));

    pub fn from_seconds(seconds: u64) -> Result<Self, InvalidTokenLifetime> {
        let lifetime = Duration::from_secs(seconds);
        if (Self::MIN.0..=Self::MAX.0).contains(&lifetime) { Ok(Self(lifetime)) } else { Err(InvalidTokenLifetime) }
    }

    pub const fn as_seconds(self) -> u64 {
        self.0.as_secs()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an access token lives 300 to 900 seconds")]
pub struct InvalidTokenLifetime;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenConfig {
    /// Who issues the tokens: the address under which clients reach this service.
    pub issuer: String,
    /// Whom the tokens are for. A token made for another service under the same keys is refused.
    pub audience: String,
    pub lifetime: TokenLifetime,
    /// How far the clocks of two servers may stand apart.
    pub leeway: Duration,
}

impl TokenConfig {
    pub const LEEWAY_DEFAULT: Duration = Duration::from_secs(10);
}

/// No access token is good for longer than this after it was issued, whatever the settings say.
pub const LONGEST_LIFE: time::Duration = time::Duration::minutes(20);

/// An access token in the clear. Whoever holds it is the client: it cannot be printed by accident.
pub struct AccessToken(Zeroizing<String>);

impl AccessToken {
    pub fn expose_text(&self) -> &str {
        &self.0
    }
}

pub struct IssuedToken {
    pub token: AccessToken,
    pub lifetime: TokenLifetime,
}

/// What a verified token says. `token_id` and the times are what revocation needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedToken {
    pub principal: Principal,
    pub token_id: String,
    /// Seconds since 1970, UTC.
    pub issued_at: i64,
    pub expires_at: i64,
}

/// Why a token was refused. A stranger sees the code; the rest is for our own log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("the text is not a JWT in the compact form")]
    Malformed,
    #[error("the token is not signed with RS256")]
    WrongAlgorithm,
    #[error("the token is not of type at+jwt")]
    WrongType,
    #[error("the token names no signing key that is in use")]
    UnknownKey,
    #[error("the signature does not fit the token")]
    WrongSignature,
    #[error("the token was issued by somebody else")]
    WrongIssuer,
    #[error("the token is meant for somebody else")]
    WrongAudience,
    #[error("the token lacks a claim, or a claim cannot be read")]
    UnreadableClaims,
    #[error("the token is not valid yet")]
    NotYetValid,
    #[error("the token has expired")]
    Expired,
}

impl TokenError {
    pub fn code(&self) -> &'static str {
        match self {
            Self::Expired => "token_expired",
            Self::NotYetValid => "token_not_yet_valid",
            _ => "token_invalid",
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("an access token could not be signed")]
pub struct SigningFailed(#[source] jsonwebtoken::errors::Error);

/// The claims of RFC 9068, section 2.2, and the tenant. `sub` is the client: there is no user behind client credentials.
#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    sub: String,
    client_id: String,
    tenant: String,
    scope: String,
    iat: i64,
    nbf: i64,
    exp: i64,
    jti: String,
}

/// Issues and verifies access tokens.
pub struct Tokens {
    keys: KeysInUse,
    config: TokenConfig,
    clock: Arc<dyn Clock>,
}

impl Tokens {
    pub fn new(keys: SigningKeys, config: TokenConfig, clock: Arc<dyn Clock>) -> Self {
        Self { keys: KeysInUse::new(keys), config, clock }
    }

    /// Puts other keys in place of those in use, between two requests.
    pub fn replace_keys(&self, keys: SigningKeys) {
        self.keys.replace(keys);
    }

    /// The public keys, for `/.well-known/jwks.json`.
    pub fn jwks(&self) -> Jwks {
        self.keys.get().jwks()
    }

    /// When each key began or begins to sign, and which one signs now.
    pub fn key_status(&self) -> Vec<KeyStatus> {
        self.keys.get().status(self.clock.now())
    }

    pub fn config(&self) -> &TokenConfig {
        &self.config
    }

    pub fn issue(&self, principal: &Principal) -> Result<IssuedToken, SigningFailed> {
        let now = self.clock.now();
        let keys = self.keys.get();
        let key = keys.current(now);
        let header = Header {
            typ: Some(TOKEN_TYPE.to_owned()),
            kid: Some(key.kid().to_owned()),
            ..Header::new(Algorithm::RS256)
        };
        let now = now.unix_timestamp();
        let claims = Claims {
            iss: self.config.issuer.clone(),
            aud: self.config.audience.clone(),
            sub: principal.client.to_string(),
            client_id: principal.client.to_string(),
            tenant: principal.tenant.to_string(),
            scope: principal.scopes.to_string(),
            iat: now,
            nbf: now,
            exp: now + self.config.lifetime.0.as_secs() as i64,
            jti: Uuid::now_v7().simple().to_string(),
        };
        let token = encode(&header, &claims, key.private()).map_err(SigningFailed)?;
        Ok(IssuedToken { token: AccessToken(Zeroizing::new(token)), lifetime: self.config.lifetime })
    }

    pub fn verify(&self, token: &str) -> Result<VerifiedToken, TokenError> {
        let claims = self.signed_claims(token)?;
        if claims.nbf > self.clock.now().unix_timestamp().saturating_add(self.leeway_s()) {
            return Err(TokenError::NotYetValid);
        }
        claims.into_verified()
    }

    /// A token that is good, or will be: it can be ended before, where the clock of whoever issued it is ahead.
    pub fn verify_early(&self, token: &str) -> Result<VerifiedToken, TokenError> {
        self.signed_claims(token)?.into_verified()
    }

    fn leeway_s(&self) -> i64 {
        self.config.leeway.as_secs() as i64
    }

    /// What a token of ours says that is not over.
    fn signed_claims(&self, token: &str) -> Result<Claims, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::Malformed);
        }
        let header = decode_header(token).map_err(|_| TokenError::Malformed)?;
        if header.alg != Algorithm::RS256 {
            return Err(TokenError::WrongAlgorithm);
        }
        if header.typ.as_deref() != Some(TOKEN_TYPE) {
            return Err(TokenError::WrongType);
        }
        // RFC 7515, section 4.1.11: an extension that is marked critical and not understood makes the token invalid.
        if header.crit.is_some() {
            return Err(TokenError::Malformed);
        }
        let keys = self.keys.get();
        let key = header.kid.and_then(|kid| keys.find(&kid)).ok_or(TokenError::UnknownKey)?;

        let mut rules = Validation::new(Algorithm::RS256);
        rules.algorithms = vec![Algorithm::RS256];
        rules.set_issuer(&[&self.config.issuer]);
        rules.validate_aud = true;
        rules.set_audience(&[&self.config.audience]);
        rules.set_required_spec_claims(&["iss", "aud", "sub", "exp", "nbf"]);
        // The two times are checked below against our own clock, which tests can move.
        rules.validate_exp = false;
        rules.validate_nbf = false;
        let claims = decode::<Claims>(token, key.public(), &rules).map_err(|error| refusal(error.kind()))?.claims;

        if claims.exp.saturating_add(self.leeway_s()) <= self.clock.now().unix_timestamp() {
            return Err(TokenError::Expired);
        }
        Ok(claims)
    }
}

impl Claims {
    fn into_verified(self) -> Result<VerifiedToken, TokenError> {
        let client: ClientId = self.client_id.parse().map_err(|_| TokenError::UnreadableClaims)?;
        let tenant: TenantId = self.tenant.parse().map_err(|_| TokenError::UnreadableClaims)?;
        let scopes: Scopes = self.scope.parse().map_err(|_| TokenError::UnreadableClaims)?;
        if self.sub != self.client_id || self.jti.is_empty() {
            return Err(TokenError::UnreadableClaims);
        }
        Ok(VerifiedToken {
            principal: Principal { tenant, client, scopes },
            token_id: self.jti,
            issued_at: self.iat,
            expires_at: self.exp,
        })
    }
}

fn refusal(kind: &ErrorKind) -> TokenError {
    match kind {
        ErrorKind::InvalidSignature => TokenError::WrongSignature,
        ErrorKind::InvalidAlgorithm => TokenError::WrongAlgorithm,
        ErrorKind::InvalidIssuer => TokenError::WrongIssuer,
        ErrorKind::InvalidAudience => TokenError::WrongAudience,
        ErrorKind::InvalidToken => TokenError::Malformed,
        _ => TokenError::UnreadableClaims,
    }
}
