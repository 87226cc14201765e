//! One-to-one comparisons.

use actix_web::{HttpResponse, web::Data};

use crate::{
    domain::id::SubjectId,
    flows::{
        Flows,
        verify::{self, Verification},
    },
    http::{
        extract::{Caller, InPath, Query},
        idempotency::{self, Once, respond},
        openapi::VerificationForm,
        problem::Problem,
        upload::{Upload, VERIFICATION_OPTIONS},
        wire::{PageBody, PageQuery, VerificationBody},
    },
};

/// Ask whether the face in an image is this person's.
///
/// The comparison happens on ciphertexts; yes or no comes back, and never a score. Needs an active consent for
/// `face_verification`; without one the image is not even read.
#[utoipa::path(post, path = "/v1/subjects/{subject}/verifications", tag = "verifications",
    params(("subject" = String, Path),
        ("on_multiple_faces" = Option<String>, Query, pattern = "^(refuse|largest)$",
            description = "`refuse` (default) or `largest`; a form field of this name counts as well."),
        ("false_match_rate" = Option<String>, Query, pattern = "^1e-[234]$",
            description = "`1e-2`, `1e-3` or `1e-4`; a form field of this name counts as well.")),
    request_body(content((VerificationForm = "multipart/form-data"), (Vec<u8> = "image/jpeg"), (Vec<u8> = "image/png"),
        (Vec<u8> = "image/webp"), (Vec<u8> = "application/octet-stream"))),
    responses((status = 201, body = VerificationBody)))]
pub async fn create(
    caller: Caller,
    flows: Data<Flows>,
    subject: InPath<SubjectId>,
    once: Once,
    upload: Upload,
) -> Result<HttpResponse, Problem> {
    let incoming = upload.incoming(VERIFICATION_OPTIONS);
    let call = once
        .call(|verification: &Verification| idempotency::created(None, VerificationBody::from(verification.clone())));
    Ok(respond(verify::verify(&flows, caller.tenant, subject.0, incoming, call).await?))
}

/// List what was asked about a person, newest first.
#[utoipa::path(get, path = "/v1/subjects/{subject}/verifications", tag = "verifications",
    params(("subject" = String, Path), PageQuery), responses((status = 200, body = PageBody<VerificationBody>)))]
pub async fn list(
    caller: Caller,
    flows: Data<Flows>,
    subject: InPath<SubjectId>,
    Query(page): Query<PageQuery>,
) -> Result<HttpResponse, Problem> {
    let page = verify::list(&flows, caller.tenant, subject.0, page.try_into()?).await?;
    Ok(HttpResponse::Ok().json(PageBody::of(page, VerificationBody::from)))
}
