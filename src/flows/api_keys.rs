//! API keys of a tenant: made, listed, rolled and ended by whoever has the scope `admin`; and what they open.

use time::{Duration, OffsetDateTime};

use super::{
    FlowError, Flows, Page, PageRequest,
    once::{self, Answer, Call},
    tokens::AuthenticationError,
};
use crate::{
    audit::Action,
    auth::{Caller, Identity, Scopes, api_key::ApiKey},
    domain::{
        id::{ApiKeyId, TenantId},
        network::{ClientAddress, Networks},
    },
};

pub use crate::store::ApiKeyRow;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewApiKey {
    pub name: String,
    pub scopes: Scopes,
    pub expires_at: Option<OffsetDateTime>,
    /// From where it may be used; `None`: from everywhere.
    pub allowed_networks: Option<Networks>,
}

/// A fresh key with what is kept of it. The key itself is shown now or never.
pub struct IssuedApiKey {
    pub row: ApiKeyRow,
    pub key: ApiKey,
}

/// Nobody hands out more than he has.
pub async fn create(
    flows: &Flows,
    caller: &Caller,
    new: NewApiKey,
    call: Call<IssuedApiKey>,
) -> Result<Answer, FlowError> {
    once::run(flows, &call, &[], async |attempt| {
        if !caller.scopes.covers(&new.scopes) {
            return Err(FlowError::ScopesBeyondCaller);
        }
        if new.expires_at.is_some_and(|expires_at| expires_at <= flows.now()) {
            return Err(FlowError::ExpiryPast);
        }
        let issued = issue(flows, caller.tenant, new);
        let act = attempt.act(Action::ApiKeyCreated, issued.row.id, &issued);
        flows.store.api_keys().create(issued.row.clone(), act).await?;
        tracing::info!(event = "api_key_made", key = %issued.row.id, tenant = %caller.tenant, "an API key was made");
        Ok(issued)
    })
    .await
}

pub async fn list(flows: &Flows, tenant: TenantId, page: PageRequest) -> Result<Page<ApiKeyRow>, FlowError> {
    let rows = flows.store.api_keys().list(tenant, page.after()?, page.limit()).await?;
    Ok(rows.into())
}

/// A successor with the same name, scopes, expiry and networks; the old key lives on for `overlap`. Once for each key: of an
/// answer that was lost the successor stands in the list, to be ended.
pub async fn roll(
    flows: &Flows,
    caller: &Caller,
    id: ApiKeyId,
    overlap: Duration,
    call: Call<IssuedApiKey>,
) -> Result<Answer, FlowError> {
    once::run(flows, &call, &[], async |attempt| {
        let old = flows.store.api_keys().find(caller.tenant, id).await?;
        let scopes: Scopes = old.scopes.join(" ").parse().map_err(FlowError::internal)?;
        if !caller.scopes.covers(&scopes) {
            return Err(FlowError::ScopesBeyondCaller);
        }
        if old.expires_at.is_some_and(|expires_at| expires_at <= flows.now()) && old.successor.is_none() {
            return Err(FlowError::ExpiryPast);
        }
        let (name, expires_at, allowed_networks) = (old.name, old.expires_at, old.allowed_networks);
        let issued = issue(flows, caller.tenant, NewApiKey { name, scopes, expires_at, allowed_networks });
        let (ends_at, act) = (flows.now() + overlap, attempt.act(Action::ApiKeyRolled, id, &issued));
        flows.store.api_keys().roll(caller.tenant, id, issued.row.clone(), ends_at, act).await?;
        tracing::info!(event = "api_key_rolled", key = %id, successor = %issued.row.id, "an API key was rolled");
        Ok(issued)
    })
    .await
}

/// From the answer on the key opens nothing.
pub async fn revoke(flows: &Flows, tenant: TenantId, id: ApiKeyId, call: Call<()>) -> Result<Answer, FlowError> {
    once::run(flows, &call, &[], async |attempt| {
        let act = attempt.act(Action::ApiKeyRevoked, id, &());
        flows.store.api_keys().revoke(tenant, id, flows.now(), act).await?;
        tracing::info!(event = "api_key_revoked", key = %id, %tenant, "an API key was revoked");
        Ok(())
    })
    .await
}

/// Why a key opens nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ApiKeyError {
    #[error("there is no such API key")]
    Invalid,
    #[error("the API key has expired")]
    Expired,
    #[error("the API key was revoked")]
    Revoked,
    #[error("the API key may not be used from this address")]
    NetworkNotAllowed,
}

/// Who calls with this key. Asks the database each time, so that a key that was ended anywhere is ended everywhere at once.
pub async fn authenticate(
    flows: &Flows,
    text: &str,
    address: Option<ClientAddress>,
) -> Result<Caller, AuthenticationError> {
    let Some(key) = ApiKey::parse(text).ok().filter(|key| key.environment() == flows.environment) else {
        return Err(ApiKeyError::Invalid.into());
    };
    let hash = flows.pepper.hash_api_key(&key);
    let row = flows.store.api_keys().find_by_hash(hash.to_bytes()).await.map_err(FlowError::from)?;
    let row = row.filter(|row| hash.is(&row.key_hash)).ok_or(ApiKeyError::Invalid)?;
    let now = flows.now();
    if row.revoked_at.is_some() {
        return Err(ApiKeyError::Revoked.into());
    }
    if row.expires_at.is_some_and(|expires_at| expires_at <= now) {
        return Err(ApiKeyError::Expired.into());
    }
    // Whose address is not known calls from nowhere that was allowed.
    let allowed = |networks: &Networks| address.is_some_and(|address| networks.contains(address));
    if !row.allowed_networks.as_ref().is_none_or(allowed) {
        return Err(ApiKeyError::NetworkNotAllowed.into());
    }
    flows.store.api_keys().note_use(&row, now).await.map_err(FlowError::from)?;
    let scopes = row.scopes.join(" ").parse().map_err(FlowError::internal)?;
    Ok(Caller { tenant: row.tenant, identity: Identity::ApiKey(row.id), scopes })
}

fn issue(flows: &Flows, tenant: TenantId, new: NewApiKey) -> IssuedApiKey {
    let key = ApiKey::generate(flows.environment);
    let row = ApiKeyRow {
        id: ApiKeyId::generate(),
        tenant,
        name: new.name,
        prefix: key.shown_prefix().to_owned(),
        key_hash: flows.pepper.hash_api_key(&key).to_bytes().to_vec(),
        scopes: new.scopes.iter().map(|scope| scope.as_str().to_owned()).collect(),
        created_at: flows.now(),
        expires_at: new.expires_at,
        revoked_at: None,
        last_used_at: None,
        successor: None,
        allowed_networks: new.allowed_networks,
    };
    IssuedApiKey { row, key }
}
