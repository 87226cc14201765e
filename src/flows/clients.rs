//! Tenants and their credentials, for the operator's commands and the embedded mode's first start.

use super::{FlowError, Flows};
use crate::{
    auth::{Scopes, client_secret::ClientSecret},
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
    flows.store.tenants().create(&tenant).await?;
    Ok(tenant.id)
}

pub async fn create(flows: &Flows, tenant: TenantId, name: &str, scopes: Scopes) -> Result<NewCredential, FlowError> {
    let credential = NewCredential { client: ClientId::generate(), secret: ClientSecret::generate() };
    let client = NewClient {
        id: credential.client,
        name: name.to_owned(),
        secret_hash: flows.pepper.hash(credential.client, &credential.secret).to_bytes().to_vec(),
        scopes: scopes.iter().map(|scope| scope.as_str().to_owned()).collect(),
        created_at: flows.now(),
    };
    flows.store.clients().create(tenant, client).await?;
    Ok(credential)
}

pub async fn disable(flows: &Flows, tenant: TenantId, client: ClientId) -> Result<(), FlowError> {
    Ok(flows.store.clients().disable(tenant, client, flows.now()).await?)
}
