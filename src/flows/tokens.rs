//! Access tokens: bought with a client's credential, asked about, and ended before their time.

use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::{FlowError, Flows, api_keys::ApiKeyError, revocations};
use crate::{
    audit::Actor,
    auth::{
        Caller, Principal, Scopes,
        api_key::ApiKey,
        assertion::{self, AssertionKey},
        client_secret::ClientSecretHash,
        jwt::{IssuedToken, TokenError, VerifiedToken},
    },
    domain::id::ClientId,
    measure::{self, Outcome},
    store::{Client, StoreError, TokenRef},
};

/// What a client presents. Nothing of it is known to be well-formed.
pub enum Credential {
    Secret {
        client: String,
        secret: Zeroizing<String>,
    },
    /// `private_key_jwt`, RFC 7523. The client may name itself beside it.
    Assertion {
        client: Option<String>,
        assertion: Zeroizing<String>,
    },
}

impl Credential {
    pub fn secret(client: &str, secret: &str) -> Self {
        Self::Secret { client: client.to_owned(), secret: Zeroizing::new(secret.to_owned()) }
    }
}

pub struct Grant {
    pub token: IssuedToken,
    pub scopes: Scopes,
}

#[derive(Debug, thiserror::Error)]
pub enum TokenRequestError {
    #[error("the client credentials are wrong")]
    InvalidClient,
    #[error("a scope is beyond what the client may ask for")]
    InvalidScope,
    #[error(transparent)]
    Flow(#[from] FlowError),
}

impl From<StoreError> for TokenRequestError {
    fn from(error: StoreError) -> Self {
        Self::Flow(error.into())
    }
}

/// `requested: None` asks for everything that the client may do.
pub async fn issue(
    flows: &Flows,
    credential: Credential,
    requested: Option<Scopes>,
) -> Result<Grant, TokenRequestError> {
    let granted = grant(flows, credential, requested).await;
    measure::token_request(match &granted {
        Ok(_) => Outcome::Granted,
        Err(TokenRequestError::InvalidClient) => Outcome::InvalidClient,
        Err(TokenRequestError::InvalidScope) => Outcome::Refused,
        Err(TokenRequestError::Flow(error)) => error.outcome(),
    });
    granted
}

async fn grant(flows: &Flows, credential: Credential, requested: Option<Scopes>) -> Result<Grant, TokenRequestError> {
    let client = authenticate_client(flows, credential).await?;
    let permitted: Scopes = client.scopes.join(" ").parse().map_err(FlowError::internal)?;
    let scopes = requested.unwrap_or_else(|| permitted.clone());
    // An operator's client has no scope at all; any other asks for something.
    if !permitted.covers(&scopes) || (scopes.is_empty() && !permitted.is_empty()) {
        return Err(TokenRequestError::InvalidScope);
    }
    let principal = Principal { tenant: client.tenant, client: client.id, scopes };
    let token = flows.tokens.issue(&principal).map_err(FlowError::internal)?;
    Ok(Grant { token, scopes: principal.scopes })
}

/// Ends one of the client's own tokens (RFC 7009). One that is not its own, or no token at all, is left as it is; the answer
/// is the same, for the client can do nothing about it.
pub async fn revoke(flows: &Flows, credential: Credential, token: &str) -> Result<(), TokenRequestError> {
    let client = authenticate_client(flows, credential).await?;
    match flows.tokens.verify_early(token) {
        Ok(verified) if verified.principal.client == client.id => {
            let expires_at = instant(verified.expires_at)?;
            let token = TokenRef { token_id: verified.token_id, client: client.id, expires_at };
            let by = Actor { name: client.id.to_string(), request: None };
            flows.store.tokens().revoke(client.tenant, token, by, flows.now()).await?;
            revocations::synchronise(flows).await;
            tracing::info!(event = "token_revoked", client = %client.id, "a token was revoked");
            Ok(())
        }
        _ => Ok(()),
    }
}

/// What a token says, as long as it is good (RFC 7662). A token of another tenant looks like none.
pub async fn introspect(
    flows: &Flows,
    credential: Credential,
    token: &str,
) -> Result<Option<VerifiedToken>, TokenRequestError> {
    let client = authenticate_client(flows, credential).await?;
    let Ok(verified) = flows.tokens.verify(token) else { return Ok(None) };
    if verified.principal.tenant != client.tenant || !revocations::is_live(flows, &verified).await? {
        return Ok(None);
    }
    Ok(Some(verified))
}

/// Why a caller is not let in.
#[derive(Debug, thiserror::Error)]
pub enum AuthenticationError {
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("the token was revoked, or its client disabled")]
    Revoked,
    #[error(transparent)]
    ApiKey(#[from] ApiKeyError),
    /// Whether the token was revoked cannot be known now: closed, not open.
    #[error(transparent)]
    Flow(#[from] FlowError),
}

/// What a caller shows, as far as it can be told without asking anybody.
pub enum Presented<'a> {
    /// Signed here and not over. Whether it was ended meanwhile, [`confirm`] knows.
    Token(VerifiedToken),
    /// The database knows it, or does not.
    ApiKey(&'a str),
}

pub fn read<'a>(flows: &Flows, bearer: &'a str) -> Result<Presented<'a>, AuthenticationError> {
    if ApiKey::resembles(bearer) {
        return Ok(Presented::ApiKey(bearer));
    }
    Ok(Presented::Token(flows.tokens.verify(bearer)?))
}

/// A token that was ended anywhere is ended everywhere, within a second if Redis and the database part, and else at once.
pub async fn confirm(flows: &Flows, token: VerifiedToken) -> Result<Caller, AuthenticationError> {
    if revocations::is_live(flows, &token).await? {
        Ok(token.principal.into())
    } else {
        Err(AuthenticationError::Revoked)
    }
}

/// The client behind a credential. Whatever is wrong with it, the answer is the same.
async fn authenticate_client(flows: &Flows, credential: Credential) -> Result<Client, TokenRequestError> {
    match credential {
        Credential::Secret { client, secret } => by_secret(flows, &client, &secret).await,
        Credential::Assertion { client, assertion } => by_assertion(flows, client.as_deref(), &assertion).await,
    }
}

async fn by_secret(flows: &Flows, client: &str, secret: &str) -> Result<Client, TokenRequestError> {
    // A text that is no id cannot be in the store, and hashing it takes no secret's time: ids are not secret.
    let id: ClientId = client.parse().map_err(|_| TokenRequestError::InvalidClient)?;
    let usable = usable(flows, id).await?;
    // An unknown client and a disabled one cost the same work as a known one, and get the same answer.
    let hash = usable.as_ref().and_then(stored_hash);
    let known = flows.pepper.matches(id, secret, hash.as_ref());
    usable.filter(|_| known).ok_or(TokenRequestError::InvalidClient)
}

async fn by_assertion(flows: &Flows, named: Option<&str>, assertion: &str) -> Result<Client, TokenRequestError> {
    let refused = |error: assertion::AssertionError| {
        tracing::info!(event = "assertion_refused", reason = %error, "a client assertion was refused");
        TokenRequestError::InvalidClient
    };
    let id = assertion::claimed_client(assertion).map_err(refused)?;
    if named.is_some_and(|named| named != id.to_string()) {
        return Err(TokenRequestError::InvalidClient);
    }
    let client = usable(flows, id).await?.ok_or(TokenRequestError::InvalidClient)?;
    let pem = client.public_key.as_deref().ok_or(TokenRequestError::InvalidClient)?;
    let key = AssertionKey::from_pem(pem).map_err(FlowError::internal)?;

    let issuer = &flows.tokens.config().issuer;
    let endpoint = format!("{issuer}/oauth/token");
    let now = flows.now();
    let good = key.verify(assertion, id, &[issuer, &endpoint], now).map_err(refused)?;
    if !flows.store.tokens().use_assertion(id, &good.id, good.expires_at, now).await? {
        tracing::warn!(event = "assertion_replayed", client = %id, "a client assertion came a second time");
        return Err(TokenRequestError::InvalidClient);
    }
    Ok(client)
}

async fn usable(flows: &Flows, id: ClientId) -> Result<Option<Client>, StoreError> {
    match flows.store.clients().find(id).await {
        Ok(client) => Ok(Some(client).filter(|client| client.disabled_at.is_none())),
        Err(StoreError::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

/// `None` for a client that has a key instead.
fn stored_hash(client: &Client) -> Option<ClientSecretHash> {
    client.secret_hash.as_slice().try_into().ok().map(ClientSecretHash::from_bytes)
}

fn instant(seconds: i64) -> Result<OffsetDateTime, FlowError> {
    OffsetDateTime::from_unix_timestamp(seconds).map_err(FlowError::internal)
}
