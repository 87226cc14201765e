//! What callers may know about themselves and their tenant.

use actix_web::{HttpResponse, web::Data};

use crate::{
    flows::{Flows, account, usage},
    http::{
        extract::{Caller, Query},
        problem::Problem,
        wire::{
            HistoryBody, HistoryQuery, MeBody, PageBody, PageQuery, StatsBody, UsageBody, UsageQuery, parsed_if_given,
        },
    },
};

/// Who you are here, and what you may do.
#[utoipa::path(get, path = "/v1/me", tag = "account", responses((status = 200, body = MeBody)))]
pub async fn me(caller: Caller, flows: Data<Flows>) -> Result<HttpResponse, Problem> {
    let tenant_name = account::tenant_name(&flows, caller.tenant).await?;
    Ok(HttpResponse::Ok().json(MeBody {
        id: caller.identity.to_string(),
        tenant_id: caller.tenant.to_string(),
        tenant_name,
        scopes: caller.scopes.iter().map(|scope| scope.as_str().to_owned()).collect(),
        environment: flows.environment().as_str(),
    }))
}

/// What your tenant has used of its day, and on the days before.
#[utoipa::path(get, path = "/v1/usage", tag = "account", params(UsageQuery),
    responses((status = 200, body = UsageBody)))]
pub async fn usage(
    caller: Caller,
    flows: Data<Flows>,
    Query(query): Query<UsageQuery>,
) -> Result<HttpResponse, Problem> {
    let used = usage::usage(&flows, caller.tenant, query.days()?).await?;
    Ok(HttpResponse::Ok().json(UsageBody::from(used)))
}

/// Enrolments and verifications of your tenant, newest first. Erased persons are left out.
#[utoipa::path(get, path = "/v1/history", tag = "account", params(HistoryQuery),
    responses((status = 200, body = PageBody<HistoryBody>)))]
pub async fn history(
    caller: Caller,
    flows: Data<Flows>,
    Query(query): Query<HistoryQuery>,
) -> Result<HttpResponse, Problem> {
    let page = PageQuery { limit: query.limit, cursor: query.cursor }.try_into()?;
    let subject = parsed_if_given("subject_id", query.subject_id.as_deref())?;
    let found = account::history(&flows, caller.tenant, subject, page).await?;
    Ok(HttpResponse::Ok().json(PageBody::of(found, HistoryBody::from)))
}

/// How much your tenant holds.
#[utoipa::path(get, path = "/v1/stats", tag = "account", responses((status = 200, body = StatsBody)))]
pub async fn stats(caller: Caller, flows: Data<Flows>) -> Result<HttpResponse, Problem> {
    Ok(HttpResponse::Ok().json(StatsBody::from(account::counts(&flows, caller.tenant).await?)))
}
