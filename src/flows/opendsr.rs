//! OpenDSR: a second door to erasure requests. A controller passes the wish of a person on, under an id of its own, and is told
//! of each change at the addresses that it gave.
//!
//! Two rules. A request that comes in by this door counts as verified: by the specification it is the controller who makes sure
//! that it was the person who asked, and whoever may post here may say `verified` at the other door too. And a person whom we
//! do not have is no mistake: nothing is left to be erased, so such a request is accepted as any other, and completed.

use std::collections::BTreeMap;

use serde::Serialize;
use time::{Duration, OffsetDateTime};

use super::{
    FlowError, Flows,
    audit::Scribe,
    erasures::{self, Decision, ErasureRequest},
    once::{self, Answer, Call},
};
pub use crate::store::OpenDsrRequest;
use crate::{
    audit::{Action, Actor, Event, stamp},
    auth::evidence::SignedJson,
    callbacks::{CallbackError, Callbacks, Refusal},
    domain::{
        erasure::{ErasureState, Regulation},
        id::{SubjectId, TenantId},
        opendsr::{RequestStatus, SubjectRequestId},
    },
    store::{Callback, Lease, Receivers, StoreError},
};

/// Of the specification.
pub const API_VERSION: &str = "2.0";
/// How far the clock of a controller may be ahead of ours.
const CLOCK_TOLERANCE: Duration = Duration::minutes(5);
/// How long after the end of a request the addresses are kept at which somebody does not know of it.
pub(super) const ADDRESSES_KEPT: Duration = Duration::days(30);

/// What a service needs to speak OpenDSR.
pub struct OpenDsr {
    /// The host at which requests come in.
    pub domain: String,
    /// Issued for the evidence key, in PEM form.
    pub certificate: Option<String>,
    pub callbacks: Callbacks,
}

/// A request as a controller sends it.
pub struct NewRequest {
    pub id: SubjectRequestId,
    /// Names of one person: the tenant's own (`external_ref`), or our id.
    pub names: Vec<String>,
    /// `None`: the service's own.
    pub regulation: Option<Regulation>,
    /// When the person asked.
    pub submitted_at: OffsetDateTime,
    pub callback_urls: Vec<String>,
    /// The whole body: what makes a second request the same.
    pub body: Vec<u8>,
}

/// Where a request is.
#[derive(Debug, Clone)]
pub struct Standing {
    pub request: OpenDsrRequest,
    /// `None`: nobody was found.
    pub erasure: Option<ErasureRequest>,
}

impl Standing {
    pub fn state(&self) -> ErasureState {
        self.erasure.as_ref().map_or(ErasureState::Completed, |erasure| erasure.state)
    }
}

/// Whether an address may be called, before it is taken.
pub fn check_address(flows: &Flows, address: &str) -> Result<(), Refusal> {
    flows.opendsr.callbacks.check(address)
}

/// Takes a request; the same one again is the same request. That another one has this id: `SubjectRequestIdTaken`.
pub async fn submit(
    flows: &Flows,
    tenant: TenantId,
    new: NewRequest,
    call: Call<OpenDsrRequest>,
) -> Result<Answer, FlowError> {
    let fingerprint = flows.pepper.idempotency_fingerprint([new.body.as_slice()]);
    if let Some(known) = known(flows, tenant, new.id, fingerprint).await? {
        return Ok((call.answer)(&known));
    }
    let now = flows.now();
    if new.submitted_at > now + CLOCK_TOLERANCE {
        return Err(FlowError::SubmittedLater);
    }
    let subject = find_person(flows, tenant, &new.names).await?;
    let taken = once::run(flows, &call, &[], async |attempt| {
        let written = write(flows, tenant, &new, fingerprint, subject, attempt).await;
        match written {
            // Erased between our looking and our writing.
            Err(FlowError::NotFound) => write(flows, tenant, &new, fingerprint, None, attempt).await,
            written => written,
        }
    });
    match taken.await {
        // The same request, or another of its id, was faster.
        Err(FlowError::SubjectRequestIdTaken) => match known(flows, tenant, new.id, fingerprint).await? {
            Some(known) => Ok((call.answer)(&known)),
            None => Err(FlowError::SubjectRequestIdTaken),
        },
        taken => taken,
    }
}

async fn known(
    flows: &Flows,
    tenant: TenantId,
    id: SubjectRequestId,
    fingerprint: [u8; 32],
) -> Result<Option<OpenDsrRequest>, FlowError> {
    match flows.store.opendsr().find(tenant, id).await {
        Ok(known) if known.fingerprint == fingerprint => Ok(Some(known)),
        Ok(_) => Err(FlowError::SubjectRequestIdTaken),
        Err(StoreError::NotFound) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The tenant's own name for a person comes before an id of ours: it is what the controller means by its customer's id.
async fn find_person(flows: &Flows, tenant: TenantId, names: &[String]) -> Result<Option<SubjectId>, FlowError> {
    let mut found: Option<SubjectId> = None;
    for name in names {
        let by_name = flows.store.subjects().find_by_external_ref(tenant, name).await?.map(|subject| subject.id);
        let subject = match (by_name, name.parse::<SubjectId>()) {
            (None, Ok(id)) => match flows.store.subjects().find(tenant, id).await {
                Err(StoreError::NotFound) => None,
                subject => Some(subject?.id),
            },
            (by_name, _) => by_name,
        };
        if let (Some(one), Some(other)) = (found, subject)
            && one != other
        {
            return Err(FlowError::SeveralPersons);
        }
        found = found.or(subject);
    }
    Ok(found)
}

async fn write(
    flows: &Flows,
    tenant: TenantId,
    new: &NewRequest,
    fingerprint: [u8; 32],
    subject: Option<SubjectId>,
    attempt: &once::Attempt<OpenDsrRequest>,
) -> Result<OpenDsrRequest, FlowError> {
    let now = flows.now();
    let submitted_at = new.submitted_at.min(now);
    let opened = subject.map(|subject| erasures::verified(flows, tenant, subject, new.regulation, submitted_at));
    let request = OpenDsrRequest {
        id: new.id,
        tenant,
        erasure: opened.as_ref().map(|(erasure, _)| erasure.id),
        fingerprint,
        received_at: now,
        due_at: flows.erasure_policy.deadline(new.regulation, submitted_at).1,
    };
    let mut act = match (&opened, subject) {
        (Some((erasure, _)), Some(subject)) => {
            attempt.act_about(Action::ErasureRequested, Some(erasure.id.to_string()), subject, None, &request)?
        }
        _ => attempt.act(Action::OpenDsrFoundNobody, request.id, &request),
    };
    // The answer must outlive the person: it is kept with the request.
    act.receipt = attempt.receipt(&request);
    if new.callback_urls.is_empty() {
        flows.store.opendsr().submit(&request, None, opened, act).await?;
    } else {
        let key_id = SubjectId::generate();
        let key = flows.keystore.create(tenant, key_id, now).await?;
        let receivers = Receivers { key_id, key: &key, addresses: &new.callback_urls };
        let written = flows.store.opendsr().submit(&request, Some(receivers), opened, act).await;
        if matches!(written, Err(StoreError::Conflict(_) | StoreError::NotFound)) {
            // The key of nothing: harmless when it stays behind, so its removal is only tried. After any other error the row
            // may be there all the same.
            let _left_behind = flows.keystore.destroy(tenant, key_id, now).await;
        }
        written?;
    }
    flows.wake_worker();
    Ok(request)
}

pub async fn show(flows: &Flows, tenant: TenantId, id: SubjectRequestId) -> Result<Standing, FlowError> {
    let request = flows.store.opendsr().find(tenant, id).await?;
    let erasure = match request.erasure {
        Some(erasure) => Some(flows.store.erasures().find(tenant, erasure).await?),
        None => None,
    };
    Ok(Standing { request, erasure })
}

/// Cancels what has not begun. What is cancelled already stays so.
pub async fn cancel(
    flows: &Flows,
    tenant: TenantId,
    id: SubjectRequestId,
    call: Call<ErasureRequest>,
) -> Result<Answer, FlowError> {
    match show(flows, tenant, id).await?.erasure {
        Some(erasure) if erasure.state == ErasureState::Cancelled => Ok((call.answer)(&erasure)),
        Some(erasure) => erasures::decide(flows, tenant, erasure.id, Decision::Cancel, call).await,
        None => Err(FlowError::ErasureState),
    }
}

/// What a receiver is told. The names are those of the specification; what it has no name for stands under our domain.
#[derive(Serialize)]
struct CallbackBody<'a> {
    controller_id: String,
    expected_completion_time: String,
    status_callback_url: &'a str,
    subject_request_id: String,
    request_status: &'static str,
    extensions: BTreeMap<&'a str, CallbackExtension<'a>>,
}

/// Enough to know a callback that comes again: the signature covers it.
#[derive(Serialize)]
struct CallbackExtension<'a> {
    /// The same in every attempt to deliver this one.
    callback_id: &'a str,
    /// From 1, in the order of the changes.
    change: i64,
    sent_at: String,
    /// Of the erasure request.
    state: &'static str,
}

/// Tells a receiver, in order, what it does not know yet, and ends the job.
pub(super) async fn deliver(
    flows: &Flows,
    tenant: TenantId,
    id: SubjectRequestId,
    receiver: i64,
    lease: &Lease,
) -> Result<(), FlowError> {
    loop {
        while let Some(callback) = flows.store.opendsr().next(tenant, id, receiver).await? {
            send(flows, tenant, id, &callback).await?;
            let event = scribe(flows, tenant).event(Action::CallbackDelivered, id);
            flows.store.opendsr().told(tenant, &callback, event).await?;
        }
        forget_if_over(flows, tenant, id).await?;
        if flows.store.opendsr().finish(tenant, id, receiver, lease.clone()).await? {
            return Ok(());
        }
    }
}

async fn send(flows: &Flows, tenant: TenantId, id: SubjectRequestId, callback: &Callback) -> Result<(), FlowError> {
    // A key that is gone was destroyed with the wish to tell anybody: a restored database has forgotten that.
    let Some(key) = flows.keystore.get(tenant, callback.key_id).await? else {
        return Ok(flows.store.opendsr().forget_addresses(tenant, id, None).await?);
    };
    let address = callback.open_address(&key)?;
    let domain = flows.opendsr.domain.as_str();
    let extension = CallbackExtension {
        callback_id: &callback.id,
        change: callback.change,
        sent_at: stamp(flows.now()),
        state: callback.state.as_str(),
    };
    let body = CallbackBody {
        controller_id: tenant.to_string(),
        expected_completion_time: stamp(callback.due_at),
        status_callback_url: &address,
        subject_request_id: id.to_string(),
        request_status: RequestStatus::from(callback.state).as_str(),
        extensions: [(domain, extension)].into(),
    };
    let signed = sign(flows, &body)?;
    let headers = [(DOMAIN_HEADER, domain), (SIGNATURE_HEADER, &signed.signature), (KEY_HEADER, &signed.key)];
    Ok(flows.opendsr.callbacks.post(&address, &headers, signed.body).await?)
}

pub const DOMAIN_HEADER: &str = "x-opendsr-processor-domain";
pub const SIGNATURE_HEADER: &str = "x-opendsr-signature";
/// Not of the specification: which key of the set to check with.
pub const KEY_HEADER: &str = "x-opendsr-key-id";

/// A body, and the signature over exactly these bytes.
pub fn sign(flows: &Flows, body: &impl Serialize) -> Result<SignedJson, FlowError> {
    flows.evidence.sign_json(body, flows.now()).map_err(FlowError::internal)
}

/// For the audit log, when a receiver is given up.
pub(super) fn given_up(flows: &Flows, tenant: TenantId, id: SubjectRequestId) -> Event {
    scribe(flows, tenant).event(Action::CallbackGivenUp, id)
}

fn scribe(flows: &Flows, tenant: TenantId) -> Scribe {
    Scribe::new(flows, tenant, Actor::service())
}

/// When everybody was told the end. The key first: without it the addresses are noise, and without them it would stay.
async fn forget_if_over(flows: &Flows, tenant: TenantId, id: SubjectRequestId) -> Result<(), FlowError> {
    if let Some(key) = flows.store.opendsr().key_to_forget(tenant, id).await? {
        flows.keystore.destroy(tenant, key, flows.now()).await?;
        flows.store.opendsr().forget_addresses(tenant, id, None).await?;
    }
    Ok(())
}

/// Addresses at which nobody answers are not kept for ever.
pub(super) async fn forget_old_addresses(flows: &Flows) -> Result<(), FlowError> {
    let now = flows.now();
    for kept in flows.store.opendsr().kept_addresses(now - ADDRESSES_KEPT).await? {
        flows.keystore.destroy(kept.tenant, kept.key_id, now).await?;
        let told = format!("callback_addresses: {}", kept.request);
        let event = scribe(flows, kept.tenant).event(Action::RetentionDeleted, told);
        flows.store.opendsr().forget_addresses(kept.tenant, kept.request, Some(event)).await?;
    }
    Ok(())
}

impl Flows {
    pub fn opendsr(&self) -> &OpenDsr {
        &self.opendsr
    }
}

impl From<CallbackError> for FlowError {
    fn from(error: CallbackError) -> Self {
        Self::CallbackFailed(Box::new(error))
    }
}
