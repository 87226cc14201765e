//! What everybody may know about how this service works.

use actix_web::{HttpResponse, web::Data};

use crate::{
    flows::Flows,
    http::{problem::Problem, wire::RetentionBody},
};

/// How long what is kept, and what that is counted from. A photo is not in it: none is ever kept.
#[utoipa::path(get, path = "/v1/policies/retention", tag = "policies", responses((status = 200, body = RetentionBody)))]
pub async fn retention(flows: Data<Flows>) -> Result<HttpResponse, Problem> {
    Ok(HttpResponse::Ok().json(RetentionBody::from(flows.kept())))
}
