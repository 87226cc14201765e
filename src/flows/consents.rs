//! Consent: recorded, withdrawn, and proven before anything is processed.

use std::sync::Arc;

use time::OffsetDateTime;

use super::{
    FlowError, Flows, Page, PageRequest, erasures,
    notices::{self, NamedNotice},
    once::{self, Answer, Call},
    subjects,
};
use crate::{
    audit::{Action, Actor},
    domain::{
        consent::{Consent, GivenBy, Method, Purpose, Reference, Statement},
        id::{ConsentId, SubjectId, TenantId},
    },
    store::{NewWithdrawal, StoreError},
};

/// Evidence that an active consent was seen, of a person whose data are not restricted. Made by [`require`] only; the face
/// pipeline opens to nothing else.
#[derive(Debug, Clone)]
pub struct ConsentProof {
    purpose: Purpose,
}

impl ConsentProof {
    pub fn purpose(&self) -> &Purpose {
        &self.purpose
    }
}

/// Refuses unless `subject` has agreed to `purpose`, at this moment, and nothing is restricted. Who is absent has agreed to nothing: whether the
/// person exists is asked first, by [`subjects::data_key`].
pub async fn require(
    flows: &Flows,
    tenant: TenantId,
    subject: SubjectId,
    purpose: Purpose,
) -> Result<ConsentProof, FlowError> {
    match flows.store.consents().active(tenant, subject, &purpose, flows.now()).await {
        Ok(Some(_)) => Ok(ConsentProof { purpose }),
        Ok(None) => Err(FlowError::ConsentRequired { purpose }),
        Err(StoreError::ConsentSuperseded) => Err(FlowError::ConsentSuperseded { purpose }),
        Err(error) => Err(error.into()),
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewConsent {
    pub purpose: Purpose,
    pub notice: NamedNotice,
    pub expires_at: Option<OffsetDateTime>,
    pub how: How,
    pub given_by: GivenBy,
    pub guardian: Option<Reference>,
}

/// How somebody said so, as far as the tenant tells us.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct How {
    pub method: Option<Method>,
    pub evidence: Option<Reference>,
}

impl How {
    fn stated(self, by: &Actor, at: OffsetDateTime) -> Statement {
        Statement { at, by: Some(by.name.clone()), method: self.method, evidence: self.evidence }
    }
}

pub async fn grant(
    flows: &Flows,
    tenant: TenantId,
    subject: SubjectId,
    new: NewConsent,
    call: Call<Consent>,
) -> Result<Answer, FlowError> {
    once::run(flows, &call, &[], async |attempt| {
        let now = flows.now();
        if new.expires_at.is_some_and(|expires_at| expires_at <= now) {
            return Err(FlowError::ConsentAlreadyExpired);
        }
        let key = subjects::data_key(flows, tenant, subject).await?;
        let consent = Consent {
            id: ConsentId::generate(),
            subject,
            notice: notices::shown(flows, tenant, &new.purpose, new.notice).await?,
            purpose: new.purpose,
            granted: new.how.stated(&call.actor, now),
            given_by: new.given_by,
            guardian: new.guardian,
            expires_at: new.expires_at,
            withdrawn: None,
            superseded: false,
        };
        let object = Some(consent.id.to_string());
        let act = attempt.act_about(Action::ConsentGranted, object, subject, Some(&key), &consent)?;
        flows.store.consents().insert(tenant, &consent, &key, act).await?;
        Ok(consent)
    })
    .await
}

pub async fn list(
    flows: &Flows,
    tenant: TenantId,
    subject: SubjectId,
    page: PageRequest,
) -> Result<Page<Consent>, FlowError> {
    let key = subjects::data_key(flows, tenant, subject).await?;
    let rows = flows.store.consents().list(tenant, subject, page.after()?, page.limit(), &key).await?;
    Ok(rows.into())
}

/// Withdraws this consent, and with it every other one of the person for the same purpose. Safe to repeat.
pub async fn withdraw(
    flows: &Flows,
    tenant: TenantId,
    subject: SubjectId,
    consent: ConsentId,
    how: How,
    call: Call<Consent>,
) -> Result<Answer, FlowError> {
    once::run(flows, &call, &[], async |attempt| {
        let key = Arc::new(subjects::data_key(flows, tenant, subject).await?);
        let statement = how.stated(&call.actor, flows.now());
        let (attempt, sealing) = (Arc::clone(attempt), Arc::clone(&key));
        let act = move |withdrawn: &Consent| {
            let object = Some(withdrawn.id.to_string());
            attempt.act_about(Action::ConsentWithdrawn, object, subject, Some(&sealing), withdrawn)
        };
        let erasure = erasures::after_withdrawal(flows, tenant, subject, call.actor.clone());
        let new = NewWithdrawal { statement, key, erasure };
        let withdrawn = flows.store.consents().withdraw(tenant, subject, consent, new, act).await?;
        flows.wake_worker();
        Ok(withdrawn)
    })
    .await
}
