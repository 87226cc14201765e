//! What people are told before they agree.

use actix_web::{HttpResponse, web::Data};

use crate::{
    domain::id::NoticeId,
    flows::{
        Flows,
        notices::{self, NoticeInFull},
    },
    http::{
        extract::{Caller, InPath, Json, Query},
        idempotency::{self, Once, respond},
        problem::Problem,
        wire::{NOTICE_BYTES_MAX, NewNoticeBody, NoticeBody, NoticeInFullBody, NoticeQuery, PageBody},
    },
};

/// Publish a version of a notice. It is never changed; what has to be said otherwise is another version.
///
/// A version that is marked as a material change ends what was agreed to under earlier ones: those people must be asked again.
#[utoipa::path(post, path = "/v1/notices", tag = "notices", request_body = NewNoticeBody,
    responses((status = 201, body = NoticeInFullBody, headers(("Location" = String)))))]
pub async fn publish(
    caller: Caller,
    flows: Data<Flows>,
    once: Once,
    Json(body, asked): Json<NewNoticeBody, NOTICE_BYTES_MAX>,
) -> Result<HttpResponse, Problem> {
    let call = once.asking(asked).call(|notice: &NoticeInFull| {
        let location = format!("/v1/notices/{}", notice.notice.id);
        idempotency::created(Some(location), NoticeInFullBody::from(notice.clone()))
    });
    Ok(respond(notices::publish(&flows, &caller, body.try_into()?, call).await?))
}

/// List notices without their texts, newest first.
#[utoipa::path(get, path = "/v1/notices", tag = "notices", params(NoticeQuery),
    responses((status = 200, body = PageBody<NoticeBody>)))]
pub async fn list(
    caller: Caller,
    flows: Data<Flows>,
    Query(query): Query<NoticeQuery>,
) -> Result<HttpResponse, Problem> {
    let (purpose, page) = query.parts()?;
    let page = notices::list(&flows, caller.tenant, purpose.as_ref(), page).await?;
    Ok(HttpResponse::Ok().json(PageBody::of(page, NoticeBody::from)))
}

/// Show a notice with its text.
#[utoipa::path(get, path = "/v1/notices/{notice}", tag = "notices", params(("notice" = String, Path)),
    responses((status = 200, body = NoticeInFullBody)))]
pub async fn show(caller: Caller, flows: Data<Flows>, notice: InPath<NoticeId>) -> Result<HttpResponse, Problem> {
    let notice = notices::show(&flows, caller.tenant, notice.0).await?;
    Ok(HttpResponse::Ok().json(NoticeInFullBody::from(notice)))
}
