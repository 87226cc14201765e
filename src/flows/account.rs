//! What a tenant may know about itself: its name, what was done for it, how much it holds.

use super::{FlowError, Flows, Page, PageRequest};
use crate::domain::id::{SubjectId, TenantId};
pub use crate::store::{Held, HistoryEntry, HistoryKind, TenantCounts};

/// What was done to whom and when, newest first; of a verification not how it came out.
pub async fn history(
    flows: &Flows,
    tenant: TenantId,
    subject: Option<SubjectId>,
    page: PageRequest,
) -> Result<Page<HistoryEntry>, FlowError> {
    let rows = flows.store.history().list(tenant, subject, page.after()?, page.limit()).await?;
    Ok(rows.into())
}

/// How much there is about one person.
pub async fn held(flows: &Flows, tenant: TenantId, subject: SubjectId) -> Result<Held, FlowError> {
    Ok(flows.store.history().held(tenant, subject).await?)
}

pub async fn tenant_name(flows: &Flows, tenant: TenantId) -> Result<String, FlowError> {
    Ok(flows.store.tenants().find(tenant).await?.name)
}

pub async fn counts(flows: &Flows, tenant: TenantId) -> Result<TenantCounts, FlowError> {
    Ok(flows.store.history().counts(tenant, flows.now()).await?)
}
