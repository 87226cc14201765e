//! Is the process alive, and should it be given work? Two questions, two answers.

use actix_web::{HttpResponse, web::Data};

use crate::{
    flows::{
        Flows,
        health::{self, Health},
    },
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

/// Whether this process should be given work now. `degraded` is a yes: Redis is away and nothing but speed is lost.
#[utoipa::path(get, path = "/readyz", tag = "health",
    responses((status = 200, body = HealthBody), (status = 503, body = HealthBody, description = "Not now.")))]
pub async fn ready(flows: Data<Flows>, draining: Data<Draining>) -> HttpResponse {
    if draining.has_begun() {
        return HttpResponse::ServiceUnavailable().json(HealthBody { status: "stopping", checks: vec![] });
    }
    let found = health::check(&flows).await;
    let worst = found.iter().map(|(_, health)| *health).max().unwrap_or(Health::Well);
    let one = |health| if health == Health::Well { "ok" } else { "unavailable" };
    let checks = found.into_iter().map(|(name, health)| CheckBody { name, status: one(health) }).collect();
    match worst {
        Health::Well => HttpResponse::Ok().json(HealthBody { status: "ok", checks }),
        Health::Missed => HttpResponse::Ok().json(HealthBody { status: "degraded", checks }),
        Health::Needed => HttpResponse::ServiceUnavailable().json(HealthBody { status: "unavailable", checks }),
    }
}

/// The same as `/readyz`, under the name that proxies and compose files look for.
#[utoipa::path(get, path = "/health", tag = "health",
    responses((status = 200, body = HealthBody), (status = 503, body = HealthBody, description = "Not now.")))]
pub async fn summary(flows: Data<Flows>, draining: Data<Draining>) -> HttpResponse {
    ready(flows, draining).await
}
