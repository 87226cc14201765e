//! The audit log.

use actix_web::{
    HttpResponse,
    error::ErrorInternalServerError,
    web::{Bytes, Data},
};
use futures_util::TryStreamExt as _;

use crate::{
    domain::id::TenantId,
    flows::{
        Flows,
        audit::{self, Search},
    },
    http::{
        extract::{Caller, Query},
        problem::Problem,
        wire::{AuditEventBody, AuditQuery, CheckpointBody, PageBody, PageQuery, parsed_if_given},
    },
};

/// What was done in your tenant: by whom, to whom, and when; newest first.
#[utoipa::path(get, path = "/v1/audit-events", tag = "audit", params(AuditQuery),
    responses((status = 200, body = PageBody<AuditEventBody>)))]
pub async fn list(
    caller: Caller,
    flows: Data<Flows>,
    Query(query): Query<AuditQuery>,
) -> Result<HttpResponse, Problem> {
    let page = PageQuery { limit: query.limit, cursor: query.cursor }.try_into()?;
    let (subject, action) = (
        parsed_if_given("subject_id", query.subject_id.as_deref())?,
        parsed_if_given("action", query.action.as_deref())?,
    );
    let search = Search { subject, action, ..Search::default() };
    let found = audit::list(&flows, caller.tenant, search, page).await?;
    Ok(HttpResponse::Ok().json(PageBody::of(found, AuditEventBody::from)))
}

/// Signed checkpoints of the log, newest first. Keep some elsewhere: who holds one can tell when the log before it changes.
#[utoipa::path(get, path = "/v1/audit/checkpoints", tag = "audit", params(PageQuery),
    responses((status = 200, body = PageBody<CheckpointBody>)))]
pub async fn checkpoints(
    caller: Caller,
    flows: Data<Flows>,
    Query(page): Query<PageQuery>,
) -> Result<HttpResponse, Problem> {
    let found = audit::checkpoints(&flows, caller.tenant, page.try_into()?).await?;
    Ok(HttpResponse::Ok().json(PageBody::of(found, |jws| CheckpointBody { jws })))
}

/// The whole log as JSON lines, with a checkpoint that is signed now; `velum audit verify` checks it without the service.
#[utoipa::path(get, path = "/v1/audit/export", tag = "audit",
    responses((status = 200, body = String, content_type = "application/jsonl")))]
pub async fn export(caller: Caller, flows: Data<Flows>) -> Result<HttpResponse, Problem> {
    exported(flows, caller.tenant).await
}

/// The whole log of a tenant.
pub async fn exported(flows: Data<Flows>, tenant: TenantId) -> Result<HttpResponse, Problem> {
    let lines = audit::export(flows.into_inner(), tenant).await?;
    let lines = lines.map_ok(Bytes::from).map_err(|error| {
        // The answer has begun: all that can be done is to break it off, and then it does not verify.
        tracing::error!(event = "export_broken_off", error = &error as &dyn std::error::Error, "an export broke off");
        ErrorInternalServerError("broken off")
    });
    Ok(HttpResponse::Ok().content_type("application/jsonl").streaming(lines))
}
