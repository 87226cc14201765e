//! Tenants and their credentials, for the operator's commands and the embedded mode's first start.

use time::OffsetDateTime;

use super::{FlowError, Flows, revocations};
use crate::{
    audit::Actor,
    auth::{
        Scopes,
        assertion::AssertionKey,
        client_secret::{ClientSecret, Pepper},
        jwt::LONGEST_LIFE,
    },
    domain::id::{ClientId, TenantId},
    store::{NewClient, Tenant},
};

/// A fresh credential. The secret is shown now or never.
pub struct NewCredential {
    pub client: ClientId,
    pub secret: ClientSecret,
}

pub async fn create_tenant(flows: &Flows, name: &str) -> Result<TenantId, FlowError> {
    let tenant = Tenant { id: TenantId::generate(), name: name.to_owned(), created_at: flows.now() };
    flows.store.tenants().create(&tenant, Actor::service()).await?;
    Ok(tenant.id)
}

pub async fn create(flows: &Flows, tenant: TenantId, name: &str, scopes: Scopes) -> Result<NewCredential, FlowError> {
    let (client, credential) = issue(&flows.pepper, name.to_owned(), &scopes, flows.now());
    flows.store.clients().create(tenant, client, Actor::service()).await?;
    Ok(credential)
}

/// A client that will sign for its tokens.
pub async fn create_for_key(
    flows: &Flows,
    tenant: TenantId,
    name: &str,
    key: &AssertionKey,
    scopes: Scopes,
) -> Result<ClientId, FlowError> {
    let client = issue_for_key(key, name.to_owned(), &scopes, flows.now());
    let id = client.id;
    flows.store.clients().create(tenant, client, Actor::service()).await?;
    Ok(id)
}

/// A client to store, with its secret hashed, and the credential to hand out.
pub fn issue(pepper: &Pepper, name: String, scopes: &Scopes, now: OffsetDateTime) -> (NewClient, NewCredential) {
    let credential = NewCredential { client: ClientId::generate(), secret: ClientSecret::generate() };
    let client = NewClient {
        id: credential.client,
        name,
        secret_hash: pepper.hash(credential.client, &credential.secret).to_bytes().to_vec(),
        public_key: None,
        scopes: scopes.iter().map(|scope| scope.as_str().to_owned()).collect(),
        created_at: now,
    };
    (client, credential)
}

/// A client that signs with a key of its own instead of knowing a secret.
pub fn issue_for_key(key: &AssertionKey, name: String, scopes: &Scopes, now: OffsetDateTime) -> NewClient {
    NewClient {
        id: ClientId::generate(),
        name,
        secret_hash: Vec::new(),
        public_key: Some(key.pem().to_owned()),
        scopes: scopes.iter().map(|scope| scope.as_str().to_owned()).collect(),
        created_at: now,
    }
}

pub async fn disable(flows: &Flows, tenant: TenantId, client: ClientId) -> Result<(), FlowError> {
    let now = flows.now();
    flows.store.clients().disable(tenant, client, now + LONGEST_LIFE, now, Actor::operator()).await?;
    revocations::synchronise(flows).await;
    Ok(())
}
