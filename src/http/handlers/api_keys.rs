//! Keys for servers that call without buying tokens.

use actix_web::{HttpResponse, web::Data};

use crate::{
    domain::id::ApiKeyId,
    flows::{
        Flows,
        api_keys::{self, IssuedApiKey},
        once::Answer,
    },
    http::{
        extract::{Caller, InPath, Json, Query},
        idempotency::{self, Once, respond},
        problem::Problem,
        wire::{ApiKeyBody, IssuedApiKeyBody, NewApiKeyBody, PageBody, PageQuery, RollBody},
    },
};

/// Make a key. It is shown in this answer and never again.
///
/// A key has scopes of its own, none that its maker lacks, and may be bound to networks.
#[utoipa::path(post, path = "/v1/api-keys", tag = "api-keys", request_body = NewApiKeyBody,
    responses((status = 201, body = IssuedApiKeyBody, headers(("Location" = String)))))]
pub async fn create(
    caller: Caller,
    flows: Data<Flows>,
    once: Once,
    Json(body, asked): Json<NewApiKeyBody>,
) -> Result<HttpResponse, Problem> {
    let call = once.asking(asked).call_with_secret(shown_once);
    Ok(respond(api_keys::create(&flows, &caller, body.try_into()?, call).await?))
}

/// List the keys of your tenant, those that have ended included.
#[utoipa::path(get, path = "/v1/api-keys", tag = "api-keys", params(PageQuery),
    responses((status = 200, body = PageBody<ApiKeyBody>)))]
pub async fn list(caller: Caller, flows: Data<Flows>, Query(page): Query<PageQuery>) -> Result<HttpResponse, Problem> {
    let page = api_keys::list(&flows, caller.tenant, page.try_into()?).await?;
    Ok(HttpResponse::Ok().json(PageBody::of(page, ApiKeyBody::from)))
}

/// End a key for good, at once.
#[utoipa::path(delete, path = "/v1/api-keys/{key}", tag = "api-keys",
    params(("key" = String, Path)), responses((status = 204, description = "The key opens nothing any more.")))]
pub async fn revoke(
    caller: Caller,
    flows: Data<Flows>,
    key: InPath<ApiKeyId>,
    once: Once,
) -> Result<HttpResponse, Problem> {
    Ok(respond(api_keys::revoke(&flows, caller.tenant, key.0, once.call(idempotency::no_content)).await?))
}

/// Put a new key in place of one: the same name, scopes, expiry and networks.
///
/// The old key lives on for the overlap, so that servers can be changed one after the other; 0 ends it at once.
#[utoipa::path(post, path = "/v1/api-keys/{key}/roll", tag = "api-keys", request_body = RollBody,
    params(("key" = String, Path)), responses((status = 201, body = IssuedApiKeyBody, headers(("Location" = String)))))]
pub async fn roll(
    caller: Caller,
    flows: Data<Flows>,
    key: InPath<ApiKeyId>,
    once: Once,
    Json(body, asked): Json<RollBody>,
) -> Result<HttpResponse, Problem> {
    let call = once.asking(asked).call_with_secret(shown_once);
    Ok(respond(api_keys::roll(&flows, &caller, key.0, body.overlap()?, call).await?))
}

fn shown_once(issued: &IssuedApiKey) -> Answer {
    let location = format!("/v1/api-keys/{}", issued.row.id);
    idempotency::created(Some(location), IssuedApiKeyBody::from(issued))
}
