//! What is known of a person is kept, and nothing else is done with it, until the restriction is lifted (GDPR, Art. 18).
//!
//! Whoever would process it is refused where consent is proven ([`super::consents`]), so no flow has to think of it. An erasure
//! is still carried out: it is a decision of its own.

use std::sync::Arc;

use super::{
    FlowError, Flows, erasures,
    once::{self, Answer, Call},
    subjects,
};
use crate::{
    audit::{Action, Event},
    domain::{
        id::{SubjectId, TenantId},
        restriction::{Ground, Restriction},
    },
    store::Act,
};

/// Safe to repeat: the first one stands until it is lifted.
pub async fn restrict(
    flows: &Flows,
    tenant: TenantId,
    subject: SubjectId,
    ground: Ground,
    call: Call<Restriction>,
) -> Result<Answer, FlowError> {
    once::run(flows, &call, &[], async |attempt| {
        let key = subjects::data_key(flows, tenant, subject).await?;
        let attempt = Arc::clone(attempt);
        let act = move |standing: &Restriction| {
            let act = attempt.act_about(Action::SubjectRestricted, None, subject, Some(&key), standing)?;
            Ok(Act { event: Event { reason: Some(standing.ground.as_str()), ..act.event }, ..act })
        };
        let restriction = Restriction { ground, since: flows.now() };
        Ok(flows.store.subjects().restrict(tenant, subject, restriction, act).await?)
    })
    .await
}

/// What a withdrawal in the meantime would have opened is opened now. Safe to repeat.
pub async fn lift(flows: &Flows, tenant: TenantId, subject: SubjectId, call: Call<()>) -> Result<Answer, FlowError> {
    once::run(flows, &call, &[], async |attempt| {
        let _not_being_erased = subjects::data_key(flows, tenant, subject).await?;
        let act = attempt.act_about(Action::RestrictionLifted, None, subject, None, &())?;
        let erasure = erasures::after_withdrawal(flows, tenant, subject, call.actor.clone());
        flows.store.subjects().lift_restriction(tenant, subject, erasure, act).await?;
        flows.wake_worker();
        Ok(())
    })
    .await
}
