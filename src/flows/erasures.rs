//! Requests to erase a person, from asking to certificate.
//!
//! The order of an erasure matters. The ledger first, so that a restore can never bring back what was begun. Then the data
//! key: from there on nothing about the person can be read, in old backups neither. Then the keyholder, then the rows, and
//! the certificate last. Every step may be repeated, by anybody and at the same time, and a request that has begun is in the
//! job queue until it is certified: whatever is killed in the middle, a worker finishes it.

use time::OffsetDateTime;

use super::{
    FlowError, Flows, Page, PageRequest,
    audit::{self, Scribe},
    certificate::{self, Gone},
    once::{self, Answer, Call},
};
pub use crate::store::ErasureRequest;
use crate::{
    audit::{Action, Actor, Entry, Event, Why},
    domain::{
        erasure::{ErasureState, Regulation},
        id::{ErasureId, SubjectId, TenantId},
        job::JobKind,
    },
    store::{Act, Conflict, ErasureFilter, LedgerKind, NewErasureRequest, NewJob, NewLedgerEntry, Step, StoreError},
};

/// A request that somebody makes for a person.
#[derive(Debug, Clone, Copy)]
pub struct NewErasure {
    pub subject: SubjectId,
    /// `None`: the service's own.
    pub regulation: Option<Regulation>,
    /// When the person asked the tenant, if that was before now: the time to answer runs from there.
    pub received_at: Option<OffsetDateTime>,
    /// The tenant knows already that it was the person who asked.
    pub verified: bool,
}

/// Opens a request. One that is verified goes its way at once.
pub async fn open(
    flows: &Flows,
    tenant: TenantId,
    new: NewErasure,
    call: Call<ErasureRequest>,
) -> Result<Answer, FlowError> {
    once::run(flows, &call, &[], async |attempt| {
        let received_at = received_at(flows, new.received_at)?;
        let state = if new.verified { ErasureState::Verified } else { ErasureState::Received };
        let request = fresh(flows, tenant, new.subject, new.regulation, received_at, state);
        let object = Some(request.id.to_string());
        let act = attempt.act_about(Action::ErasureRequested, object, new.subject, None, &request)?;
        // The answer holds nothing of the person and must outlive it: it is kept with the request, not with the person.
        let act = Act { receipt: attempt.receipt(&request), ..act };
        let job = new.verified.then(|| job(flows, &request, flows.now()));
        flows.store.erasures().open(&request, job, act).await?;
        flows.wake_worker();
        Ok(request)
    })
    .await
}

/// When the person asked: earlier than now where the tenant says so, and never later.
pub(super) fn received_at(flows: &Flows, said: Option<OffsetDateTime>) -> Result<OffsetDateTime, FlowError> {
    let now = flows.now();
    let received_at = said.unwrap_or(now);
    if received_at > now { Err(FlowError::ReceivedLater) } else { Ok(received_at) }
}

/// Erases a person here and now: a request that is opened, and carried out before the answer. Where a store is away in the
/// middle, the request stays in progress and is finished by a worker, or by the same call.
pub async fn erase(
    flows: &Flows,
    tenant: TenantId,
    subject: SubjectId,
    call: Call<ErasureId>,
) -> Result<Answer, FlowError> {
    once::run(flows, &call, &[], async |attempt| {
        let request = match flows.store.erasures().open_of(tenant, subject).await? {
            Some(open) => begun(flows, &open, call.actor.clone()).await?,
            None => open_begun(flows, tenant, subject, call.actor.clone()).await?,
        };
        let object = Some(request.id.to_string());
        let event = attempt.act_about(Action::ErasureCompleted, object, subject, None, &request.id)?.event;
        let act = Act { event, receipt: attempt.receipt(&request.id) };
        Ok(carry_out(flows, request, act).await?.id)
    })
    .await
}

/// The request that is opened when a person agrees to nothing any more, where that is the operator's policy.
pub(super) fn after_withdrawal(
    flows: &Flows,
    tenant: TenantId,
    subject: SubjectId,
    by: Actor,
) -> Option<NewErasureRequest> {
    let policy = flows.erasure_policy;
    let (now, state) = (flows.now(), ErasureState::Verified);
    let request = policy.on_withdrawal.then(|| fresh(flows, tenant, subject, None, now, state))?;
    let (job, event) = (job(flows, &request, now), event(flows, &request, by, Action::ErasureRequested));
    Some(NewErasureRequest { request, job, event })
}

/// Of a person whose key is gone already: an erasure that stopped half-way, maybe one of before there were requests.
pub(super) async fn finish(flows: &Flows, tenant: TenantId, subject: SubjectId) -> Result<(), FlowError> {
    let request = match flows.store.erasures().open_of(tenant, subject).await? {
        Some(open) => begun(flows, &open, Actor::service()).await?,
        None => open_begun(flows, tenant, subject, Actor::service()).await?,
    };
    let event = event(flows, &request, Actor::service(), Action::ErasureCompleted);
    carry_out(flows, request, event.into()).await.map(drop)
}

/// A request that goes its way at once, and the job that carries it out.
pub(super) fn verified(
    flows: &Flows,
    tenant: TenantId,
    subject: SubjectId,
    regulation: Option<Regulation>,
    received_at: OffsetDateTime,
) -> (ErasureRequest, NewJob) {
    let request = fresh(flows, tenant, subject, regulation, received_at, ErasureState::Verified);
    let job = job(flows, &request, flows.now());
    (request, job)
}

/// For a worker. A request that has ended meanwhile is done, and so is one in whose place a replay put another.
pub async fn execute(flows: &Flows, tenant: TenantId, id: ErasureId) -> Result<(), FlowError> {
    let request = match flows.store.erasures().find(tenant, id).await {
        Err(StoreError::NotFound) => return Ok(()),
        found => found?,
    };
    // Held, rejected or cancelled since: whoever releases it queues it again.
    if !matches!(request.state, ErasureState::Verified | ErasureState::InProgress) {
        return Ok(());
    }
    let request = match begun(flows, &request, Actor::service()).await {
        Err(FlowError::LegalHold | FlowError::ErasureState) => return Ok(()),
        request => request?,
    };
    let event = event(flows, &request, Actor::service(), Action::ErasureCompleted);
    carry_out(flows, request, event.into()).await.map(drop)
}

/// Every step may have been done before.
pub(super) async fn carry_out(flows: &Flows, request: ErasureRequest, act: Act) -> Result<ErasureRequest, FlowError> {
    let (tenant, id) = (request.tenant, request.id);
    let Some(subject) = request.subject else {
        // Completed by somebody who was faster: what is left to write is the answer to this call.
        return Ok(flows.store.erasures().certify(tenant, id, String::new(), act).await?);
    };
    let entry = |kind| NewLedgerEntry { at: flows.now(), kind, request: id, tenant, subject };
    flows.ledger.append(entry(LedgerKind::Begun)).await?;
    let data_keys = flows.keystore.destroy(tenant, subject, flows.now()).await?;
    let counters = flows.keyholder.forget(tenant, subject).await?;
    let erased = event(flows, &request, Actor::service(), Action::SubjectErased);
    let request = flows.store.erasures().remove_rows(tenant, id, subject, erased).await?;
    let removed = request.removed.as_ref().ok_or_else(|| FlowError::internal(NothingRemoved))?;
    let signed = certificate::issue(flows, &request, Gone { data_keys, counters, removed })?;
    // Whoever was faster: that certificate counts.
    let entry = flows.ledger.append(entry(LedgerKind::Certified(signed))).await?.entry;
    let LedgerKind::Certified(certificate) = entry.kind else { return Err(FlowError::internal(NothingRemoved)) };
    let request = flows.store.erasures().certify(tenant, id, certificate, act).await?;
    tracing::info!(event = "erasure_completed", request = %id, %tenant, "a person was erased");
    Ok(request)
}

#[derive(Debug, thiserror::Error)]
#[error("an erasure lost track of what it removed")]
struct NothingRemoved;

fn fresh(
    flows: &Flows,
    tenant: TenantId,
    subject: SubjectId,
    regulation: Option<Regulation>,
    received_at: OffsetDateTime,
    state: ErasureState,
) -> ErasureRequest {
    let now = flows.now();
    let (regulation, due_at) = flows.erasure_policy.deadline(regulation, received_at);
    ErasureRequest {
        id: ErasureId::generate(),
        tenant,
        subject: Some(subject),
        subject_digest: flows.pepper.subject_digest(tenant, subject),
        regulation,
        state,
        reason: None,
        received_at,
        due_at,
        verified_at: (state != ErasureState::Received).then_some(now),
        begun_at: (state == ErasureState::InProgress).then_some(now),
        ended_at: None,
        removed: None,
        certificate: None,
    }
}

async fn open_begun(
    flows: &Flows,
    tenant: TenantId,
    subject: SubjectId,
    by: Actor,
) -> Result<ErasureRequest, FlowError> {
    let now = flows.now();
    let request = fresh(flows, tenant, subject, None, now, ErasureState::InProgress);
    let act = event(flows, &request, by.clone(), Action::ErasureRequested).into();
    // Not at once: whoever called is at it.
    let job = later_job(flows, &request);
    match flows.store.erasures().open(&request, Some(job), act).await {
        Ok(()) => Ok(request),
        // A twin opened one between our looking and our writing.
        Err(StoreError::Conflict(Conflict::ErasureOpen)) => {
            let open = flows.store.erasures().open_of(tenant, subject).await?.ok_or(FlowError::NotFound)?;
            begun(flows, &open, by).await
        }
        Err(error) => Err(error.into()),
    }
}

/// How long a worker leaves an erasure to the call that began it.
const PATIENCE: time::Duration = time::Duration::seconds(10);

/// The request in progress, or completed by somebody who was faster. Whoever holds or ends it meanwhile is not overruled.
async fn begun(flows: &Flows, open: &ErasureRequest, by: Actor) -> Result<ErasureRequest, FlowError> {
    let mut request = open.clone();
    loop {
        let (to, action) = match request.state {
            ErasureState::Received => (ErasureState::Verified, Action::ErasureVerified),
            ErasureState::Verified => (ErasureState::InProgress, Action::ErasureBegun),
            ErasureState::InProgress | ErasureState::Completed => return Ok(request),
            ErasureState::OnHold => {
                let (id, tenant) = (request.id, request.tenant);
                tracing::warn!(event = "erasure_refused", request = %id, %tenant, "a legal hold stands against an erasure");
                return Err(FlowError::LegalHold);
            }
            ErasureState::Rejected | ErasureState::Cancelled => return Err(FlowError::ErasureState),
        };
        let step = Step { from: request.state, to, reason: None, at: flows.now() };
        let event = event(flows, &request, by.clone(), action);
        let job = Some(later_job(flows, &request));
        request = match flows.store.erasures().step(request.tenant, request.id, step, job, |_| Ok(event.into())).await {
            // Somebody else took a step: it is looked at where it is now.
            Err(StoreError::Conflict(Conflict::ErasureState)) => {
                flows.store.erasures().find(request.tenant, request.id).await?
            }
            taken => taken?,
        };
    }
}

/// For who is at it already, should he not finish.
pub(super) fn later_job(flows: &Flows, request: &ErasureRequest) -> NewJob {
    job(flows, request, flows.now() + PATIENCE)
}

fn job(flows: &Flows, request: &ErasureRequest, due_at: OffsetDateTime) -> NewJob {
    NewJob {
        kind: JobKind::Erasure,
        tenant: Some(request.tenant),
        payload: serde_json::json!({ "request": request.id.to_string() }),
        // A second one finds nothing to do; one that was not queued, because the first was just ending, would be missed.
        unique_key: None,
        due_at,
        created_at: flows.now(),
    }
}

pub(super) fn event(flows: &Flows, request: &ErasureRequest, by: Actor, action: Action) -> Event {
    let event = Scribe::new(flows, request.tenant, by).event(action, request.id);
    Event { subject: Some(request.subject_digest), ..event }
}

/// A step that an officer takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Verify,
    Reject { reason: String },
    Hold { reason: String },
    Release,
    Cancel,
}

pub async fn decide(
    flows: &Flows,
    tenant: TenantId,
    id: ErasureId,
    decision: Decision,
    call: Call<ErasureRequest>,
) -> Result<Answer, FlowError> {
    once::run(flows, &call, &[], async |attempt| {
        let request = flows.store.erasures().find(tenant, id).await?;
        let from = request.state;
        let (to, action, reason) = match decision {
            Decision::Verify if from == ErasureState::Received => {
                (ErasureState::Verified, Action::ErasureVerified, None)
            }
            Decision::Reject { reason } => (ErasureState::Rejected, Action::ErasureRejected, Some(reason)),
            Decision::Hold { reason } => (ErasureState::OnHold, Action::ErasureHeld, Some(reason)),
            Decision::Cancel => (ErasureState::Cancelled, Action::ErasureCancelled, None),
            // To where it came from.
            Decision::Release if from == ErasureState::OnHold => match request.verified_at {
                Some(_) => (ErasureState::Verified, Action::ErasureReleased, None),
                None => (ErasureState::Received, Action::ErasureReleased, None),
            },
            Decision::Verify | Decision::Release => return Err(FlowError::ErasureState),
        };
        let why = match to {
            ErasureState::Rejected | ErasureState::OnHold => Some(Why::StatedInRequest),
            ErasureState::Cancelled => Some(Why::NotAsked),
            _ => None,
        };
        let event = event(flows, &request, call.actor.clone(), action);
        let (now, event) = (flows.now(), Event { reason: why.map(Why::as_str), ..event });
        let job = (to == ErasureState::Verified).then(|| job(flows, &request, now));
        let attempt = std::sync::Arc::clone(attempt);
        let act = move |request: &ErasureRequest| Ok(Act { event, receipt: attempt.receipt(request) });
        let request = flows.store.erasures().step(tenant, id, Step { from, to, reason, at: now }, job, act).await?;
        flows.wake_worker();
        Ok(request)
    })
    .await
}

pub async fn show(flows: &Flows, tenant: TenantId, id: ErasureId) -> Result<ErasureRequest, FlowError> {
    Ok(flows.store.erasures().find(tenant, id).await?)
}

/// Newest first. Of a person that was erased too, for whoever still knows the id.
pub async fn list(
    flows: &Flows,
    tenant: TenantId,
    state: Option<ErasureState>,
    subject: Option<SubjectId>,
    page: PageRequest,
) -> Result<Page<ErasureRequest>, FlowError> {
    let subject = subject.map(|subject| flows.pepper.subject_digest(tenant, subject));
    let filter = ErasureFilter { state, subject };
    let rows = flows.store.erasures().list(tenant, filter, page.after()?, page.limit()).await?;
    Ok(rows.into())
}

/// The open ones, the first deadline first.
pub async fn by_deadline(
    flows: &Flows,
    tenant: TenantId,
    state: Option<ErasureState>,
    page: PageRequest,
) -> Result<Page<ErasureRequest>, FlowError> {
    let rows = flows.store.erasures().by_deadline(tenant, state, page.after()?, page.limit()).await?;
    Ok(rows.into())
}

/// How many requests are open, and how many of those should have been answered by now.
pub async fn open_and_overdue(flows: &Flows, tenant: TenantId) -> Result<(i64, i64), FlowError> {
    Ok(flows.store.erasures().open_and_overdue(tenant, flows.now()).await?)
}

/// What the audit log tells of a request, oldest first.
pub async fn story(flows: &Flows, request: &ErasureRequest) -> Result<Vec<Entry>, FlowError> {
    audit::story(flows, request.tenant, request.subject_digest, request.id.to_string()).await
}

/// The certificate of a request, a JWS. Where there is none yet: `NotFound`.
pub async fn certificate(flows: &Flows, tenant: TenantId, id: ErasureId) -> Result<String, FlowError> {
    show(flows, tenant, id).await?.certificate.ok_or(FlowError::NotFound)
}
