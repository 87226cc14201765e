//! Everything that is known of a person, as one JSON document that a machine can read: the answer to an access request.
//!
//! Whoever adds a table about persons adds it here; `tests/api/access_requests.rs` walks the tables and misses none.

use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use zeroize::Zeroizing;

use super::{FlowError, Flows, receipts, retention::Kept};
use crate::{
    domain::{
        consent::{Consent, Reference, Statement},
        erasure::Regulation,
        id::{AccessId, SubjectId, TenantId},
        notice::Notice,
    },
    store::{self, AccessFilter, AuditFilter, ErasureFilter, PAGE_ROWS_MAX, StoreError},
    vault::DataKey,
};

/// Changes when a reader would have to.
const SCHEMA: &str = "velum.access-package.1";

/// Rights that a person is told of (GDPR, Art. 15(1)(e) and (f); the other laws have much the same).
const RIGHTS: [(&str, &str); 6] = [
    ("withdrawal", "You may withdraw a consent at any time; each notice says how. What was done before stays lawful."),
    ("rectification", "You may ask the controller to correct what is wrong."),
    ("erasure", "You may ask the controller to erase you here; a signed certificate says what was destroyed."),
    ("restriction", "You may ask that what is known of you is kept and not used."),
    ("objection", "You may object to what is done without your consent."),
    ("complaint", "You may complain to the data protection authority where you live or work."),
];

/// What is known and not in the document, and why.
const NOT_INCLUDED: [(&str, &str); 5] = [
    ("photos", "None is kept: a photo is turned into an encrypted template and wiped."),
    (
        "templates",
        "Each is a ciphertext, listed under `enrolments`. The service holds no key that opens one, and nobody is given the \
         ciphertexts: they would tell nothing to you, and would help whoever wants to attack the encryption.",
    ),
    (
        "scores",
        "How similar two faces were is never known in the clear: the keyholder learns yes or no, and so do you.",
    ),
    (
        "keyholder's audit lines",
        "A separate party writes down that it opened a decision, under a hash of its own; it holds no name and no result.",
    ),
    (
        "keyed hashes",
        "Hashes of your name and of calls, by which rows are found; they hold nothing that is not here in the clear.",
    ),
];

/// Which request it answers.
pub(super) struct About {
    pub request: AccessId,
    pub tenant: TenantId,
    pub subject: SubjectId,
    pub regulation: Regulation,
    pub received_at: OffsetDateTime,
    pub expires_at: OffsetDateTime,
}

/// As of now.
pub(super) async fn assemble(flows: &Flows, about: &About, key: &DataKey) -> Result<Zeroizing<Vec<u8>>, FlowError> {
    let (tenant, subject) = (about.tenant, about.subject);
    let store = flows.store.consents();
    let consents = all(async |before| store.list(tenant, subject, before, PAGE_ROWS_MAX, key).await).await?;
    let notices = notices(flows, tenant, &consents).await?;
    let held_by = flows.store.tenants().find(tenant).await?;
    let document = json!({
        "schema": SCHEMA,
        "generated_at": written(flows.now()),
        "issuer": flows.tokens.config().issuer,
        "request": {
            "id": about.request.to_string(), "regulation": about.regulation.as_str(),
            "received_at": written(about.received_at), "expires_at": written(about.expires_at),
        },
        "held_by": { "tenant_id": tenant.to_string(), "name": held_by.name },
        "subject": person(flows, about, key).await?,
        "purposes": purposes(&consents),
        "recipients": named(&notices, |notice| notice.recipients.clone()),
        "consents": consents_with_receipts(flows, about, &consents).await?,
        "notices": notices.iter().map(|(notice, text)| described(notice, text)).collect::<Vec<_>>(),
        "enrolments": enrolments(flows, tenant, subject).await?,
        "verifications": verifications(flows, about, key).await?,
        "failed_attempts": failed_attempts(flows, tenant, subject).await?,
        "erasure_requests": erasure_requests(flows, tenant, subject).await?,
        "access_requests": access_requests(flows, tenant, subject).await?,
        "audit_events": audit_events(flows, tenant, subject).await?,
        "kept_answers": kept_answers(flows, tenant, subject).await?,
        "retention": retention(flows),
        "rights": RIGHTS.map(|(right, what)| json!({ "right": right, "what": what })),
        "contacts": named(&notices, |notice| vec![format!("{}: {}", notice.controller.name, notice.controller.contact)]),
        "source": "What is known of you was given by you, or by whoever is named under `held_by` at your asking.",
        "automated_decisions":
            "A verification answers whether two photos are of one person, by a threshold that it names. What follows from \
             the answer is decided by whoever asked.",
        "not_included": NOT_INCLUDED.map(|(what, why)| json!({ "what": what, "why": why })),
    });
    serde_json::to_vec_pretty(&document).map(Zeroizing::new).map_err(FlowError::internal)
}

async fn person(flows: &Flows, about: &About, key: &DataKey) -> Result<Value, FlowError> {
    let row = flows.store.subjects().find(about.tenant, about.subject).await?;
    Ok(json!({
        "id": row.id.to_string(),
        "external_ref": row.open_external_ref(key)?.as_str(),
        "digest": flows.pepper.subject_digest(about.tenant, about.subject).to_string(),
        "created_at": written(row.created_at),
        "last_used_at": row.last_used_at.map(written),
        "restriction": row.restriction.map(|restriction| json!({
            "reason": restriction.ground.as_str(), "since": written(restriction.since),
        })),
        "data_key": "One key seals what is known of you; erasing you destroys it.",
    }))
}

/// The notices that the person was shown, each once, with their texts.
async fn notices(flows: &Flows, tenant: TenantId, consents: &[Consent]) -> Result<Vec<(Notice, String)>, FlowError> {
    let mut ids: Vec<_> = consents.iter().filter_map(|consent| consent.notice.id).collect();
    ids.sort();
    ids.dedup();
    let mut found = Vec::with_capacity(ids.len());
    for id in ids {
        let notice = flows.store.notices().find(tenant, id).await?;
        found.push((notice, flows.store.notices().text(tenant, id).await?));
    }
    Ok(found)
}

/// What the notices name, each once.
fn named(notices: &[(Notice, String)], what: impl Fn(&Notice) -> Vec<String>) -> Vec<String> {
    let mut named: Vec<_> = notices.iter().flat_map(|(notice, _)| what(notice)).collect();
    named.sort();
    named.dedup();
    named
}

fn purposes(consents: &[Consent]) -> Vec<String> {
    let mut purposes: Vec<_> = consents.iter().map(|consent| consent.purpose.to_string()).collect();
    purposes.sort();
    purposes.dedup();
    purposes
}

fn described(notice: &Notice, text: &str) -> Value {
    json!({
        "id": notice.id.to_string(),
        "purpose": notice.purpose.to_string(),
        "version": notice.version,
        "language": notice.language.to_string(),
        "text": text,
        "text_sha256": hex::encode(notice.text_sha256),
        "controller": { "name": notice.controller.name, "contact": notice.controller.contact },
        "retention": notice.retention,
        "data_categories": notice.data_categories,
        "recipients": notice.recipients,
        "jurisdiction": notice.jurisdiction,
        "policy_url": notice.policy_url,
        "withdrawal_method": notice.withdrawal_method,
    })
}

async fn consents_with_receipts(flows: &Flows, about: &About, consents: &[Consent]) -> Result<Vec<Value>, FlowError> {
    let mut given = Vec::with_capacity(consents.len());
    for consent in consents {
        let receipt = receipts::of_consent(flows, about.tenant, about.subject, consent.id).await?;
        given.push(json!({
            "id": consent.id.to_string(),
            "purpose": consent.purpose.to_string(),
            "state": consent.state(flows.now()).as_str(),
            "notice_id": consent.notice.id.map(|id| id.to_string()),
            "notice_version": consent.notice.version,
            "granted": statement(&consent.granted),
            "given_by": consent.given_by.as_str(),
            "guardian_ref": consent.guardian.as_ref().map(Reference::expose_text),
            "expires_at": consent.expires_at.map(written),
            "withdrawn": consent.withdrawn.as_ref().map(statement),
            "receipt": receipt,
        }));
    }
    Ok(given)
}

fn statement(statement: &Statement) -> Value {
    json!({
        "at": written(statement.at),
        "recorded_by": statement.by,
        "method": statement.method.map(|method| method.as_str()),
        "evidence_ref": statement.evidence.as_ref().map(Reference::expose_text),
    })
}

async fn enrolments(flows: &Flows, tenant: TenantId, subject: SubjectId) -> Result<Vec<Value>, FlowError> {
    let rows = flows.store.templates().list(tenant, subject).await?;
    let described = |row: store::TemplateRow| {
        json!({
            "id": row.id.to_string(), "model": row.kind.model.to_string(), "parameters": row.kind.parameter_id,
            "encryption_key_id": row.kind.fhe_key_id, "created_at": written(row.created_at),
        })
    };
    Ok(rows.into_iter().map(described).collect())
}

async fn verifications(flows: &Flows, about: &About, key: &DataKey) -> Result<Vec<Value>, FlowError> {
    let store = flows.store.verifications();
    let rows = all(async |before| store.list(about.tenant, about.subject, before, PAGE_ROWS_MAX, key).await).await?;
    let described = |row: store::Verification| {
        json!({
            "id": row.id.to_string(), "decision": if row.decision.is_match() { "match" } else { "no_match" }, "model": row.model.to_string(),
            "threshold": row.threshold.0, "false_match_rate": row.false_match_rate.to_string(),
            "created_at": written(row.created_at),
        })
    };
    Ok(rows.into_iter().map(described).collect())
}

async fn failed_attempts(flows: &Flows, tenant: TenantId, subject: SubjectId) -> Result<Value, FlowError> {
    let series = flows.store.attempts().series(tenant, subject).await?;
    Ok(series.map_or(
        Value::Null,
        |(failures, blocked_until)| json!({ "in_a_row": failures, "blocked_until": written(blocked_until) }),
    ))
}

async fn erasure_requests(flows: &Flows, tenant: TenantId, subject: SubjectId) -> Result<Vec<Value>, FlowError> {
    let filter = ErasureFilter { state: None, subject: Some(flows.pepper.subject_digest(tenant, subject)) };
    let store = flows.store.erasures();
    let rows = all(async |before| store.list(tenant, filter.clone(), before, PAGE_ROWS_MAX).await).await?;
    let described = |row: store::ErasureRequest| {
        json!({
            "id": row.id.to_string(), "regulation": row.regulation.as_str(), "state": row.state.as_str(),
            "reason": row.reason, "received_at": written(row.received_at), "due_at": written(row.due_at),
            "ended_at": row.ended_at.map(written),
        })
    };
    Ok(rows.into_iter().map(described).collect())
}

async fn access_requests(flows: &Flows, tenant: TenantId, subject: SubjectId) -> Result<Vec<Value>, FlowError> {
    let now = flows.now();
    let filter = AccessFilter { state: None, subject: Some(subject), now };
    let store = flows.store.access_requests();
    let rows = all(async |before| store.list(tenant, filter.clone(), before, PAGE_ROWS_MAX).await).await?;
    let described = |row: store::AccessRequest| {
        json!({
            "id": row.id.to_string(), "regulation": row.regulation.as_str(), "state": row.state_at(now).as_str(),
            "reason": row.reason, "received_at": written(row.received_at), "due_at": written(row.due_at),
            "ended_at": row.ended_at.map(written),
            "package": row.package.map(|package| json!({
                "encrypted_for": package.lock.as_str(), "expires_at": written(package.expires_at),
                "downloads": package.downloads,
            })),
        })
    };
    Ok(rows.into_iter().map(described).collect())
}

async fn audit_events(flows: &Flows, tenant: TenantId, subject: SubjectId) -> Result<Vec<Value>, FlowError> {
    let subject = Some(flows.pepper.subject_digest(tenant, subject));
    let filter = AuditFilter { subject, ..AuditFilter::default() };
    let store = flows.store.audit();
    let entries = all(async |before| store.list(tenant, filter.clone(), before, PAGE_ROWS_MAX).await).await?;
    entries.iter().map(|entry| serde_json::to_value(entry).map_err(FlowError::internal)).collect()
}

async fn kept_answers(flows: &Flows, tenant: TenantId, subject: SubjectId) -> Result<Vec<Value>, FlowError> {
    let kept = flows.store.idempotency().about(tenant, subject).await?;
    let described = |kept: store::KeptAnswer| {
        json!({
            "status": kept.status, "location": kept.location, "kept_since": written(kept.created_at),
            "what": "The answer to a call about you, kept for a day for whoever sends that call again; its content is here.",
        })
    };
    Ok(kept.into_iter().map(described).collect())
}

fn retention(flows: &Flows) -> Vec<Value> {
    let described = |kept: Kept| {
        json!({
            "record": kept.record, "kept_seconds": kept.time.whole_seconds(),
            "counted_from": kept.counted_from, "purpose": kept.serves.as_str(),
        })
    };
    flows.kept().into_iter().map(described).collect()
}

/// Every row of a list that comes in pages.
async fn all<T, Cursor>(
    page: impl AsyncFn(Option<Cursor>) -> Result<store::Page<T, Cursor>, StoreError>,
) -> Result<Vec<T>, FlowError> {
    let (mut items, mut before) = (vec![], None);
    loop {
        let next = page(before).await?;
        items.extend(next.items);
        before = match next.next {
            None => return Ok(items),
            cursor => cursor,
        };
    }
}

/// Every moment of ours has a form in RFC 3339: the years 1970 to 9999.
fn written(moment: OffsetDateTime) -> String {
    moment.format(&Rfc3339).unwrap_or_default()
}
