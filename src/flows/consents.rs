//! Consent: recorded, withdrawn, and proven before anything is processed.

use std::sync::Arc;

use time::OffsetDateTime;

use super::{
    FlowError, Flows, Page, PageRequest,
    once::{self, Answer, Call},
    subjects,
};
use crate::{
    audit::Action,
    domain::{
        consent::{Consent, Purpose},
        id::{ConsentId, SubjectId, TenantId},
    },
};

/// Evidence that an active consent was seen. Made by [`require`] only; the face pipeline opens to nothing else.
#[derive(Debug, Clone)]
pub struct ConsentProof {
    purpose: Purpose,
}

impl ConsentProof {
    pub fn purpose(&self) -> &Purpose {
        &self.purpose
    }
}

/// Refuses unless `subject` has agreed to `purpose`, at this moment. Who is absent has agreed to nothing: whether the
/// person exists is asked first, by [`subjects::data_key`].
pub async fn require(
    flows: &Flows,
    tenant: TenantId,
    subject: SubjectId,
    purpose: Purpose,
) -> Result<ConsentProof, FlowError> {
    match flows.store.consents().active(tenant, subject, &purpose, flows.now()).await? {
        Some(_) => Ok(ConsentProof { purpose }),
        None => Err(FlowError::ConsentRequired { purpose }),
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewConsent {
    pub purpose: Purpose,
    pub notice_version: String,
    pub expires_at: Option<OffsetDateTime>,
}

pub async fn grant(
    flows: &Flows,
    tenant: TenantId,
    subject: SubjectId,
    new: NewConsent,
    call: Call<Consent>,
) -> Result<Answer, FlowError> {
    once::run(flows, &call, &[], async |attempt| {
        let granted_at = flows.now();
        if new.expires_at.is_some_and(|expires_at| expires_at <= granted_at) {
            return Err(FlowError::ConsentAlreadyExpired);
        }
        let consent = Consent {
            id: ConsentId::generate(),
            subject,
            purpose: new.purpose,
            notice_version: new.notice_version,
            granted_at,
            expires_at: new.expires_at,
            withdrawn_at: None,
        };
        let key = subjects::data_key(flows, tenant, subject).await?;
        let object = Some(consent.id.to_string());
        let act = attempt.act_about(Action::ConsentGranted, object, subject, Some(&key), &consent)?;
        flows.store.consents().insert(tenant, &consent, act).await?;
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
    let _not_being_erased = subjects::data_key(flows, tenant, subject).await?;
    let consents = flows.store.consents().list(tenant, subject).await?;
    Page::of_all(consents, &page, |consent| consent.id)
}

/// Withdraws this consent, and with it every other one of the person for the same purpose. Safe to repeat.
pub async fn withdraw(
    flows: &Flows,
    tenant: TenantId,
    subject: SubjectId,
    consent: ConsentId,
    call: Call<Consent>,
) -> Result<Answer, FlowError> {
    once::run(flows, &call, &[], async |attempt| {
        let key = subjects::data_key(flows, tenant, subject).await?;
        let attempt = Arc::clone(attempt);
        let act = move |withdrawn: &Consent| {
            let object = Some(withdrawn.id.to_string());
            attempt.act_about(Action::ConsentWithdrawn, object, subject, Some(&key), withdrawn)
        };
        Ok(flows.store.consents().withdraw(tenant, subject, consent, flows.now(), act).await?)
    })
    .await
}
