//! What people agreed to.

use actix_web::{HttpResponse, http::header, web::Data};

use crate::{
    auth::evidence::Document,
    domain::{
        consent::Consent,
        id::{ConsentId, SubjectId},
    },
    flows::{
        Flows,
        consents::{self, How},
        receipts,
    },
    http::{
        extract::{Caller, InPath, Json, MaybeJson, Query},
        idempotency::{self, Once, respond},
        problem::Problem,
        wire::{ConsentBody, NewConsentBody, PageBody, PageQuery, WithdrawalBody},
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
    request_body = Option<WithdrawalBody>, params(("subject" = String, Path), ("consent" = String, Path)),
    responses((status = 200, body = ConsentBody)))]
pub async fn withdraw(
    caller: Caller,
    flows: Data<Flows>,
    subject: InPath<SubjectId>,
    consent: InPath<ConsentId>,
    once: Once,
    MaybeJson(body, asked): MaybeJson<WithdrawalBody>,
) -> Result<HttpResponse, Problem> {
    let now = flows.now();
    let call = once.asking(asked).call(move |consent: &Consent| idempotency::ok(ConsentBody::at(now, consent.clone())));
    let how = body.map(How::try_from).transpose()?.unwrap_or_default();
    Ok(respond(consents::withdraw(&flows, caller.tenant, subject.0, consent.0, how, call).await?))
}

/// The receipt of a consent, in whatever state it is: a signed document for the person to keep.
///
/// A JWS (RFC 7515) in the compact form, RS256; the keys stand at `/.well-known/evidence-jwks.json`. Its claims are named after
/// ISO/IEC TS 27560.
#[utoipa::path(get, path = "/v1/subjects/{subject}/consents/{consent}/receipt", tag = "consents",
    params(("subject" = String, Path), ("consent" = String, Path)),
    responses((status = 200, body = String, content_type = "application/vnd.velum.consent-receipt+jwt")))]
pub async fn receipt(
    caller: Caller,
    flows: Data<Flows>,
    subject: InPath<SubjectId>,
    consent: InPath<ConsentId>,
) -> Result<HttpResponse, Problem> {
    let receipt = receipts::of_consent(&flows, caller.tenant, subject.0, consent.0).await?;
    let content_type = format!("application/{}", Document::ConsentReceipt.media_type());
    Ok(HttpResponse::Ok().insert_header((header::CONTENT_TYPE, content_type)).body(receipt))
}
