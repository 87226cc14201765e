//! A face becomes an encrypted template: consent → image → face → encryption → store.

use std::sync::Arc;

use time::OffsetDateTime;

use super::{
    FlowError, Flows, Page, PageRequest,
    consents::{self, ConsentProof},
    incoming::{self, Incoming, IncomingError, IncomingFace, Received},
    once::{self, Answer, Attempt, Call},
    quality::Quality,
    subjects,
};
use crate::{
    audit::Action,
    domain::{
        consent::Purpose,
        id::{EnrolmentId, SubjectId, TenantId},
        matching::ModelId,
    },
    fhe::encode::QuantizedTemplate,
    measure::{self, Outcome, Stage},
    store::{NewTemplate, TEMPLATES_PER_SUBJECT_MAX, TemplateRow},
    vault::DataKey,
};

#[derive(Debug, Clone, PartialEq)]
pub struct Enrolment {
    pub id: EnrolmentId,
    pub subject: SubjectId,
    pub model: ModelId,
    pub parameters: String,
    /// Made under another model, parameters or key than those in use.
    pub stale: bool,
    /// Known when the face is enrolled; not stored.
    pub quality: Option<Quality>,
    pub created_at: OffsetDateTime,
}

/// No byte of the image is read before the consent was seen; [`incoming::receive`] has the rest.
pub async fn enrol(
    flows: &Flows,
    tenant: TenantId,
    subject: SubjectId,
    incoming: Incoming<impl Future<Output = Result<IncomingFace, IncomingError>>>,
    call: Call<Enrolment>,
) -> Result<Answer, FlowError> {
    let answered = answer(flows, tenant, subject, incoming, call).await;
    if let Err(error) = &answered {
        measure::enrolment(error.outcome());
    }
    answered
}

async fn answer(
    flows: &Flows,
    tenant: TenantId,
    subject: SubjectId,
    incoming: Incoming<impl Future<Output = Result<IncomingFace, IncomingError>>>,
    call: Call<Enrolment>,
) -> Result<Answer, FlowError> {
    let data_key = subjects::data_key(flows, tenant, subject).await?;
    consents::require(flows, tenant, subject, Purpose::face_verification()).await?;
    if call.key.is_none() {
        // Looked at again when the template is stored; here it spares an image that could not be kept.
        refuse_if_full(flows, tenant, subject).await?;
    }
    let received = incoming::receive(flows, tenant, subject, incoming).await?;
    let asked = received.face.fingerprint();
    once::run(flows, &call, &[&asked], async |attempt| {
        let enrolment = encrypt(flows, received).await?;
        store(flows, tenant, subject, enrolment, &data_key, attempt).await
    })
    .await
}

async fn refuse_if_full(flows: &Flows, tenant: TenantId, subject: SubjectId) -> Result<(), FlowError> {
    let rows = flows.store.templates().list(tenant, subject).await?;
    let same_kind = rows.iter().filter(|row| flows.compares(&row.kind)).count();
    if same_kind >= TEMPLATES_PER_SUBJECT_MAX { Err(FlowError::EnrolmentLimitReached) } else { Ok(()) }
}

/// A template in its encrypted form, not stored yet.
struct Encrypted {
    consent: ConsentProof,
    template: Vec<u8>,
    quality: Quality,
}

async fn encrypt(flows: &Flows, received: Received) -> Result<Encrypted, FlowError> {
    let Received { consent, face, place, share } = received;
    let IncomingFace { image, on_multiple_faces, .. } = face;
    let (faces, spec, public_key) =
        (Arc::clone(&flows.faces), Arc::clone(&flows.match_spec), Arc::clone(&flows.public_key));
    let proof = consent.clone();
    let computed = place.run(move || -> Result<_, FlowError> {
        let (embedding, quality) = Stage::Face.run(|| faces.read(&proof, image, on_multiple_faces))?;
        let template = QuantizedTemplate::encode(&spec, &embedding)?;
        Ok((Stage::Encrypt.run(|| public_key.encrypt_template(template).to_bytes()), quality))
    });
    let (template, quality) = computed.await??;
    drop(share);
    Ok(Encrypted { consent, template, quality })
}

async fn store(
    flows: &Flows,
    tenant: TenantId,
    subject: SubjectId,
    encrypted: Encrypted,
    data_key: &DataKey,
    attempt: &Attempt<Enrolment>,
) -> Result<Enrolment, FlowError> {
    let (id, kind, created_at) = (EnrolmentId::generate(), flows.template_kind(), flows.now());
    let row = TemplateRow { id, subject, kind: kind.clone(), created_at };
    let enrolment = Enrolment { quality: Some(encrypted.quality), ..Enrolment::seen_from(flows, row) };
    let act = attempt.act_about(Action::EnrolmentCreated, Some(id.to_string()), subject, Some(data_key), &enrolment)?;
    let purpose = encrypted.consent.purpose();
    let older_key = flows.older_key();
    let new = NewTemplate { id, subject, purpose, kind, older_key, template: &encrypted.template, created_at };
    Stage::Store.complete(flows.store.templates().insert(tenant, new, data_key, act)).await?;
    measure::enrolment(Outcome::Enrolled);
    Ok(enrolment)
}

pub async fn list(
    flows: &Flows,
    tenant: TenantId,
    subject: SubjectId,
    page: PageRequest,
) -> Result<Page<Enrolment>, FlowError> {
    let _not_being_erased = subjects::data_key(flows, tenant, subject).await?;
    let rows = flows.store.templates().list(tenant, subject).await?;
    Ok(Page::of_all(rows, &page, |row| row.id)?.map(|row| Enrolment::seen_from(flows, row)))
}

impl Enrolment {
    fn seen_from(flows: &Flows, row: TemplateRow) -> Self {
        Self {
            id: row.id,
            subject: row.subject,
            stale: !flows.compares(&row.kind),
            model: row.kind.model,
            parameters: row.kind.parameter_id,
            quality: None,
            created_at: row.created_at,
        }
    }
}

pub async fn delete(
    flows: &Flows,
    tenant: TenantId,
    subject: SubjectId,
    enrolment: EnrolmentId,
    call: Call<()>,
) -> Result<Answer, FlowError> {
    once::run(flows, &call, &[], async |attempt| {
        let object = Some(enrolment.to_string());
        let act = attempt.act_about(Action::EnrolmentDeleted, object, subject, None, &())?;
        Ok(flows.store.templates().delete(tenant, subject, enrolment, act).await?)
    })
    .await
}
