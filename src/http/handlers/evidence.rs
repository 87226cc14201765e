//! What third parties check our documents with.

use actix_web::{HttpResponse, http::header, web::Data};

use crate::flows::Flows;

/// The public keys that receipts, certificates and checkpoints are signed with (RFC 7517).
///
/// Keys are added and never removed: keep a copy beside the documents. They sign no access tokens.
#[utoipa::path(get, path = "/.well-known/evidence-jwks.json", tag = "evidence",
    responses((status = 200, description = "A JWK set.", content_type = "application/json")))]
pub async fn jwks(flows: Data<Flows>) -> HttpResponse {
    HttpResponse::Ok().insert_header((header::CACHE_CONTROL, "public, max-age=300")).json(flows.evidence().jwks())
}
