//! After a restore: who the ledger says was erased must not come back.
//!
//! The main database and the key store each remember up to which entry of the ledger they agree with it. One that was
//! restored from a backup remembers less, and lacks what was erased since: until `velum erasures replay` has erased it
//! again, the service is not ready. A ledger that was restored without its end is another matter ([`rebuild`]).

pub mod rebuild;

use std::collections::{HashMap, HashSet};

use time::Duration;

use super::{FlowError, Flows, erasures};
use crate::{
    audit::{Action, Actor, Event},
    domain::{
        erasure::ErasureState,
        id::{ErasureId, SubjectId, TenantId},
    },
    store::{ErasureRequest, LedgerEntry, LedgerKind, LedgerLoss, Mark, NewLedgerEntry, StoreError},
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
    /// The ledger is not what was written, from this entry on.
    LedgerBroken { sequence: i64 },
}

/// How long an erasure may be on its way to the key: longer than the queue tries, so a key that is still there then waits for
/// somebody to replay.
const UNDER_WAY_MAX: Duration = Duration::DAY;

/// Looks at what came since the last time, and remembers how far everything agrees.
pub async fn check(flows: &Flows) -> Result<LedgerState, FlowError> {
    match compare(flows).await {
        Err(StoreError::LedgerBroken { sequence }) => Ok(LedgerState::LedgerBroken { sequence }),
        compared => Ok(compared?),
    }
}

/// The same of a whole ledger, also of what was agreed on long ago: a chain that does not hold anywhere is named.
pub async fn check_whole(flows: &Flows) -> Result<LedgerState, FlowError> {
    match follow(flows).await {
        Err(StoreError::LedgerBroken { sequence }) => Ok(LedgerState::LedgerBroken { sequence }),
        Err(error) => Err(error.into()),
        Ok(()) => check(flows).await,
    }
}

/// What operators accepted as lost, oldest first.
pub async fn losses(flows: &Flows) -> Result<Vec<LedgerLoss>, FlowError> {
    Ok(flows.ledger.losses().await?)
}

/// `LedgerBroken` unless every entry of the ledger is the one that was written.
async fn follow(flows: &Flows) -> Result<(), StoreError> {
    let mut walk = flows.ledger.walk(Mark::start());
    while !walk.next().await?.is_empty() {}
    Ok(())
}

async fn compare(flows: &Flows) -> Result<LedgerState, StoreError> {
    let marks = Marks::read(flows).await?;
    if !marks.are_in_ledger(flows).await? {
        return Ok(LedgerState::LedgerBehind);
    }
    let (mut settled, mut unbroken) = (marks.earlier().clone(), true);
    let mut walk = flows.ledger.walk(settled.clone());
    loop {
        let entries = walk.next().await?;
        if entries.is_empty() {
            return Ok(LedgerState::Settled);
        }
        let page = Page::read(flows, &entries).await?;
        for entry in entries {
            match page.standing(flows, &entry, marks.later()).await? {
                Standing::Settled if unbroken => settled = entry.mark,
                Standing::Settled => {}
                // Looked at again until its key is destroyed.
                Standing::UnderWay => unbroken = false,
                Standing::Forgotten => return Ok(LedgerState::ReplayNeeded),
            }
        }
        // Page by page: who is not given the time for all of it goes on from here.
        marks.advance(flows, &settled).await?;
    }
}

/// How an erasure of the ledger stands in the databases.
enum Standing {
    /// Nothing of the person opens, and the main database knows that the erasure is done or has to be finished. One that
    /// is stuck is not looked at for ever: the queue says so, and a database restored from before it remembers less.
    Settled,
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
    async fn read(flows: &Flows, entries: &[LedgerEntry]) -> Result<Self, StoreError> {
        let requests: Vec<_> = entries.iter().map(|entry| entry.entry.request).collect();
        let subjects: Vec<_> = entries.iter().map(|entry| entry.entry.subject).collect();
        // In this order: a request that is completed by the first answer has its key destroyed by the second, and so has one
        // whose certificate stands in the ledger.
        let states = flows.store.erasures().states(&requests).await?;
        Ok(Self { states, destroyed: flows.keystore.destroyed(&subjects).await? })
    }

    /// `later`: the later one of both marks.
    async fn standing(&self, flows: &Flows, entry: &LedgerEntry, later: &Mark) -> Result<Standing, StoreError> {
        let LedgerEntry { mark, entry } = entry;
        let destroyed = self.destroyed.contains(&entry.subject);
        Ok(match self.states.get(&entry.request) {
            Some(ErasureState::Completed | ErasureState::InProgress) if destroyed => Standing::Settled,
            Some(ErasureState::InProgress) if mark.sequence > later.sequence && may_be_under_way(flows, entry) => {
                Standing::UnderWay
            }
            None if destroyed && !tenant_is_known(flows, entry.tenant).await? => Standing::Settled,
            _ => Standing::Forgotten,
        })
    }
}

/// Of an entry that was never settled. Whoever has a certificate is no erasure on its way: the key was destroyed, and is back.
fn may_be_under_way(flows: &Flows, entry: &NewLedgerEntry) -> bool {
    entry.kind == LedgerKind::Begun && flows.now() - entry.at < UNDER_WAY_MAX
}

/// A tenant that came after the backup was made is not in it, and nothing of it is.
async fn tenant_is_known(flows: &Flows, tenant: TenantId) -> Result<bool, StoreError> {
    match flows.store.tenants().find(tenant).await {
        Ok(_) => Ok(true),
        Err(StoreError::NotFound) => Ok(false),
        Err(error) => Err(error),
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
    async fn read(flows: &Flows) -> Result<Self, StoreError> {
        let (main, keystore) = tokio::join!(flows.store.ledger_mark(), flows.keystore.ledger_mark());
        Ok(Self { main: main?, keystore: keystore? })
    }

    fn earlier(&self) -> &Mark {
        if self.main.sequence < self.keystore.sequence { &self.main } else { &self.keystore }
    }

    fn later(&self) -> &Mark {
        if self.main.sequence < self.keystore.sequence { &self.keystore } else { &self.main }
    }

    async fn are_in_ledger(&self, flows: &Flows) -> Result<bool, StoreError> {
        let main_is = flows.ledger.has(self.main.clone()).await?;
        Ok(main_is && (self.main == self.keystore || flows.ledger.has(self.keystore.clone()).await?))
    }

    /// From where everything has to be looked at.
    async fn beginning(&self, flows: &Flows) -> Result<Mark, StoreError> {
        Ok(if flows.ledger.has(self.earlier().clone()).await? { self.earlier().clone() } else { Mark::start() })
    }

    async fn advance(&self, flows: &Flows, to: &Mark) -> Result<(), StoreError> {
        if to.sequence > self.main.sequence {
            flows.store.advance_ledger_mark(to.clone()).await?;
        }
        if to.sequence > self.keystore.sequence {
            flows.keystore.advance_ledger_mark(to.clone()).await?;
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

/// Erases again whom a restored database brought back. Safe to repeat, and to break off. Nobody is erased by a ledger that
/// is not what was written.
pub async fn replay(flows: &Flows) -> Result<Replayed, FlowError> {
    follow(flows).await?;
    let mut done = Replayed::default();
    let mut walk = flows.ledger.walk(Marks::read(flows).await?.beginning(flows).await?);
    loop {
        let entries = walk.next().await?;
        if entries.is_empty() {
            break;
        }
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
            let [replayed, erased] =
                [Action::ErasureReplayed, Action::SubjectErased].map(|it| event(flows, &request, it));
            let job = erasures::later_job(flows, &request);
            flows.store.erasures().restore(&request, job, replayed, erased).await?
        }
    };
    let event = event(flows, &request, Action::ErasureReplayed);
    erasures::carry_out(flows, request, event.into()).await?;
    Ok(there)
}

/// The request as the ledger has it: in progress. What a restored database still knows of it stays.
fn restored(flows: &Flows, known: Option<ErasureRequest>, entry: &NewLedgerEntry) -> ErasureRequest {
    let asked = known.as_ref();
    let received_at = asked.map_or(entry.at, |known| known.received_at);
    let (regulation, due_at) = flows.erasure_policy.deadline(asked.map(|known| known.regulation), received_at);
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
        removed: asked.and_then(|known| known.removed.clone()),
        certificate: None,
    }
}

fn event(flows: &Flows, request: &ErasureRequest, action: Action) -> Event {
    erasures::event(flows, request, Actor::service(), action)
}
