//! Requests of persons to be given what is known of them.

use actix_web::{
    HttpResponse,
    http::header::{self, HeaderValue},
    web::Data,
};
use time::OffsetDateTime;

use crate::{
    audit::Actor,
    auth::package_link::PackageToken,
    domain::id::AccessId,
    flows::{
        Flows,
        access_requests::{self, AccessAnswer, Ending},
        once::{Answer, Call},
    },
    http::{
        extract::{CallId, Caller, InPath, Json, MaybeJson, NoBody, Query},
        idempotency::{self, Once, respond},
        problem::Problem,
        wire::{
            AccessAnswerBody, AccessQuery, AccessRequestBody, FulfilmentBody, NewAccessBody, PageBody, PageQuery,
            ReasonBody, parsed_if_given,
        },
    },
};

/// Ask for what is known of a person.
///
/// With `verified` the package is made at once, and this answer alone has the link to it and, unless a `recipient` was named,
/// the passphrase that opens it. Else the request waits until `verify`. `due_at` is when the law wants it answered.
#[utoipa::path(post, path = "/v1/access-requests", tag = "access-requests", request_body = NewAccessBody,
    responses((status = 201, body = AccessAnswerBody, headers(("Location" = String)))))]
pub async fn create(
    caller: Caller,
    flows: Data<Flows>,
    once: Once,
    Json(body, asked): Json<NewAccessBody>,
) -> Result<HttpResponse, Problem> {
    let (new, now) = (body.read()?, flows.now());
    let answer = move |answer: &AccessAnswer| {
        idempotency::created(Some(location(answer.request.id)), AccessAnswerBody::at(now, answer))
    };
    let once = once.asking(asked);
    let call = if new.verified.is_some() { once.call_with_secret(answer) } else { once.call(answer) };
    Ok(respond(access_requests::open(&flows, caller.tenant, new, call).await?))
}

/// List access requests, newest first.
#[utoipa::path(get, path = "/v1/access-requests", tag = "access-requests", params(AccessQuery),
    responses((status = 200, body = PageBody<AccessRequestBody>)))]
pub async fn list(
    caller: Caller,
    flows: Data<Flows>,
    Query(query): Query<AccessQuery>,
) -> Result<HttpResponse, Problem> {
    let page = PageQuery { limit: query.limit, cursor: query.cursor }.try_into()?;
    let (state, subject) = (
        parsed_if_given("state", query.state.as_deref())?,
        parsed_if_given("subject_id", query.subject_id.as_deref())?,
    );
    let found = access_requests::list(&flows, caller.tenant, state, subject, page).await?;
    let now = flows.now();
    Ok(HttpResponse::Ok().json(PageBody::of(found, |request| AccessRequestBody::at(now, request))))
}

/// Look at one access request.
#[utoipa::path(get, path = "/v1/access-requests/{access}", tag = "access-requests",
    params(("access" = String, Path)), responses((status = 200, body = AccessRequestBody)))]
pub async fn show(caller: Caller, flows: Data<Flows>, access: InPath<AccessId>) -> Result<HttpResponse, Problem> {
    let request = access_requests::show(&flows, caller.tenant, access.0).await?;
    Ok(HttpResponse::Ok().json(AccessRequestBody::at(flows.now(), request)))
}

/// It was the person who asked: make the package.
///
/// This answer alone has the link to it and, unless a `recipient` was named, the passphrase that opens it.
#[utoipa::path(post, path = "/v1/access-requests/{access}/verify", tag = "access-requests",
    params(("access" = String, Path)), request_body = Option<FulfilmentBody>,
    responses((status = 200, body = AccessAnswerBody, headers(("Location" = String)))))]
pub async fn verify(
    caller: Caller,
    flows: Data<Flows>,
    access: InPath<AccessId>,
    once: Once,
    MaybeJson(body, asked): MaybeJson<FulfilmentBody>,
) -> Result<HttpResponse, Problem> {
    let call = once.asking(asked).call_with_secret(answer_at(flows.now()));
    let fulfilment = body.unwrap_or_default().into();
    Ok(respond(access_requests::verify(&flows, caller.tenant, access.0, fulfilment, call).await?))
}

/// Refuse a request, with the reason that the person is given.
#[utoipa::path(post, path = "/v1/access-requests/{access}/reject", tag = "access-requests",
    params(("access" = String, Path)), request_body = ReasonBody,
    responses((status = 200, body = AccessRequestBody, headers(("Location" = String)))))]
pub async fn reject(
    caller: Caller,
    flows: Data<Flows>,
    access: InPath<AccessId>,
    once: Once,
    Json(body, asked): Json<ReasonBody>,
) -> Result<HttpResponse, Problem> {
    let ending = Ending::Reject { reason: body.reason()? };
    let call = once.asking(asked).call(answer_at(flows.now()));
    end(caller, flows, access, ending, call).await
}

/// Withdraw a request. Of one that was answered the package is destroyed, and its link leads nowhere.
#[utoipa::path(post, path = "/v1/access-requests/{access}/cancel", tag = "access-requests",
    params(("access" = String, Path)),
    responses((status = 200, body = AccessRequestBody, headers(("Location" = String)))))]
pub async fn cancel(
    caller: Caller,
    flows: Data<Flows>,
    access: InPath<AccessId>,
    once: Once,
    _: NoBody,
) -> Result<HttpResponse, Problem> {
    let call = once.call(answer_at(flows.now()));
    end(caller, flows, access, Ending::Cancel, call).await
}

async fn end(
    caller: Caller,
    flows: Data<Flows>,
    access: InPath<AccessId>,
    ending: Ending,
    call: Call<AccessAnswer>,
) -> Result<HttpResponse, Problem> {
    Ok(respond(access_requests::end(&flows, caller.tenant, access.0, ending, call).await?))
}

fn answer_at(now: OffsetDateTime) -> impl Fn(&AccessAnswer) -> Answer + Send + Sync + 'static {
    move |answer| Answer {
        // For the same call again, which is answered without a body.
        location: Some(location(answer.request.id)),
        ..idempotency::ok(AccessAnswerBody::at(now, answer))
    }
}

/// The package of a request: an age file (age-encryption.org/v1) with one JSON document. Each time is on record.
///
/// 404 as long as there is none, and when it has expired.
#[utoipa::path(get, path = "/v1/access-requests/{access}/package", tag = "access-requests",
    params(("access" = String, Path)),
    responses((status = 200, body = Vec<u8>, content_type = "application/octet-stream")))]
pub async fn package(
    caller: Caller,
    flows: Data<Flows>,
    access: InPath<AccessId>,
    CallId(call): CallId,
) -> Result<HttpResponse, Problem> {
    let by = Actor { name: caller.identity.to_string(), request: call };
    Ok(age_file(access_requests::fetch(&flows, caller.tenant, access.0, by).await?))
}

/// The package behind a link, for whoever holds the link.
///
/// 404 when it has expired, was followed too often, was destroyed, or never was: all the same.
#[utoipa::path(get, path = "/v1/packages/{token}", tag = "access-requests", params(("token" = String, Path)),
    responses((status = 200, body = Vec<u8>, content_type = "application/octet-stream")))]
pub async fn follow(
    flows: Data<Flows>,
    token: InPath<PackageToken>,
    CallId(call): CallId,
) -> Result<HttpResponse, Problem> {
    Ok(age_file(access_requests::follow(&flows, &token.0, call).await?))
}

fn age_file(bytes: Vec<u8>) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("application/octet-stream")
        .insert_header((
            header::CONTENT_DISPOSITION,
            HeaderValue::from_static("attachment; filename=\"package.json.age\""),
        ))
        .body(bytes)
}

/// Where a request is looked at.
fn location(id: AccessId) -> String {
    format!("/v1/access-requests/{id}")
}
