//! What faces are compared with.

use actix_web::{HttpResponse, web::Data};

use crate::{
    flows::Flows,
    http::{
        extract::Caller,
        problem::Problem,
        wire::{ListBody, ModelBody},
    },
};

/// The model in use, with the error rates at which it may be asked.
#[utoipa::path(get, path = "/v1/models", tag = "models", responses((status = 200, body = ListBody<ModelBody>)))]
pub async fn list(_caller: Caller, flows: Data<Flows>) -> Result<HttpResponse, Problem> {
    let model = ModelBody::new(flows.match_spec(), flows.parameters(), flows.default_false_match_rate());
    Ok(HttpResponse::Ok().json(ListBody { data: vec![model] }))
}
