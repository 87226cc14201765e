//! People.

use actix_web::{HttpResponse, web::Data};

use crate::{
    domain::id::{ErasureId, SubjectId},
    flows::{
        Flows, erasures,
        once::Answer,
        subjects::{self, Subject},
    },
    http::{
        extract::{Caller, InPath, Json, Query},
        handlers::erasures::location,
        idempotency::{self, Once, respond},
        problem::Problem,
        wire::{ExternalRef, NewSubjectBody, PageBody, PageQuery, SubjectBody, SubjectPatchBody, SubjectQuery},
    },
};

/// Register a person.
#[utoipa::path(post, path = "/v1/subjects", tag = "subjects", request_body = NewSubjectBody,
    responses((status = 201, body = SubjectBody, headers(("Location" = String)))))]
pub async fn create(
    caller: Caller,
    flows: Data<Flows>,
    once: Once,
    Json(body, asked): Json<NewSubjectBody>,
) -> Result<HttpResponse, Problem> {
    let ExternalRef(external_ref) = ExternalRef::parse(body.external_ref)?;
    let call = once.asking(asked).call(|subject: &Subject| {
        let location = format!("/v1/subjects/{}", subject.id);
        idempotency::created(Some(location), SubjectBody::from(subject.clone()))
    });
    Ok(respond(subjects::create(&flows, caller.tenant, &external_ref, call).await?))
}

/// List people, or find one by your own name for them.
#[utoipa::path(get, path = "/v1/subjects", tag = "subjects", params(SubjectQuery),
    responses((status = 200, body = PageBody<SubjectBody>)))]
pub async fn list(
    caller: Caller,
    flows: Data<Flows>,
    Query(query): Query<SubjectQuery>,
) -> Result<HttpResponse, Problem> {
    let page = PageQuery { limit: query.limit, cursor: query.cursor }.try_into()?;
    let found = match query.external_ref {
        Some(external_ref) => subjects::find(&flows, caller.tenant, &ExternalRef::parse(external_ref)?.0).await?,
        None => subjects::list(&flows, caller.tenant, page).await?,
    };
    Ok(HttpResponse::Ok().json(PageBody::of(found, SubjectBody::from)))
}

/// Look at one person.
#[utoipa::path(get, path = "/v1/subjects/{subject}", tag = "subjects",
    params(("subject" = String, Path)), responses((status = 200, body = SubjectBody)))]
pub async fn show(caller: Caller, flows: Data<Flows>, subject: InPath<SubjectId>) -> Result<HttpResponse, Problem> {
    let subject = subjects::show(&flows, caller.tenant, subject.0).await?;
    Ok(HttpResponse::Ok().json(SubjectBody::from(subject)))
}

/// Put right your own name for a person. What is known of the face is put right by deleting an enrolment and enrolling again.
#[utoipa::path(patch, path = "/v1/subjects/{subject}", tag = "subjects",
    params(("subject" = String, Path)), request_body = SubjectPatchBody, responses((status = 200, body = SubjectBody)))]
pub async fn rectify(
    caller: Caller,
    flows: Data<Flows>,
    subject: InPath<SubjectId>,
    once: Once,
    Json(body, asked): Json<SubjectPatchBody>,
) -> Result<HttpResponse, Problem> {
    let ExternalRef(external_ref) = ExternalRef::parse(body.external_ref)?;
    let call = once.asking(asked).call(|subject: &Subject| idempotency::ok(SubjectBody::from(subject.clone())));
    Ok(respond(subjects::rectify(&flows, caller.tenant, subject.0, &external_ref, call).await?))
}

/// Remove a person with everything that is known: key, templates, consents, verifications, counters.
///
/// Opens an erasure request, or takes the open one, and carries it out before the answer; `Location` is where it stands, with
/// its certificate. When a store is away in the middle the answer is 503, the person can no longer be matched, and the same
/// call, or a worker, finishes the work later.
#[utoipa::path(delete, path = "/v1/subjects/{subject}", tag = "subjects",
    params(("subject" = String, Path)),
    responses((status = 204, description = "Removed.", headers(("Location" = String)))))]
pub async fn erase(
    caller: Caller,
    flows: Data<Flows>,
    subject: InPath<SubjectId>,
    once: Once,
) -> Result<HttpResponse, Problem> {
    let answer = |request: &ErasureId| Answer { location: Some(location(*request)), ..idempotency::no_content(&()) };
    Ok(respond(erasures::erase(&flows, caller.tenant, subject.0, once.call(answer)).await?))
}
