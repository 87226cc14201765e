//! The receipt of a consent: what was agreed to, in a signed document that the person can keep and anybody can check.
//!
//! Its members are named after ISO/IEC TS 27560 (tables of 6.3 and 6.4); docs/compliance.md says which is which, there and in
//! Kantara's Consent Receipt 1.1. The person is named by id alone, the notice by the hash of its text; references to
//! documents stay here.

use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{FlowError, Flows, subjects};
use crate::{
    auth::evidence::Document,
    domain::{
        consent::{Consent, Statement},
        id::{ConsentId, SubjectId, TenantId},
        notice::Notice,
    },
};

/// Changes when a reader would have to.
const SCHEMA: &str = "velum.consent-receipt.1";

/// A receipt as of now, of a consent in whatever state it is.
pub async fn of_consent(
    flows: &Flows,
    tenant: TenantId,
    subject: SubjectId,
    consent: ConsentId,
) -> Result<String, FlowError> {
    let key = subjects::data_key(flows, tenant, subject).await?;
    let consent = flows.store.consents().find(tenant, subject, consent, &key).await?;
    let notice = match consent.notice.id {
        Some(id) => Some(flows.store.notices().find(tenant, id).await?),
        None => None,
    };
    let controller = match &notice {
        Some(notice) => party(tenant, &notice.controller.name, Some(&notice.controller.contact)),
        None => party(tenant, &flows.store.tenants().find(tenant).await?.name, None),
    };
    let now = flows.now();
    let receipt = Receipt::new(flows.tokens.config().issuer.clone(), now, &consent, notice.as_ref(), controller);
    flows.evidence.sign(Document::ConsentReceipt, &receipt, now).map_err(FlowError::internal)
}

#[derive(Serialize)]
struct Receipt {
    iss: String,
    iat: i64,
    jti: String,
    sub: String,
    schema_version: &'static str,
    record_id: String,
    pii_principal_id: String,
    privacy_notice: PrivacyNotice,
    #[serde(skip_serializing_if = "Option::is_none")]
    language: Option<String>,
    purposes: [Purpose; 1],
    pii_controllers: [Party; 1],
    events: Vec<Event>,
    /// At the moment of `iat`.
    state: &'static str,
}

#[derive(Serialize)]
struct PrivacyNotice {
    version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    /// Of the text, in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
}

#[derive(Serialize)]
struct Purpose {
    purpose: String,
    lawful_basis: &'static str,
    consent_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    collection_method: Option<&'static str>,
    pii_information: Vec<PiiInformation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retention_period: Option<String>,
    recipient_third_parties: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    withdrawal_method: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jurisdiction: Option<String>,
}

#[derive(Serialize)]
struct PiiInformation {
    pii_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    special_pii_category: Option<&'static str>,
}

#[derive(Serialize)]
struct Party {
    party_id: String,
    party_name: String,
    party_role: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    party_contact: Option<String>,
}

/// What was said, or what time did.
#[derive(Serialize)]
struct Event {
    event_type: &'static str,
    event_time: String,
    /// Until when, if not for good.
    #[serde(skip_serializing_if = "Option::is_none")]
    valid_until: Option<String>,
    /// The credential that recorded it.
    #[serde(skip_serializing_if = "Option::is_none")]
    entity_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    given_by: Option<&'static str>,
}

impl Receipt {
    fn new(iss: String, now: OffsetDateTime, consent: &Consent, notice: Option<&Notice>, controller: Party) -> Self {
        Self {
            iss,
            iat: now.unix_timestamp(),
            jti: format!("{}-{}", consent.id, now.unix_timestamp()),
            sub: consent.subject.to_string(),
            schema_version: SCHEMA,
            record_id: consent.id.to_string(),
            pii_principal_id: consent.subject.to_string(),
            privacy_notice: PrivacyNotice {
                version: consent.notice.version.clone(),
                id: consent.notice.id.map(|id| id.to_string()),
                sha256: notice.map(|notice| hex::encode(notice.text_sha256)),
                url: notice.and_then(|notice| notice.policy_url.clone()),
            },
            language: notice.map(|notice| notice.language.to_string()),
            purposes: [purpose(consent, notice)],
            pii_controllers: [controller],
            events: events(consent),
            state: consent.state(now).as_str(),
        }
    }
}

fn purpose(consent: &Consent, notice: Option<&Notice>) -> Purpose {
    let special_pii_category = consent.purpose.is_biometric().then_some("biometric");
    let categories = notice.map(|notice| notice.data_categories.clone()).unwrap_or_default();
    let information = |pii_type| PiiInformation { pii_type, special_pii_category };
    Purpose {
        purpose: consent.purpose.to_string(),
        lawful_basis: "consent",
        consent_type: "explicit",
        collection_method: consent.granted.method.map(|method| method.as_str()),
        pii_information: categories.into_iter().map(information).collect(),
        retention_period: notice.map(|notice| notice.retention.clone()),
        recipient_third_parties: notice.map(|notice| notice.recipients.clone()).unwrap_or_default(),
        withdrawal_method: notice.and_then(|notice| notice.withdrawal_method.clone()),
        jurisdiction: notice.and_then(|notice| notice.jurisdiction.clone()),
    }
}

fn party(tenant: TenantId, name: &str, contact: Option<&str>) -> Party {
    Party {
        party_id: tenant.to_string(),
        party_name: name.to_owned(),
        party_role: "pii_controller",
        party_contact: contact.map(str::to_owned),
    }
}

fn events(consent: &Consent) -> Vec<Event> {
    let said = |event_type, statement: &Statement| Event {
        event_type,
        event_time: written(statement.at),
        valid_until: None,
        entity_id: statement.by.clone(),
        method: statement.method.map(|method| method.as_str()),
        given_by: None,
    };
    let granted = Event {
        valid_until: consent.expires_at.map(written),
        given_by: Some(consent.given_by.as_str()),
        ..said("granted", &consent.granted)
    };
    let withdrawn = consent.withdrawn.as_ref().map(|statement| said("withdrawn", statement));
    std::iter::once(granted).chain(withdrawn).collect()
}

/// Every moment of ours has a form in RFC 3339: the years 1970 to 9999.
fn written(moment: OffsetDateTime) -> String {
    moment.format(&Rfc3339).unwrap_or_default()
}
