//! The OpenAPI document and a page to read it, from assets inside the program.

use actix_web::{HttpResponse, http::header};
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::http::openapi;

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "docs",
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json")))]
pub async fn document() -> HttpResponse {
    HttpResponse::Ok().content_type("application/json").body(openapi::document_json())
}

/// The documentation page.
#[utoipa::path(get, path = "/docs", tag = "docs", responses((status = 308, description = "To the page itself.", headers(("Location" = String)))))]
pub async fn redirect() -> HttpResponse {
    HttpResponse::PermanentRedirect().insert_header((header::LOCATION, "/docs/")).finish()
}

/// What lies below `/docs`: Swagger UI from vendored files; it asks nobody but us.
pub fn page() -> SwaggerUi {
    SwaggerUi::new("/{_:.*}").config(Config::from("/openapi.json").use_base_layout())
}
