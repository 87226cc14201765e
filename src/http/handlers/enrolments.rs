//! Stored, encrypted templates.

use actix_web::{HttpResponse, web::Data};

use crate::{
    domain::id::{EnrolmentId, SubjectId},
    flows::{
        Flows,
        enrol::{self, Enrolment},
    },
    http::{
        extract::{Caller, InPath, Query},
        idempotency::{self, Once, respond},
        openapi::EnrolmentForm,
        problem::Problem,
        upload::{ENROLMENT_OPTIONS, Upload},
        wire::{EnrolmentBody, PageBody, PageQuery},
    },
};

/// Enrol a face: the image becomes an encrypted template and is forgotten.
///
/// Needs an active consent for `face_verification`; without one the image is not even read.
#[utoipa::path(post, path = "/v1/subjects/{subject}/enrolments", tag = "enrolments",
    params(("subject" = String, Path), ("on_multiple_faces" = Option<String>, Query, pattern = "^(refuse|largest)$",
        description = "`refuse` (default) or `largest`; a form field of this name counts as well.")),
    request_body(content((EnrolmentForm = "multipart/form-data"), (Vec<u8> = "image/jpeg"), (Vec<u8> = "image/png"),
        (Vec<u8> = "image/webp"), (Vec<u8> = "application/octet-stream"))),
    responses((status = 201, body = EnrolmentBody)))]
pub async fn create(
    caller: Caller,
    flows: Data<Flows>,
    subject: InPath<SubjectId>,
    once: Once,
    upload: Upload,
) -> Result<HttpResponse, Problem> {
    let incoming = upload.incoming(ENROLMENT_OPTIONS);
    let call = once.call(|enrolment: &Enrolment| idempotency::created(None, EnrolmentBody::from(enrolment.clone())));
    Ok(respond(enrol::enrol(&flows, caller.tenant, subject.0, incoming, call).await?))
}

/// List a person's templates.
#[utoipa::path(get, path = "/v1/subjects/{subject}/enrolments", tag = "enrolments",
    params(("subject" = String, Path), PageQuery), responses((status = 200, body = PageBody<EnrolmentBody>)))]
pub async fn list(
    caller: Caller,
    flows: Data<Flows>,
    subject: InPath<SubjectId>,
    Query(page): Query<PageQuery>,
) -> Result<HttpResponse, Problem> {
    let page = enrol::list(&flows, caller.tenant, subject.0, page.try_into()?).await?;
    Ok(HttpResponse::Ok().json(PageBody::of(page, EnrolmentBody::from)))
}

/// Remove one template.
#[utoipa::path(delete, path = "/v1/subjects/{subject}/enrolments/{enrolment}", tag = "enrolments",
    params(("subject" = String, Path), ("enrolment" = String, Path)),
    responses((status = 204, description = "Removed.")))]
pub async fn delete(
    caller: Caller,
    flows: Data<Flows>,
    subject: InPath<SubjectId>,
    enrolment: InPath<EnrolmentId>,
    once: Once,
) -> Result<HttpResponse, Problem> {
    let call = once.call(idempotency::no_content);
    Ok(respond(enrol::delete(&flows, caller.tenant, subject.0, enrolment.0, call).await?))
}
