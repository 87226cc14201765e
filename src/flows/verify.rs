//! Is this the same person? consent → templates → image → face → encrypted comparison → the keyholder's one bit → record.

use std::sync::Arc;

use time::OffsetDateTime;

use super::{
    FlowError, Flows, Page, PageRequest, consents,
    incoming::{self, Incoming, IncomingError, IncomingFace, Received},
    once::{self, Answer, Attempt, Call},
    quality::Quality,
    subjects,
};
use crate::{
    audit::Action,
    domain::{
        consent::Purpose,
        decision::{Decision, FalseMatchRate},
        id::{SubjectId, TenantId, VerificationId},
        matching::{MatchSpec, Metric, ModelId, Threshold},
    },
    fhe::{decide::EncryptedDecision, encode::QuantizedProbe, encrypt::EncryptedTemplate},
    keyholder::OpenRequest,
    measure::{self, Limit, Outcome, Stage},
    store::{self, NewVerification, StoredTemplate},
    vault::DataKey,
};

#[derive(Debug, Clone, PartialEq)]
pub struct Verification {
    pub id: VerificationId,
    pub subject: SubjectId,
    pub decision: Decision,
    pub model: ModelId,
    /// Unknown for a past verification under a model that is no longer loaded.
    pub metric: Option<Metric>,
    pub threshold: Threshold,
    pub false_match_rate: FalseMatchRate,
    /// Known when the face is verified; not stored.
    pub quality: Option<Quality>,
    pub created_at: OffsetDateTime,
}

/// No byte of the image is read before the consent was seen; [`incoming::receive`] has the rest.
pub async fn verify(
    flows: &Flows,
    tenant: TenantId,
    subject: SubjectId,
    incoming: Incoming<impl Future<Output = Result<IncomingFace, IncomingError>>>,
    call: Call<Verification>,
) -> Result<Answer, FlowError> {
    let answered = answer(flows, tenant, subject, incoming, call).await;
    if let Err(error) = &answered {
        measure::verification(error.outcome());
    }
    answered
}

async fn answer(
    flows: &Flows,
    tenant: TenantId,
    subject: SubjectId,
    incoming: Incoming<impl Future<Output = Result<IncomingFace, IncomingError>>>,
    call: Call<Verification>,
) -> Result<Answer, FlowError> {
    let data_key = subjects::data_key(flows, tenant, subject).await?;
    consents::require(flows, tenant, subject, Purpose::face_verification()).await?;
    if call.key.is_none() {
        // Looked at again when a decision is opened; here it spares an image that nothing would be decided about.
        refuse_if_blocked(flows, tenant, subject).await?;
    }
    let templates = comparable_templates(flows, tenant, subject, &data_key).await?;
    let received = incoming::receive(flows, tenant, subject, incoming).await?;
    let asked = received.face.fingerprint();
    once::run(flows, &call, &[&asked], async |attempt| {
        let compared = compare(flows, received, templates).await?;
        open(flows, tenant, subject, compared, &data_key, attempt).await
    })
    .await
}

fn blocked(now: OffsetDateTime, until: OffsetDateTime) -> FlowError {
    measure::limit_reached(Limit::Attempts);
    FlowError::blocked(now, until)
}

async fn refuse_if_blocked(flows: &Flows, tenant: TenantId, subject: SubjectId) -> Result<(), FlowError> {
    let now = flows.now();
    match flows.store.attempts().blocked_until(tenant, subject, now).await? {
        Some(until) => Err(blocked(now, until)),
        None => Ok(()),
    }
}

/// A comparison that nobody knows the outcome of yet.
struct Compared {
    purpose: Purpose,
    decisions: Vec<EncryptedDecision>,
    threshold: Threshold,
    false_match_rate: FalseMatchRate,
    quality: Quality,
}

async fn compare(flows: &Flows, received: Received, templates: Vec<EncryptedTemplate>) -> Result<Compared, FlowError> {
    let Received { consent, face, place, share } = received;
    let IncomingFace { image, on_multiple_faces, false_match_rate } = face;
    let false_match_rate = false_match_rate.unwrap_or(flows.default_false_match_rate);
    let threshold = flows.threshold(false_match_rate)?;
    let purpose = consent.purpose().clone();

    let (faces, spec) = (Arc::clone(&flows.faces), Arc::clone(&flows.match_spec));
    let (public_key, evaluation_key) = (Arc::clone(&flows.public_key), Arc::clone(&flows.evaluation_key));
    let rekey = flows.rekey.clone();
    let computed = place.run(move || -> Result<(Vec<EncryptedDecision>, Quality), FlowError> {
        let (embedding, quality) = Stage::Face.run(|| faces.read(&consent, image, on_multiple_faces))?;
        let probe = QuantizedProbe::encode(&spec, &embedding)?;
        let probe = Stage::Encrypt.run(|| public_key.encrypt_probe(probe));
        let decide = |template: &EncryptedTemplate| {
            let renewed = rekey.as_ref().filter(|rekey| rekey.from() == template.key_id());
            let renewed = renewed.map(|rekey| rekey.apply(template, &public_key)).transpose()?;
            let score = evaluation_key.score(&probe, renewed.as_ref().unwrap_or(template))?;
            evaluation_key.decide(score, threshold)
        };
        let decisions = Stage::Decide.run(|| templates.iter().map(decide).collect::<Result<_, _>>());
        Ok((decisions.map_err(FlowError::internal)?, quality))
    });
    let (decisions, quality) = computed.await??;
    drop(share);
    Ok(Compared { purpose, decisions, threshold, false_match_rate, quality })
}

/// Has the keyholder open the decision, and records it. The attempt is counted before: what is known of it afterwards can
/// only be too much, never too little.
async fn open(
    flows: &Flows,
    tenant: TenantId,
    subject: SubjectId,
    compared: Compared,
    data_key: &DataKey,
    attempt: &Attempt<Verification>,
) -> Result<Verification, FlowError> {
    let Compared { purpose, decisions, threshold, false_match_rate, quality } = compared;
    // Who withdrew meanwhile is not decided about, and costs no budget.
    let consent = consents::require(flows, tenant, subject, purpose).await?;
    let now = flows.now();
    let begun = flows.store.attempts().begin(tenant, subject, flows.attempt_rule, now).await?;
    begun.map_err(|until| blocked(now, until))?;
    let id = VerificationId::generate();
    let request = OpenRequest { verification: id, tenant, subject, decisions };
    let opened = Stage::Open.complete(flows.keyholder.open(request)).await;
    if opened.is_err() {
        // Nothing was told, so nothing was tried. One that stays behind only slows down.
        let _stays_behind = flows.store.attempts().undo(tenant, subject).await;
    }
    let row = store::Verification {
        id,
        subject,
        decision: opened?,
        model: flows.match_spec.model.clone(),
        threshold,
        false_match_rate,
        created_at: flows.now(),
    };
    let verification =
        Verification { quality: Some(quality), ..Verification::seen_from(&flows.match_spec, row.clone()) };
    let object = Some(id.to_string());
    let act = attempt.act_about(Action::VerificationDecided, object, subject, Some(data_key), &verification)?;
    let new = NewVerification { verification: row, purpose: consent.purpose() };
    Stage::Store.complete(flows.store.verifications().insert(tenant, new, data_key, act)).await?;
    measure::verification(if verification.decision == Decision::Match { Outcome::Match } else { Outcome::NoMatch });
    Ok(verification)
}

/// The person's templates that can be compared today, opened from under the person's data key.
async fn comparable_templates(
    flows: &Flows,
    tenant: TenantId,
    subject: SubjectId,
    data_key: &DataKey,
) -> Result<Vec<EncryptedTemplate>, FlowError> {
    let kind = flows.template_kind();
    let older_key = flows.older_key();
    let stored = flows.store.templates().load(tenant, subject, &kind, older_key.as_deref(), data_key).await?;
    if stored.is_empty() {
        let others = flows.store.templates().list(tenant, subject).await?;
        return Err(if others.is_empty() { FlowError::NoEnrolment } else { FlowError::EnrolmentsStale });
    }
    let read = |row: &StoredTemplate| {
        let key_id = row.fhe_key_id.parse().map_err(FlowError::internal)?;
        EncryptedTemplate::from_bytes(&row.template, key_id).map_err(FlowError::internal)
    };
    stored.iter().map(read).collect()
}

pub async fn list(
    flows: &Flows,
    tenant: TenantId,
    subject: SubjectId,
    page: PageRequest,
) -> Result<Page<Verification>, FlowError> {
    let data_key = subjects::data_key(flows, tenant, subject).await?;
    let rows = flows.store.verifications().list(tenant, subject, page.after()?, page.limit(), &data_key).await?;
    let items = rows.items.into_iter().map(|row| Verification::seen_from(&flows.match_spec, row)).collect();
    Ok(Page { items, next_cursor: rows.next.map(Page::<Verification>::cursor) })
}

impl Verification {
    fn seen_from(current: &MatchSpec, row: store::Verification) -> Self {
        Self {
            id: row.id,
            subject: row.subject,
            decision: row.decision,
            metric: (row.model == current.model).then_some(current.metric),
            model: row.model,
            threshold: row.threshold,
            false_match_rate: row.false_match_rate,
            quality: None,
            created_at: row.created_at,
        }
    }
}
