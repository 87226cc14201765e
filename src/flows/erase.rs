//! A person is removed with everything that is known about them.

use super::{
    FlowError, Flows,
    once::{self, Answer, Call},
};
use crate::{
    domain::id::{SubjectId, TenantId},
    store::Receipt,
};

/// The order matters. The data key goes first: from then on nothing about the person can be read, in old backups
/// neither. The row that says the person exists goes last: as long as a step before it failed, the same call finds the
/// person again and finishes the work. Every step may be repeated.
pub async fn erase(flows: &Flows, tenant: TenantId, subject: SubjectId, call: Call<()>) -> Result<Answer, FlowError> {
    once::run(flows, &call, &[], async |attempt| step_by_step(flows, tenant, subject, attempt.receipt(&())).await).await
}

/// An erasure that stopped half-way.
pub(super) async fn finish(flows: &Flows, tenant: TenantId, subject: SubjectId) -> Result<(), FlowError> {
    step_by_step(flows, tenant, subject, None).await
}

async fn step_by_step(
    flows: &Flows,
    tenant: TenantId,
    subject: SubjectId,
    receipt: Option<Receipt>,
) -> Result<(), FlowError> {
    flows.store.subjects().find(tenant, subject).await?;
    flows.keystore.destroy(tenant, subject, flows.now()).await?;
    flows.keyholder.forget(tenant, subject).await?;
    flows.store.subjects().delete(tenant, subject, receipt).await?;
    Ok(())
}
