//! People whose data rest.

use actix_web::{HttpResponse, web::Data};

use crate::{
    domain::{id::SubjectId, restriction::Restriction},
    flows::{Flows, restriction},
    http::{
        extract::{Caller, InPath, Json},
        idempotency::{self, Once, respond},
        problem::Problem,
        wire::{NewRestrictionBody, RestrictionBody},
    },
};

/// Keep what is known of a person and do nothing else with it.
///
/// From the answer on enrolment and verification of this person are refused in every process (403 `subject_restricted`),
/// whatever was agreed to, and neither retention nor the deletion of an enrolment takes anything away. An erasure does. Safe to
/// repeat: the first reason and time stand until the restriction is lifted.
#[utoipa::path(post, path = "/v1/subjects/{subject}/restriction", tag = "subjects",
    params(("subject" = String, Path)), request_body = NewRestrictionBody, responses((status = 200, body = RestrictionBody)))]
pub async fn restrict(
    caller: Caller,
    flows: Data<Flows>,
    subject: InPath<SubjectId>,
    once: Once,
    Json(body, asked): Json<NewRestrictionBody>,
) -> Result<HttpResponse, Problem> {
    let ground = body.ground()?;
    let call = once.asking(asked).call(|standing: &Restriction| idempotency::ok(RestrictionBody::from(*standing)));
    Ok(respond(restriction::restrict(&flows, caller.tenant, subject.0, ground, call).await?))
}

/// Lift a restriction. Tell the person before (GDPR, Art. 18(3)).
#[utoipa::path(delete, path = "/v1/subjects/{subject}/restriction", tag = "subjects",
    params(("subject" = String, Path)), responses((status = 204, description = "Lifted, or there was none.")))]
pub async fn lift(
    caller: Caller,
    flows: Data<Flows>,
    subject: InPath<SubjectId>,
    once: Once,
) -> Result<HttpResponse, Problem> {
    let call = once.call(idempotency::no_content);
    Ok(respond(restriction::lift(&flows, caller.tenant, subject.0, call).await?))
}
