//! Is the process alive, and should it be given work? Two questions, two answers.

use actix_web::{HttpResponse, web::Data};

use crate::{
    flows::{Flows, health},
    http::{
        middleware::Draining,
        wire::{CheckBody, HealthBody},
    },
};

/// The process runs. Looks at nothing else: a dependency that is away is no reason to restart this process.
#[utoipa::path(get, path = "/livez", tag = "health", responses((status = 200, body = HealthBody)))]
pub async fn live() -> HttpResponse {
    HttpResponse::Ok().json(HealthBody { status: "ok", checks: vec![] })
}

/// Models, keys and migrations are loaded: true from the first answer on, because the port opens after them.
#[utoipa::path(get, path = "/startupz", tag = "health", responses((status = 200, body = HealthBody)))]
pub async fn started() -> HttpResponse {
    live().await
}

/// Whether this process should be given work now.
#[utoipa::path(get, path = "/readyz", tag = "health",
    responses((status = 200, body = HealthBody), (status = 503, body = HealthBody, description = "Not now.")))]
pub async fn ready(flows: Data<Flows>, draining: Data<Draining>) -> HttpResponse {
    if draining.has_begun() {
        return HttpResponse::ServiceUnavailable().json(HealthBody { status: "stopping", checks: vec![] });
    }
    let word = |ok: bool| if ok { "ok" } else { "unavailable" };
    let found = health::check(&flows).await;
    let all_well = found.iter().all(|(_, ok)| *ok);
    let checks = found.into_iter().map(|(name, ok)| CheckBody { name, status: word(ok) }).collect();
    let body = HealthBody { status: word(all_well), checks };
    if all_well { HttpResponse::Ok().json(body) } else { HttpResponse::ServiceUnavailable().json(body) }
}

/// The same as `/readyz`, under the name that proxies and compose files look for.
#[utoipa::path(get, path = "/health", tag = "health",
    responses((status = 200, body = HealthBody), (status = 503, body = HealthBody, description = "Not now.")))]
pub async fn summary(flows: Data<Flows>, draining: Data<Draining>) -> HttpResponse {
    ready(flows, draining).await
}
