//! Requests of persons to be given what is known of them, from asking to a package that only they can open.
//!
//! A package is put together in the call that asks for it, and written in one transaction with its request: there is no moment
//! in which half of one is kept, and what opens it is told in that answer and kept nowhere. A call that was killed left nothing
//! behind; one whose answer was lost is cancelled and made again.

use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

use super::{
    FlowError, Flows, Page, PageRequest,
    audit::{self, Scribe},
    erasures,
    once::{self, Answer, Call},
    package::{self, About},
    subjects,
};
pub use crate::store::{AccessRequest, PackageNote};
use crate::{
    audit::{Action, Actor, Entry, Event, Why},
    auth::package_link::PackageToken,
    domain::{
        access::{AccessState, LockKind},
        erasure::Regulation,
        id::{AccessId, SubjectId, TenantId},
        job::JobKind,
    },
    store::{AccessFilter, Act, NewJob, NewPackage, StoreError},
    vault::{
        DataKey,
        package::{Lock, Passphrase, Recipient, lock},
    },
};

/// What the operator has decided about access requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccessPolicy {
    /// How long a package can be fetched.
    pub package_kept: Duration,
}

impl Flows {
    pub fn access_policy(&self) -> AccessPolicy {
        self.access_policy
    }
}

/// How often a link can be followed: for a second try, and for a program that looks at links before people do.
pub const DOWNLOADS_MAX: u32 = 5;

/// A request that somebody makes for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAccess {
    pub subject: SubjectId,
    /// `None`: the service's own.
    pub regulation: Option<Regulation>,
    /// When the person asked the tenant, if that was before now: the time to answer runs from there.
    pub received_at: Option<OffsetDateTime>,
    /// Where the tenant knows already that it was the person who asked.
    pub verified: Option<Fulfilment>,
}

/// How the package is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fulfilment {
    /// The person's public key; without one a passphrase is made.
    pub recipient: Option<String>,
}

/// A request, and where it was answered in this very call what opens and fetches the package: told now or never.
pub struct AccessAnswer {
    pub request: AccessRequest,
    pub handover: Option<Handover>,
}

pub struct Handover {
    pub link: Zeroizing<String>,
    pub passphrase: Option<Zeroizing<String>>,
}

/// Opens a request. One of which it is known who asks is answered at once.
pub async fn open(
    flows: &Flows,
    tenant: TenantId,
    new: NewAccess,
    call: Call<AccessAnswer>,
) -> Result<Answer, FlowError> {
    once::run(flows, &call, &[], async |attempt| {
        let received_at = erasures::received_at(flows, new.received_at)?;
        let (regulation, due_at) = flows.erasure_policy.deadline(new.regulation, received_at);
        let key = subjects::data_key(flows, tenant, new.subject).await?;
        let request = AccessRequest {
            id: AccessId::generate(),
            tenant,
            subject: new.subject,
            regulation,
            state: AccessState::Received,
            reason: None,
            received_at,
            due_at,
            ended_at: None,
            package: None,
        };
        let (action, answer, package) = match new.verified {
            None => (Action::AccessRequested, AccessAnswer { request, handover: None }, None),
            Some(fulfilment) => {
                let (answer, package) = fulfil(flows, request, fulfilment, &key).await?;
                (Action::AccessCompleted, answer, Some(package))
            }
        };
        let object = Some(answer.request.id.to_string());
        let act = attempt.act_about(action, object, new.subject, None, &answer)?;
        flows.store.access_requests().open(&answer.request, package, act).await?;
        Ok(answer)
    })
    .await
}

/// It was the person who asked: what is known of them is put together.
pub async fn verify(
    flows: &Flows,
    tenant: TenantId,
    id: AccessId,
    fulfilment: Fulfilment,
    call: Call<AccessAnswer>,
) -> Result<Answer, FlowError> {
    once::run(flows, &call, &[], async |attempt| {
        let request = flows.store.access_requests().find(tenant, id).await?;
        if request.state != AccessState::Received {
            return Err(FlowError::AccessState);
        }
        let subject = request.subject;
        let key = subjects::data_key(flows, tenant, subject).await?;
        let (answer, package) = fulfil(flows, request, fulfilment, &key).await?;
        let act = attempt.act_about(Action::AccessCompleted, Some(id.to_string()), subject, None, &answer)?;
        flows.store.access_requests().complete(&answer.request, package, act).await?;
        Ok(answer)
    })
    .await
}

async fn fulfil(
    flows: &Flows,
    request: AccessRequest,
    fulfilment: Fulfilment,
    key: &DataKey,
) -> Result<(AccessAnswer, NewPackage), FlowError> {
    let opens = match fulfilment.recipient {
        Some(text) => Lock::Recipient(text.parse::<Recipient>().map_err(|_| FlowError::RecipientInvalid)?),
        None => Lock::Passphrase(Passphrase::generate().map_err(FlowError::internal)?),
    };
    let (kind, passphrase) = match &opens {
        Lock::Recipient(_) => (LockKind::Recipient, None),
        Lock::Passphrase(passphrase) => {
            (LockKind::Passphrase, Some(Zeroizing::new(passphrase.expose_text().to_owned())))
        }
    };
    let now = flows.now();
    let expires_at = now + flows.access_policy.package_kept;
    let AccessRequest { id, tenant, subject, regulation, received_at, .. } = request;
    let about = About { request: id, tenant, subject, regulation, received_at, expires_at };
    // A passphrase is stretched for some hundredths of a second: no more at a time than the pool has threads.
    let place = flows.compute.reserve()?;
    let plain = package::assemble(flows, &about, key).await?;
    let locked = place.run(move || lock(&plain, &opens)).await?.map_err(FlowError::internal)?;
    let token = PackageToken::generate();
    let expiry = NewJob {
        kind: JobKind::PackageExpiry,
        tenant: Some(tenant),
        payload: serde_json::json!({ "request": id.to_string() }),
        unique_key: None,
        due_at: expires_at,
        created_at: now,
    };
    let hash = flows.pepper.hash_package_token(&token);
    let package = NewPackage::sealed(id, (&locked, kind), key, hash, (expires_at, expiry))?;
    let request =
        AccessRequest { state: AccessState::Completed, ended_at: Some(now), package: Some(package.note()), ..request };
    let base = flows.tokens.config().issuer.trim_end_matches('/');
    let link = Zeroizing::new(format!("{base}/v1/packages/{}", token.expose_text()));
    Ok((AccessAnswer { request, handover: Some(Handover { link, passphrase }) }, package))
}

/// How an officer ends a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    Reject {
        reason: String,
    },
    /// Also of one that was answered: then the package is destroyed, and its link leads nowhere.
    Cancel,
}

pub async fn end(
    flows: &Flows,
    tenant: TenantId,
    id: AccessId,
    ending: Ending,
    call: Call<AccessAnswer>,
) -> Result<Answer, FlowError> {
    once::run(flows, &call, &[], async |attempt| {
        let (state, action, why, reason) = match ending {
            Ending::Reject { reason } => {
                (AccessState::Rejected, Action::AccessRejected, Why::StatedInRequest, Some(reason))
            }
            Ending::Cancel => (AccessState::Cancelled, Action::AccessCancelled, Why::NotAsked, None),
        };
        let attempt = std::sync::Arc::clone(attempt);
        let act = move |request: &AccessRequest| {
            let answer = AccessAnswer { request: request.clone(), handover: None };
            let act = attempt.act_about(action, Some(request.id.to_string()), request.subject, None, &answer)?;
            Ok(Act { event: Event { reason: Some(why.as_str()), ..act.event }, ..act })
        };
        let request = flows.store.access_requests().end(tenant, id, (state, reason), flows.now(), act).await?;
        Ok(AccessAnswer { request, handover: None })
    })
    .await
}

/// For a worker, when the time of a package is over. A request that is gone went with its person.
pub async fn expire(flows: &Flows, tenant: TenantId, id: AccessId) -> Result<(), FlowError> {
    let request = match flows.store.access_requests().find(tenant, id).await {
        Err(StoreError::NotFound) => return Ok(()),
        found => found?,
    };
    let event = about_request(flows, &request, Actor::service(), Action::AccessExpired);
    match flows.store.access_requests().expire(tenant, id, event).await {
        Err(StoreError::NotFound) => Ok(()),
        expired => Ok(expired?),
    }
}

pub async fn show(flows: &Flows, tenant: TenantId, id: AccessId) -> Result<AccessRequest, FlowError> {
    Ok(flows.store.access_requests().find(tenant, id).await?)
}

/// Newest first.
pub async fn list(
    flows: &Flows,
    tenant: TenantId,
    state: Option<AccessState>,
    subject: Option<SubjectId>,
    page: PageRequest,
) -> Result<Page<AccessRequest>, FlowError> {
    let filter = AccessFilter { state, subject, now: flows.now() };
    let rows = flows.store.access_requests().list(tenant, filter, page.after()?, page.limit()).await?;
    Ok(rows.into())
}

/// What the audit log tells of a request, oldest first.
pub async fn story(flows: &Flows, request: &AccessRequest) -> Result<Vec<Entry>, FlowError> {
    let subject = flows.pepper.subject_digest(request.tenant, request.subject);
    audit::story(flows, request.tenant, subject, request.id.to_string()).await
}

/// The package, for an officer: an age ciphertext. Each time is on record.
pub async fn fetch(flows: &Flows, tenant: TenantId, id: AccessId, by: Actor) -> Result<Vec<u8>, FlowError> {
    let request = flows.store.access_requests().find(tenant, id).await?;
    hand_out(flows, &request, None, by).await
}

/// The package behind a link, for whoever holds it. `NotFound` whatever the reason, so that nobody learns whether there was one.
pub async fn follow(flows: &Flows, token: &PackageToken, call: Option<String>) -> Result<Vec<u8>, FlowError> {
    let request = flows.store.access_requests().behind(flows.pepper.hash_package_token(token)).await?;
    let by = Actor { name: "link".to_owned(), request: call };
    hand_out(flows, &request, Some(DOWNLOADS_MAX), by).await
}

async fn hand_out(
    flows: &Flows,
    request: &AccessRequest,
    at_most: Option<u32>,
    by: Actor,
) -> Result<Vec<u8>, FlowError> {
    let key = subjects::data_key(flows, request.tenant, request.subject).await?;
    let event = about_request(flows, request, by, Action::AccessFetched);
    let package = flows.store.access_requests().fetch(request.tenant, request.id, at_most, event).await?;
    Ok(package.open(&key)?)
}

fn about_request(flows: &Flows, request: &AccessRequest, by: Actor, action: Action) -> Event {
    let object = Some(request.id.to_string());
    Scribe::new(flows, request.tenant, by).event_about(action, request.subject, object)
}
