//! A client's credential becomes an access token.

use zeroize::Zeroizing;

use super::{FlowError, Flows};
use crate::{
    auth::{Principal, Scopes, client_secret::ClientSecretHash, jwt::IssuedToken},
    domain::id::ClientId,
    store::{Client, StoreError},
};

/// What a client presents. Neither half is known to be well-formed.
pub struct Credential {
    pub client: String,
    pub secret: Zeroizing<String>,
}

impl Credential {
    pub fn new(client: &str, secret: &str) -> Self {
        Self { client: client.to_owned(), secret: Zeroizing::new(secret.to_owned()) }
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

/// `requested: None` asks for everything that the client may do.
pub async fn issue(
    flows: &Flows,
    credential: Credential,
    requested: Option<Scopes>,
) -> Result<Grant, TokenRequestError> {
    // A text that is no id cannot be in the store, and hashing it takes no secret's time: ids are not secret.
    let id: ClientId = credential.client.parse().map_err(|_| TokenRequestError::InvalidClient)?;
    let usable = match flows.store.clients().find(id).await {
        Ok(client) => Some(client).filter(|client| client.disabled_at.is_none()),
        Err(StoreError::NotFound) => None,
        Err(error) => return Err(FlowError::from(error).into()),
    };
    // An unknown client and a disabled one cost the same work as a known one, and get the same answer.
    let hash = usable.as_ref().map(stored_hash).transpose()?;
    let known = flows.pepper.matches(id, &credential.secret, hash.as_ref());
    let client = usable.filter(|_| known).ok_or(TokenRequestError::InvalidClient)?;

    let permitted: Scopes = client.scopes.join(" ").parse().map_err(FlowError::internal)?;
    let scopes = requested.unwrap_or_else(|| permitted.clone());
    if scopes.is_empty() || !permitted.covers(&scopes) {
        return Err(TokenRequestError::InvalidScope);
    }
    let principal = Principal { tenant: client.tenant, client: id, scopes };
    let token = flows.tokens.issue(&principal).map_err(FlowError::internal)?;
    Ok(Grant { token, scopes: principal.scopes })
}

fn stored_hash(client: &Client) -> Result<ClientSecretHash, FlowError> {
    let bytes: [u8; 32] = client.secret_hash.as_slice().try_into().map_err(FlowError::internal)?;
    Ok(ClientSecretHash::from_bytes(bytes))
}
