//! What people agreed to.

use actix_web::{HttpResponse, web::Data};

use crate::{
    domain::{
        consent::Consent,
        id::{ConsentId, SubjectId},
    },
    flows::{Flows, consents},
    http::{
        extract::{Caller, InPath, Json, Query},
        idempotency::{self, Once, respond},
        problem::Problem,
        wire::{ConsentBody, NewConsentBody, PageBody, PageQuery},
    },
};

/// Record a consent that a person has given.
#[utoipa::path(post, path = "/v1/subjects/{subject}/consents", tag = "consents", request_body = NewConsentBody,
    params(("subject" = String, Path)), responses((status = 201, body = ConsentBody)))]
pub async fn grant(
    caller: Caller,
    flows: Data<Flows>,
    subject: InPath<SubjectId>,
    once: Once,
    Json(body, asked): Json<NewConsentBody>,
) -> Result<HttpResponse, Problem> {
    let now = flows.now();
    let call = once
        .asking(asked)
        .call(move |consent: &Consent| idempotency::created(None, ConsentBody::at(now, consent.clone())));
    Ok(respond(consents::grant(&flows, caller.tenant, subject.0, body.try_into()?, call).await?))
}

/// List a person's consents, past ones included.
#[utoipa::path(get, path = "/v1/subjects/{subject}/consents", tag = "consents",
    params(("subject" = String, Path), PageQuery), responses((status = 200, body = PageBody<ConsentBody>)))]
pub async fn list(
    caller: Caller,
    flows: Data<Flows>,
    subject: InPath<SubjectId>,
    Query(page): Query<PageQuery>,
) -> Result<HttpResponse, Problem> {
    let page = consents::list(&flows, caller.tenant, subject.0, page.try_into()?).await?;
    let now = flows.now();
    Ok(HttpResponse::Ok().json(PageBody::of(page, |consent| ConsentBody::at(now, consent))))
}

/// Withdraw a consent: from now on nothing that rests on it is processed. Safe to repeat.
#[utoipa::path(post, path = "/v1/subjects/{subject}/consents/{consent}/withdraw", tag = "consents",
    params(("subject" = String, Path), ("consent" = String, Path)), responses((status = 200, body = ConsentBody)))]
pub async fn withdraw(
    caller: Caller,
    flows: Data<Flows>,
    subject: InPath<SubjectId>,
    consent: InPath<ConsentId>,
    once: Once,
) -> Result<HttpResponse, Problem> {
    let now = flows.now();
    let call = once.call(move |consent: &Consent| idempotency::ok(ConsentBody::at(now, consent.clone())));
    Ok(respond(consents::withdraw(&flows, caller.tenant, subject.0, consent.0, call).await?))
}
