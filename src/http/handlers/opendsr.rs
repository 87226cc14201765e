//! OpenDSR 2.0: wishes of persons, passed on by their controllers. Every answer is signed over exactly its body.

use actix_web::{HttpResponse, HttpResponseBuilder, web::Data};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Serialize;

use crate::{
    domain::opendsr::SubjectRequestId,
    flows::{
        Flows,
        erasures::ErasureRequest,
        once::Answer,
        opendsr::{self, OpenDsrRequest},
    },
    http::{
        extract::{Caller, InPath, RawJson},
        idempotency::{Once, REPLAYED},
        problem::Problem,
        wire::{
            OpenDsrCancellationBody, OpenDsrDiscoveryBody, OpenDsrReceiptBody, OpenDsrRequestBody, OpenDsrStatusBody,
        },
    },
};

/// Pass on a person's wish to be erased.
///
/// It counts as verified by you, and a worker carries it out at once. Sent again it is the same request, also without an
/// `Idempotency-Key`. Who is not known here has nothing left to be erased: that request is completed.
#[utoipa::path(post, path = "/opendsr/v1/requests", tag = "opendsr", request_body = OpenDsrRequestBody,
    responses((status = 201, body = OpenDsrReceiptBody,
        headers(("Location" = String), ("X-OpenDSR-Processor-Domain" = String), ("X-OpenDSR-Signature" = String)))))]
pub async fn submit(
    caller: Caller,
    flows: Data<Flows>,
    once: Once,
    RawJson(given, body): RawJson<OpenDsrRequestBody>,
) -> Result<HttpResponse, Problem> {
    let encoded_request = STANDARD.encode(&body);
    let new = given.read(&flows, body)?;
    let id = new.id;
    // Whoever asks again gets the same from what is kept; the body is made, and signed, below.
    let call = once.asking(new.body.clone()).call(|_: &OpenDsrRequest| bodiless(201));
    let answer = opendsr::submit(&flows, caller.tenant, new, call).await?;
    let request = opendsr::show(&flows, caller.tenant, id).await?.request;
    let receipt = OpenDsrReceiptBody {
        controller_id: request.tenant.to_string(),
        expected_completion_time: request.due_at.into(),
        received_time: request.received_at.into(),
        encoded_request,
        subject_request_id: id.to_string(),
    };
    let mut response = HttpResponse::Created();
    response.insert_header(("Location", format!("/opendsr/v1/requests/{id}")));
    signed(&flows, marked(response, &answer), &receipt)
}

/// Look at one request.
#[utoipa::path(get, path = "/opendsr/v1/requests/{request}", tag = "opendsr",
    params(("request" = String, Path,
        pattern = "^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$")),
    responses((status = 200, body = OpenDsrStatusBody,
        headers(("X-OpenDSR-Processor-Domain" = String), ("X-OpenDSR-Signature" = String)))))]
pub async fn show(
    caller: Caller,
    flows: Data<Flows>,
    request: InPath<SubjectRequestId>,
) -> Result<HttpResponse, Problem> {
    let standing = opendsr::show(&flows, caller.tenant, request.0).await?;
    signed(&flows, HttpResponse::Ok(), &OpenDsrStatusBody::of(&flows, standing))
}

/// Cancel a request that is still pending.
#[utoipa::path(delete, path = "/opendsr/v1/requests/{request}", tag = "opendsr",
    params(("request" = String, Path,
        pattern = "^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$")),
    responses((status = 202, body = OpenDsrCancellationBody,
        headers(("X-OpenDSR-Processor-Domain" = String), ("X-OpenDSR-Signature" = String)))))]
pub async fn cancel(
    caller: Caller,
    flows: Data<Flows>,
    request: InPath<SubjectRequestId>,
    once: Once,
) -> Result<HttpResponse, Problem> {
    let call = once.call(|_: &ErasureRequest| bodiless(202));
    let answer = opendsr::cancel(&flows, caller.tenant, request.0, call).await?;
    let erasure = opendsr::show(&flows, caller.tenant, request.0).await?.erasure;
    let ended_at = erasure.and_then(|erasure| erasure.ended_at).ok_or_else(Problem::internal)?;
    let cancellation = OpenDsrCancellationBody {
        controller_id: caller.tenant.to_string(),
        subject_request_id: request.0.to_string(),
        received_time: ended_at.into(),
        api_version: opendsr::API_VERSION,
    };
    signed(&flows, marked(HttpResponse::Accepted(), &answer), &cancellation)
}

/// What can be asked for here, and what signatures are checked with.
#[utoipa::path(get, path = "/opendsr/v1/discovery", tag = "opendsr",
    responses((status = 200, body = OpenDsrDiscoveryBody)))]
pub async fn discovery(flows: Data<Flows>) -> HttpResponse {
    HttpResponse::Ok().json(OpenDsrDiscoveryBody::of(&flows))
}

/// The certificate of the key that signs, where the operator had one issued.
#[utoipa::path(get, path = "/opendsr/v1/certificate.pem", tag = "opendsr",
    responses((status = 200, body = String, content_type = "application/x-pem-file")))]
pub async fn certificate(flows: Data<Flows>) -> Result<HttpResponse, Problem> {
    let pem = flows.opendsr().certificate.clone().ok_or_else(Problem::not_found)?;
    Ok(HttpResponse::Ok().content_type("application/x-pem-file").body(pem))
}

fn bodiless(status: u16) -> Answer {
    Answer { status, location: None, body: vec![], replayed: false }
}

fn marked(mut response: HttpResponseBuilder, answer: &Answer) -> HttpResponseBuilder {
    if answer.replayed {
        response.insert_header((REPLAYED, "true"));
    }
    response
}

fn signed(flows: &Flows, mut response: HttpResponseBuilder, body: &impl Serialize) -> Result<HttpResponse, Problem> {
    let signed = opendsr::sign(flows, body)?;
    response
        .insert_header((opendsr::DOMAIN_HEADER, flows.opendsr().domain.as_str()))
        .insert_header((opendsr::SIGNATURE_HEADER, signed.signature))
        .insert_header((opendsr::KEY_HEADER, signed.key));
    Ok(response.content_type("application/json").body(signed.body))
}
