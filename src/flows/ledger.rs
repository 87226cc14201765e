//! After a restore: who the ledger says was erased must not come back.
//!
//! The main database and the key store each remember up to which entry of the ledger they agree with it. One that was
//! restored from a backup remembers less, and lacks what was erased since: until `velum erasures replay` has erased it
//! again, the service is not ready.

use std::collections::{HashMap, HashSet};

use super::{FlowError, Flows, audit::Scribe};
use crate::{
    audit::{Action, Actor, Event},
    domain::{
        erasure::ErasureState,
        id::{ErasureId, SubjectId, TenantId},
    },
    store::{ErasureRequest, LedgerEntry, LedgerKind, Mark, NewLedgerEntry, StoreError},
};

/// How databases and ledger stand to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LedgerState {
    /// Whoever was erased is gone, or is being erased.
    Settled,
    /// A database was restored from before an erasure.
    ReplayNeeded,
    /// The ledger lacks what a database remembers: it was restored itself, or is another one.
    LedgerBehind,
}

/// Entries that are looked at in one go.
const PAGE_ENTRIES: u32 = 500;

/// Looks at what came since the last time, and remembers how far everything agrees.
pub async fn check(flows: &Flows) -> Result<LedgerState, FlowError> {
    let marks = Marks::read(flows).await?;
    if !(flows.ledger.has(marks.main.clone()).await? && flows.ledger.has(marks.keystore.clone()).await?) {
        return Ok(LedgerState::LedgerBehind);
    }
    let (mut settled, mut unbroken) = (marks.earlier().clone(), true);
    let mut after = settled.sequence;
    loop {
        let entries = flows.ledger.after(after, PAGE_ENTRIES).await?;
        let Some(last) = entries.last() else { break };
        after = last.mark.sequence;
        let page = Page::read(flows, &entries).await?;
        for LedgerEntry { mark, entry } in entries {
            match page.standing(flows, &entry).await? {
                Standing::Done if unbroken => settled = mark,
                Standing::Done => {}
                // Looked at again until it has ended.
                Standing::UnderWay => unbroken = false,
                Standing::Forgotten => return Ok(LedgerState::ReplayNeeded),
            }
        }
    }
    marks.advance(flows, settled).await?;
    Ok(LedgerState::Settled)
}

/// How an erasure of the ledger stands in the databases.
enum Standing {
    Done,
    UnderWay,
    Forgotten,
}

/// What the databases know about a page of entries. Whoever asks whether the service is ready waits for this: two queries,
/// however many erasures are under way.
struct Page {
    states: HashMap<ErasureId, ErasureState>,
    destroyed: HashSet<SubjectId>,
}

impl Page {
    async fn read(flows: &Flows, entries: &[LedgerEntry]) -> Result<Self, FlowError> {
        let requests: Vec<_> = entries.iter().map(|entry| entry.entry.request).collect();
        let subjects: Vec<_> = entries.iter().map(|entry| entry.entry.subject).collect();
        // In this order: a request that is completed by the first answer has its key destroyed by the second.
        let states = flows.store.erasures().states(&requests).await?;
        Ok(Self { states, destroyed: flows.keystore.destroyed(&subjects).await? })
    }

    async fn standing(&self, flows: &Flows, entry: &NewLedgerEntry) -> Result<Standing, FlowError> {
        let destroyed = self.destroyed.contains(&entry.subject);
        Ok(match self.states.get(&entry.request) {
            Some(ErasureState::Completed) if destroyed => Standing::Done,
            Some(ErasureState::InProgress) => Standing::UnderWay,
            None if destroyed && !tenant_is_known(flows, entry.tenant).await? => Standing::Done,
            _ => Standing::Forgotten,
        })
    }
}

/// A tenant that came after the backup was made is not in it, and nothing of it is.
async fn tenant_is_known(flows: &Flows, tenant: TenantId) -> Result<bool, FlowError> {
    match flows.store.tenants().find(tenant).await {
        Ok(_) => Ok(true),
        Err(StoreError::NotFound) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

async fn known(flows: &Flows, tenant: TenantId, id: ErasureId) -> Result<Option<ErasureRequest>, FlowError> {
    match flows.store.erasures().find(tenant, id).await {
        Ok(request) => Ok(Some(request)),
        Err(StoreError::NotFound) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

struct Marks {
    main: Mark,
    keystore: Mark,
}

impl Marks {
    async fn read(flows: &Flows) -> Result<Self, FlowError> {
        let (main, keystore) = tokio::join!(flows.store.ledger_mark(), flows.keystore.ledger_mark());
        Ok(Self { main: main?, keystore: keystore? })
    }

    fn earlier(&self) -> &Mark {
        if self.main.sequence < self.keystore.sequence { &self.main } else { &self.keystore }
    }

    async fn advance(&self, flows: &Flows, to: Mark) -> Result<(), FlowError> {
        if to.sequence > self.main.sequence {
            flows.store.advance_ledger_mark(to.clone()).await?;
        }
        if to.sequence > self.keystore.sequence {
            flows.keystore.advance_ledger_mark(to).await?;
        }
        Ok(())
    }
}

/// What a replay did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Erasures that the ledger has and a database may have forgotten.
    pub seen: usize,
    /// Of these, persons who were there again.
    pub erased_again: usize,
}

/// Erases again whom a restored database brought back. Safe to repeat, and to break off.
pub async fn replay(flows: &Flows) -> Result<Replayed, FlowError> {
    let mut done = Replayed::default();
    let mut after = Marks::read(flows).await?.earlier().sequence;
    loop {
        let entries = flows.ledger.after(after, PAGE_ENTRIES).await?;
        let Some(last) = entries.last() else { break };
        after = last.mark.sequence;
        for LedgerEntry { entry, .. } in entries {
            // The certificate, where there is one, comes later in the ledger and is found by `carry_out`.
            if entry.kind == LedgerKind::Begun {
                done.seen += 1;
                done.erased_again += usize::from(replay_one(flows, &entry).await?);
            }
        }
    }
    check(flows).await?;
    Ok(done)
}

/// Whether there was something to erase.
async fn replay_one(flows: &Flows, entry: &NewLedgerEntry) -> Result<bool, FlowError> {
    let (tenant, id, subject) = (entry.tenant, entry.request, entry.subject);
    if !tenant_is_known(flows, tenant).await? {
        flows.keystore.destroy(tenant, subject, flows.now()).await?;
        return Ok(false);
    }
    let known = known(flows, tenant, id).await?;
    let there = !flows.keystore.is_destroyed(tenant, subject).await?
        || flows.store.subjects().find(tenant, subject).await.is_ok();
    let request = match known {
        Some(request) if request.state == ErasureState::InProgress => request,
        Some(request) if request.state == ErasureState::Completed && !there => return Ok(false),
        known => {
            let request = restored(flows, known, entry);
            flows.store.erasures().restore(&request, replay_event(flows, &request)).await?;
            request
        }
    };
    let event = replay_event(flows, &request);
    super::erasures::carry_out(flows, request, event.into()).await?;
    Ok(there)
}

/// The request as the ledger has it: in progress. What a restored database still knows of it stays.
fn restored(flows: &Flows, known: Option<ErasureRequest>, entry: &NewLedgerEntry) -> ErasureRequest {
    let asked = known.as_ref();
    let regulation = asked.map_or(flows.erasure_policy.regulation, |known| known.regulation);
    let received_at = asked.map_or(entry.at, |known| known.received_at);
    let due_at = regulation.due_at(received_at, flows.erasure_policy.dpdp_days);
    ErasureRequest {
        id: entry.request,
        tenant: entry.tenant,
        subject: Some(entry.subject),
        subject_digest: flows.pepper.subject_digest(entry.tenant, entry.subject),
        regulation,
        state: ErasureState::InProgress,
        reason: None,
        received_at,
        due_at: asked.map_or(due_at, |known| known.due_at),
        verified_at: asked.and_then(|known| known.verified_at).or(Some(entry.at)),
        begun_at: Some(entry.at),
        ended_at: None,
        removed: None,
        certificate: None,
    }
}

fn replay_event(flows: &Flows, request: &ErasureRequest) -> Event {
    let scribe = Scribe::new(flows, request.tenant, Actor::service());
    Event { subject: Some(request.subject_digest), ..scribe.event(Action::ErasureReplayed, request.id) }
}
