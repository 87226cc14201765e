//! Requests to erase a person.

use actix_web::{HttpResponse, web::Data};

use crate::{
    domain::id::{ErasureId, SubjectId},
    flows::{
        Flows,
        erasures::{self, Decision, ErasureRequest, NewErasure},
        once::Answer,
    },
    http::{
        extract::{Caller, InPath, Json, NoBody, Query},
        idempotency::{self, Once, respond},
        problem::Problem,
        wire::{ErasureQuery, ErasureRequestBody, NewErasureBody, PageBody, PageQuery, ReasonBody, parsed_if_given},
    },
};

/// Ask for the erasure of a person.
///
/// With `verified` it is carried out at once, by a worker; else it waits until `verify`. Meanwhile the person can be worked
/// with as before. `due_at` is when the law wants it done.
#[utoipa::path(post, path = "/v1/erasure-requests", tag = "erasure-requests", request_body = NewErasureBody,
    responses((status = 201, body = ErasureRequestBody, headers(("Location" = String)))))]
pub async fn create(
    caller: Caller,
    flows: Data<Flows>,
    once: Once,
    Json(body, asked): Json<NewErasureBody>,
) -> Result<HttpResponse, Problem> {
    let subject = body.subject_id.parse::<SubjectId>();
    let new = NewErasure {
        subject: subject.map_err(|error| Problem::invalid_field("subject_id", error))?,
        regulation: parsed_if_given("regulation", body.regulation.as_deref())?,
        received_at: body.received_at.map(|at| at.0),
        verified: body.verified,
    };
    let call = once.asking(asked).call(|request: &ErasureRequest| {
        idempotency::created(Some(location(request.id)), ErasureRequestBody::from(request.clone()))
    });
    Ok(respond(erasures::open(&flows, caller.tenant, new, call).await?))
}

/// List erasure requests, newest first. Of a person that was erased too, by the id that you still know.
#[utoipa::path(get, path = "/v1/erasure-requests", tag = "erasure-requests", params(ErasureQuery),
    responses((status = 200, body = PageBody<ErasureRequestBody>)))]
pub async fn list(
    caller: Caller,
    flows: Data<Flows>,
    Query(query): Query<ErasureQuery>,
) -> Result<HttpResponse, Problem> {
    let page = PageQuery { limit: query.limit, cursor: query.cursor }.try_into()?;
    let (state, subject) = (
        parsed_if_given("state", query.state.as_deref())?,
        parsed_if_given("subject_id", query.subject_id.as_deref())?,
    );
    let found = erasures::list(&flows, caller.tenant, state, subject, page).await?;
    Ok(HttpResponse::Ok().json(PageBody::of(found, ErasureRequestBody::from)))
}

/// Look at one erasure request.
#[utoipa::path(get, path = "/v1/erasure-requests/{erasure}", tag = "erasure-requests",
    params(("erasure" = String, Path)), responses((status = 200, body = ErasureRequestBody)))]
pub async fn show(caller: Caller, flows: Data<Flows>, erasure: InPath<ErasureId>) -> Result<HttpResponse, Problem> {
    let request = erasures::show(&flows, caller.tenant, erasure.0).await?;
    Ok(HttpResponse::Ok().json(ErasureRequestBody::from(request)))
}

/// The certificate of an erasure: a JWS (RS256) that anybody can check with `/.well-known/evidence-jwks.json`.
///
/// 404 as long as the request is not `completed`.
#[utoipa::path(get, path = "/v1/erasure-requests/{erasure}/certificate", tag = "erasure-requests",
    params(("erasure" = String, Path)),
    responses((status = 200, body = String, content_type = "application/jose")))]
pub async fn certificate(
    caller: Caller,
    flows: Data<Flows>,
    erasure: InPath<ErasureId>,
) -> Result<HttpResponse, Problem> {
    let certificate = erasures::certificate(&flows, caller.tenant, erasure.0).await?;
    Ok(HttpResponse::Ok().content_type("application/jose").body(certificate))
}

/// It was the person who asked: carry the request out.
#[utoipa::path(post, path = "/v1/erasure-requests/{erasure}/verify", tag = "erasure-requests",
    params(("erasure" = String, Path)),
    responses((status = 200, body = ErasureRequestBody, headers(("Location" = String)))))]
pub async fn verify(
    caller: Caller,
    flows: Data<Flows>,
    erasure: InPath<ErasureId>,
    once: Once,
    _: NoBody,
) -> Result<HttpResponse, Problem> {
    decide(caller, flows, erasure, once, Decision::Verify).await
}

/// Refuse a request, with the reason that the person is given.
#[utoipa::path(post, path = "/v1/erasure-requests/{erasure}/reject", tag = "erasure-requests",
    params(("erasure" = String, Path)), request_body = ReasonBody,
    responses((status = 200, body = ErasureRequestBody, headers(("Location" = String)))))]
pub async fn reject(
    caller: Caller,
    flows: Data<Flows>,
    erasure: InPath<ErasureId>,
    once: Once,
    Json(body, asked): Json<ReasonBody>,
) -> Result<HttpResponse, Problem> {
    let decision = Decision::Reject { reason: body.reason()? };
    decide(caller, flows, erasure, once.asking(asked), decision).await
}

/// Put a request on hold: a duty to keep stands against it. Nobody can erase the person meanwhile.
#[utoipa::path(post, path = "/v1/erasure-requests/{erasure}/hold", tag = "erasure-requests",
    params(("erasure" = String, Path)), request_body = ReasonBody,
    responses((status = 200, body = ErasureRequestBody, headers(("Location" = String)))))]
pub async fn hold(
    caller: Caller,
    flows: Data<Flows>,
    erasure: InPath<ErasureId>,
    once: Once,
    Json(body, asked): Json<ReasonBody>,
) -> Result<HttpResponse, Problem> {
    let decision = Decision::Hold { reason: body.reason()? };
    decide(caller, flows, erasure, once.asking(asked), decision).await
}

/// End a hold; the request goes on from where it was.
#[utoipa::path(post, path = "/v1/erasure-requests/{erasure}/release", tag = "erasure-requests",
    params(("erasure" = String, Path)),
    responses((status = 200, body = ErasureRequestBody, headers(("Location" = String)))))]
pub async fn release(
    caller: Caller,
    flows: Data<Flows>,
    erasure: InPath<ErasureId>,
    once: Once,
    _: NoBody,
) -> Result<HttpResponse, Problem> {
    decide(caller, flows, erasure, once, Decision::Release).await
}

/// Withdraw a request that has not begun.
#[utoipa::path(post, path = "/v1/erasure-requests/{erasure}/cancel", tag = "erasure-requests",
    params(("erasure" = String, Path)),
    responses((status = 200, body = ErasureRequestBody, headers(("Location" = String)))))]
pub async fn cancel(
    caller: Caller,
    flows: Data<Flows>,
    erasure: InPath<ErasureId>,
    once: Once,
    _: NoBody,
) -> Result<HttpResponse, Problem> {
    decide(caller, flows, erasure, once, Decision::Cancel).await
}

async fn decide(
    caller: Caller,
    flows: Data<Flows>,
    erasure: InPath<ErasureId>,
    once: Once,
    decision: Decision,
) -> Result<HttpResponse, Problem> {
    let call = once.call(|request: &ErasureRequest| Answer {
        // For the same call again, which is answered without a body.
        location: Some(location(request.id)),
        ..idempotency::ok(ErasureRequestBody::from(request.clone()))
    });
    Ok(respond(erasures::decide(&flows, caller.tenant, erasure.0, decision, call).await?))
}

/// Where a request is looked at.
pub fn location(id: ErasureId) -> String {
    format!("/v1/erasure-requests/{id}")
}
