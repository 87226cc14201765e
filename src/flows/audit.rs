//! The audit log: who writes in it, and who reads it.

use std::{fmt, sync::Arc};

use futures_util::{Stream, stream};
use time::OffsetDateTime;

use super::{FlowError, Flows, Page, PageRequest};
use crate::{
    audit::{Action, Actor, Chain, Checkpoint, Entry, Event, SubjectDigest, export},
    auth::{client_secret::Pepper, evidence::Document},
    domain::{
        clock::Clock,
        id::{SubjectId, TenantId},
    },
    measure,
    store::{AuditFilter, PAGE_ROWS_MAX, Store, StoreError},
};

/// Writes down what somebody does for a tenant.
#[derive(Clone)]
pub struct Scribe {
    tenant: TenantId,
    actor: Actor,
    pepper: Arc<Pepper>,
    clock: Arc<dyn Clock>,
}

impl Scribe {
    pub fn new(flows: &Flows, tenant: TenantId, actor: Actor) -> Self {
        Self { tenant, actor, pepper: Arc::clone(&flows.pepper), clock: Arc::clone(&flows.clock) }
    }

    /// `object`: the id of what is made, changed or removed.
    pub fn event(&self, action: Action, object: impl fmt::Display) -> Event {
        Event::of(self.actor.clone(), action, object, self.clock.now())
    }

    /// Of what concerns a person.
    pub fn event_about(&self, action: Action, subject: SubjectId, object: Option<String>) -> Event {
        let subject = Some(self.pepper.subject_digest(self.tenant, subject));
        Event { action, actor: self.actor.clone(), subject, object, reason: None, at: self.clock.now() }
    }
}

/// Which entries somebody looks for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Search {
    pub subject: Option<SubjectId>,
    pub action: Option<Action>,
    /// From this moment on.
    pub since: Option<OffsetDateTime>,
    /// Before this one.
    pub before: Option<OffsetDateTime>,
}

/// Newest first. Of a person that was erased too, for whoever still knows the id.
pub async fn list(
    flows: &Flows,
    tenant: TenantId,
    search: Search,
    page: PageRequest,
) -> Result<Page<Entry>, FlowError> {
    let filter = AuditFilter {
        subject: search.subject.map(|subject| flows.pepper.subject_digest(tenant, subject)),
        action: search.action.map(|action| action.as_str().to_owned()),
        object: None,
        since: search.since,
        before: search.before,
    };
    let rows = flows.store.audit().list(tenant, filter, page.after()?, page.limit()).await?;
    Ok(rows.into())
}

/// Signed checkpoints, newest first.
pub async fn checkpoints(flows: &Flows, tenant: TenantId, page: PageRequest) -> Result<Page<String>, FlowError> {
    let rows = flows.store.audit().checkpoints(tenant, page.after()?, page.limit()).await?;
    let next_cursor = rows.next.map(Page::<String>::cursor);
    Ok(Page { items: rows.items.into_iter().map(|(_, jws)| jws).collect(), next_cursor })
}

/// What the log tells of one object about which a person's entries are, oldest first.
pub(super) async fn story(
    flows: &Flows,
    tenant: TenantId,
    subject: SubjectDigest,
    object: String,
) -> Result<Vec<Entry>, FlowError> {
    let filter = AuditFilter { subject: Some(subject), object: Some(object), ..AuditFilter::default() };
    let rows = flows.store.audit().list(tenant, filter, None, PAGE_ROWS_MAX).await?;
    Ok(rows.items.into_iter().rev().collect())
}

/// How long a log is, and up to where it was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogState {
    pub entries: u64,
    /// The last one, if its signature is good.
    pub checkpoint: Option<Checkpoint>,
}

impl LogState {
    /// Entries that came after the last checkpoint.
    pub fn unsigned(&self) -> u64 {
        self.entries.saturating_sub(self.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.size))
    }
}

pub async fn state(flows: &Flows, tenant: TenantId) -> Result<LogState, FlowError> {
    let entries = flows.store.audit().chain(tenant).await?.size();
    let last = flows.store.audit().checkpoints(tenant, None, 1).await?.items.pop();
    let read = |(_, jws): (u64, String)| flows.evidence.verify(Document::AuditCheckpoint, &jws).ok();
    Ok(LogState { entries, checkpoint: last.and_then(read) })
}

/// What a walk through a log finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checked {
    /// Every entry fits the one before it, and the last one is the end that was kept.
    Whole { entries: u64 },
    /// An entry was changed, removed, inserted or moved here or just before.
    Broken { sequence: u64 },
    /// Longer than what is read while somebody waits; nothing was read.
    TooLong { entries: u64 },
}

/// Entries that are read while somebody waits.
pub const CHECKED_MAX: u64 = 100_000;

/// Reads what there is of a tenant's log and compares every hash with what it must be. It trusts the database for both ends of
/// the log; who holds a checkpoint compares that too, with an export and `velum audit verify`.
pub async fn check(flows: &Flows, tenant: TenantId) -> Result<Checked, FlowError> {
    let end = flows.store.audit().chain(tenant).await?;
    let mut chain = beginning(&flows.store, tenant).await?;
    let entries = end.size() - chain.size().min(end.size());
    if entries > CHECKED_MAX {
        return Ok(Checked::TooLong { entries });
    }
    Ok(match walk(&flows.store, tenant, &mut chain, end.size()).await? {
        Some(sequence) => Checked::Broken { sequence },
        None if chain == end => Checked::Whole { entries },
        None => Checked::Broken { sequence: end.size() },
    })
}

/// What the log begins after.
pub async fn beginning(store: &Store, tenant: TenantId) -> Result<Chain, StoreError> {
    let gone = store.audit().beginning(tenant).await?;
    Ok(gone.map_or(Chain::empty(tenant), |(chain, _)| chain))
}

/// Signs every log that has grown since it was signed last, and says so in our own log: a copy that lies elsewhere.
pub async fn sign_all(flows: &Flows) -> Result<(), FlowError> {
    for tenant in flows.store.tenants().list().await? {
        let last = flows.store.audit().checkpoints(tenant.id, None, 1).await?;
        let chain = flows.store.audit().chain(tenant.id).await?;
        if last.items.first().is_none_or(|(signed, _)| *signed < chain.size()) {
            let checkpoint = sign(flows, tenant.id, &chain).await?;
            tracing::info!(event = "audit_checkpoint", tenant = %tenant.id, checkpoint, "an audit log was signed");
        }
    }
    Ok(())
}

/// Signs the end of a log, and keeps what was signed: a JWS.
async fn sign(flows: &Flows, tenant: TenantId, chain: &Chain) -> Result<String, FlowError> {
    let now = flows.now();
    let checkpoint = chain.checkpoint(now);
    let jws = flows.evidence.sign(Document::AuditCheckpoint, &checkpoint, now).map_err(FlowError::internal)?;
    flows.store.audit().keep_checkpoint(tenant, &checkpoint, now, jws.clone()).await?;
    Ok(jws)
}

/// The whole log up to a checkpoint that is signed now, in the form of [`export`], piece by piece.
pub async fn export(
    flows: Arc<Flows>,
    tenant: TenantId,
) -> Result<impl Stream<Item = Result<Vec<u8>, FlowError>>, FlowError> {
    let chain = flows.store.audit().chain(tenant).await?;
    let jws = sign(&flows, tenant, &chain).await?;
    let after = flows.store.audit().beginning(tenant).await?;
    let (size, first) = (chain.size(), export::first_line(tenant, after.as_ref()));
    let gone = after.map_or(0, |(gone, _)| gone.size());
    let rest = stream::try_unfold((flows, gone, Some(jws)), move |(flows, last, mut jws)| async move {
        if last == size {
            // Once, and then no more.
            return Ok(jws.take().map(|jws| (export::last_line(jws), (flows, last, None))));
        }
        let limit = (size - last).min(EXPORTED_AT_ONCE) as u32;
        let entries = flows.store.audit().after(tenant, last, limit).await?;
        // Retention may be at work meanwhile.
        let follows = entries.first().is_some_and(|(entry, _)| entry.sequence == last + 1);
        let newest = entries.last().filter(|_| follows).map(|(entry, _)| entry.sequence);
        let newest = newest.ok_or_else(|| FlowError::internal(LogTooShort))?;
        let lines = entries.into_iter().flat_map(|(entry, hash)| export::entry_line(entry, &hash)).collect();
        Ok(Some((lines, (flows, newest, jws))))
    });
    Ok(futures_util::StreamExt::chain(stream::iter([Ok(first)]), rest))
}

/// Lets the log begin after the newest checkpoint that was signed at `until` or before. What may go then is compared with it
/// first: a log that is not whole stays, as evidence. Whether entries may go up to there.
pub async fn shorten(store: &Store, tenant: TenantId, until: OffsetDateTime) -> Result<bool, StoreError> {
    let Some((size, jws)) = store.audit().checkpoint_until(tenant, until).await? else { return Ok(false) };
    let mut chain = beginning(store, tenant).await?;
    if chain.size() >= size {
        return Ok(true);
    }
    let broken = walk(store, tenant, &mut chain, size).await?;
    if broken.is_some() || !Checkpoint::stated_in(&jws).is_some_and(|checkpoint| chain.is_at(&checkpoint)) {
        measure::audit_log_broken();
        tracing::error!(event = "audit_log_broken", %tenant, up_to = size, "an audit log is not what was signed; it is kept");
        return Ok(false);
    }
    store.audit().begin_after(tenant, &chain).await?;
    Ok(true)
}

/// Follows the log from where `chain` ends up to `size` entries. The first that is missing, or is not as it was written.
pub async fn walk(store: &Store, tenant: TenantId, chain: &mut Chain, size: u64) -> Result<Option<u64>, StoreError> {
    while chain.size() < size {
        let limit = (size - chain.size()).min(EXPORTED_AT_ONCE) as u32;
        let entries = store.audit().after(tenant, chain.size(), limit).await?;
        if entries.is_empty() {
            return Ok(Some(chain.size() + 1));
        }
        for (entry, hash) in entries {
            let sequence = chain.size() + 1;
            chain.push(&entry);
            if entry.sequence != sequence || *chain.hash() != hash {
                return Ok(Some(sequence));
            }
        }
    }
    Ok(None)
}

/// Entries of one query.
const EXPORTED_AT_ONCE: u64 = 1_000;

#[derive(Debug, thiserror::Error)]
#[error("the audit log has fewer entries than its end says")]
struct LogTooShort;
