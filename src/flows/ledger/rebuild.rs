//! A ledger that was restored without its end, filled again from what the other databases know.
//!
//! Of an erasure that has ended the main database keeps the request, and of the person a keyed digest alone; the key store
//! keeps the person's id where the key was. Together they say what the ledger said. Whatever a database agreed on with the lost
//! ledger it knows: the key store every key that it destroyed, the main database every request. So an entry is out of reach
//! only where the other database was restored from before the person was enrolled; an operator who accepts that is recorded
//! in the audit log of every tenant and in the ledger.

use std::collections::{HashMap, HashSet};

use time::OffsetDateTime;

use super::{Marks, Replayed, check, replay};
use crate::{
    audit::{Action, Actor, Event},
    domain::id::{ErasureId, SubjectId, TenantId},
    flows::{FlowError, Flows},
    store::{ErasureRequest, KeyHolder, LedgerEntry, LedgerKind, LedgerLoss, Mark, NewLedgerEntry},
};

/// Rows that are looked at in one go.
const PAGE_ROWS: u32 = 500;
/// What an erasure writes.
const ENTRIES_OF_ONE: i64 = 2;

/// What the ledger lacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rebuilt {
    /// Erasures that were written into the ledger again.
    pub written: usize,
    pub replayed: Replayed,
    pub unknown: Unknown,
}

/// What no database knows enough of to be written again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unknown {
    /// Entries that a database remembers beyond those that can be written.
    pub entries: i64,
    /// Completed requests whose person never had a key in this key store.
    pub requests: i64,
}

impl Unknown {
    pub fn is_nothing(self) -> bool {
        self == Self::default()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// Nothing was changed.
    #[error(
        "{} entries are lost of which no database has a trace, and of {} completed requests the person is not known any more",
        .0.entries, .0.requests
    )]
    LossNotAccepted(Unknown),
    #[error(transparent)]
    Flow(#[from] FlowError),
}

/// Writes the missing entries, and replays the ledger. Safe to repeat, and to break off. Nobody is brought back: entries are
/// only added, and each of somebody who was erased, or whose erasure has begun.
pub async fn rebuild(flows: &Flows, accept_loss: bool) -> Result<Rebuilt, RebuildError> {
    let marks = Marks::read(flows).await.map_err(FlowError::from)?;
    let behind = !marks.are_in_ledger(flows).await.map_err(FlowError::from)?;
    let written = Written::read(flows).await?;
    let Missing { erasures, writable, requests } = missing(flows, &written).await?;
    let entries = (marks.later().sequence - written.last - writable).max(0);
    let unknown = Unknown { entries: if behind { entries } else { 0 }, requests };
    // Of a ledger that has all that the databases remember, what is unknown was accepted before, or never was in it.
    if behind && !unknown.is_nothing() {
        if !accept_loss {
            return Err(RebuildError::LossNotAccepted(unknown));
        }
        accept(flows, &marks, written.last, unknown).await?;
    }
    for erasure in &erasures {
        write(flows, erasure).await?;
    }
    let replayed = replay(flows).await?;
    if behind {
        forget(flows, marks).await?;
    }
    check(flows).await?;
    Ok(Rebuilt { written: erasures.len(), replayed, unknown })
}

/// What stands in the ledger.
#[derive(Default)]
struct Written {
    begun: HashMap<ErasureId, SubjectId>,
    certified: HashSet<ErasureId>,
    subjects: HashSet<SubjectId>,
    /// The number of the last entry.
    last: i64,
}

impl Written {
    async fn read(flows: &Flows) -> Result<Self, FlowError> {
        let (mut written, mut walk) = (Self::default(), flows.ledger.walk(Mark::start()));
        loop {
            let entries = walk.next().await?;
            if entries.is_empty() {
                return Ok(written);
            }
            entries.into_iter().for_each(|entry| written.add(entry));
        }
    }

    fn add(&mut self, LedgerEntry { mark, entry }: LedgerEntry) {
        if entry.kind == LedgerKind::Begun {
            self.begun.insert(entry.request, entry.subject);
        } else {
            self.certified.insert(entry.request);
        }
        self.subjects.insert(entry.subject);
        self.last = mark.sequence;
    }

    fn has(&self, request: &ErasureRequest) -> bool {
        let certified = request.certificate.is_none() || self.certified.contains(&request.id);
        certified && self.begun.contains_key(&request.id)
    }

    /// Certificates that are still to come, of what has begun here.
    fn uncertified(&self) -> i64 {
        self.begun.keys().filter(|request| !self.certified.contains(request)).count() as i64
    }
}

/// An erasure that the ledger lacks.
#[derive(Debug, Clone, Copy)]
enum Erasure {
    /// The request is in the main database.
    Known { tenant: TenantId, request: ErasureId, subject: SubjectId },
    /// The key is destroyed, and the person's rows are there: the main database is from before the erasure.
    KeyAlone { tenant: TenantId, subject: SubjectId, destroyed_at: OffsetDateTime },
}

#[derive(Default)]
struct Missing {
    erasures: Vec<Erasure>,
    /// Entries that are written with these, or by whoever finishes them.
    writable: i64,
    /// Requests of nobody who is known.
    requests: i64,
}

/// Changes nothing.
async fn missing(flows: &Flows, written: &Written) -> Result<Missing, FlowError> {
    let (mut missing, mut nameless) = missing_requests(flows, written).await?;
    let begun: HashSet<SubjectId> = missing.erasures.iter().map(Erasure::subject).collect();
    let mut after = None;
    loop {
        let holders = flows.keystore.holders(after, PAGE_ROWS).await?;
        let Some(last) = holders.last() else { break };
        after = Some(last.subject);
        let mut loose = Vec::new();
        for KeyHolder { tenant, subject, destroyed_at } in holders {
            let requests = nameless.remove(&flows.pepper.subject_digest(tenant, subject).0).unwrap_or_default();
            let is_known = !requests.is_empty() || written.subjects.contains(&subject) || begun.contains(&subject);
            let known = requests.into_iter().map(|request| Erasure::Known { tenant, request, subject });
            missing.erasures.extend(known);
            if let Some(destroyed_at) = destroyed_at.filter(|_| !is_known) {
                loose.push(Erasure::KeyAlone { tenant, subject, destroyed_at });
            }
        }
        missing.add_half_way(flows, loose).await?;
    }
    missing.requests = nameless.values().map(|requests| requests.len() as i64).sum();
    missing.writable -= ENTRIES_OF_ONE * missing.requests;
    Ok(missing)
}

impl Missing {
    /// Of the keys that are destroyed without a request, those of persons. The others were nobody's: of an officer, of a
    /// controller's addresses, of an enrolment that failed; or the person came after the last moment of the main database.
    async fn add_half_way(&mut self, flows: &Flows, loose: Vec<Erasure>) -> Result<(), FlowError> {
        let subjects: Vec<_> = loose.iter().map(Erasure::subject).collect();
        let there = flows.store.subjects().there(&subjects).await?;
        let before = self.erasures.len();
        self.erasures.extend(loose.into_iter().filter(|key| there.contains(&key.subject())));
        self.writable += ENTRIES_OF_ONE * (self.erasures.len() - before) as i64;
        Ok(())
    }
}

type Nameless = HashMap<[u8; 32], Vec<ErasureId>>;

/// Requests that the ledger lacks: those that name their person, and the others by the person's digest.
async fn missing_requests(flows: &Flows, written: &Written) -> Result<(Missing, Nameless), FlowError> {
    let (mut nameless, mut after) = (Nameless::new(), None);
    let mut missing = Missing { writable: written.uncertified(), ..Missing::default() };
    loop {
        let requests = flows.store.erasures().begun(after, PAGE_ROWS).await?;
        let Some(last) = requests.last() else { return Ok((missing, nameless)) };
        after = Some(last.id);
        for request in requests {
            let begun = written.begun.get(&request.id).copied();
            missing.writable += if begun.is_none() { ENTRIES_OF_ONE } else { 0 };
            match request.subject.or(begun) {
                _ if written.has(&request) => {}
                Some(subject) => {
                    missing.erasures.push(Erasure::Known { tenant: request.tenant, request: request.id, subject });
                }
                None => nameless.entry(request.subject_digest.0).or_default().push(request.id),
            }
        }
    }
}

impl Erasure {
    fn subject(&self) -> SubjectId {
        match self {
            Self::Known { subject, .. } | Self::KeyAlone { subject, .. } => *subject,
        }
    }
}

/// What is there already stays as it is.
async fn write(flows: &Flows, erasure: &Erasure) -> Result<(), FlowError> {
    match *erasure {
        Erasure::Known { tenant, request, subject } => {
            let request = flows.store.erasures().find(tenant, request).await?;
            let entry = |at: Option<OffsetDateTime>, kind| {
                let at = at.unwrap_or_else(|| flows.now());
                NewLedgerEntry { at, kind, request: request.id, tenant, subject }
            };
            flows.ledger.append(entry(request.begun_at, LedgerKind::Begun)).await?;
            if let Some(certificate) = request.certificate.clone() {
                flows.ledger.append(entry(request.ended_at, LedgerKind::Certified(certificate))).await?;
            }
        }
        Erasure::KeyAlone { tenant, subject, destroyed_at } => {
            // The replay finishes it, and certifies anew: the first certificate is lost with the entry.
            let open = flows.store.erasures().open_of(tenant, subject).await?;
            let request = open.map_or_else(ErasureId::generate, |open| open.id);
            let entry = NewLedgerEntry { at: destroyed_at, kind: LedgerKind::Begun, request, tenant, subject };
            flows.ledger.append(entry).await?;
        }
    }
    Ok(())
}

/// On record before anything follows from it.
async fn accept(flows: &Flows, marks: &Marks, ended_at: i64, unknown: Unknown) -> Result<(), FlowError> {
    let (at, remembered, Unknown { entries, requests }) = (flows.now(), marks.later().sequence, unknown);
    flows.ledger.accept_loss(LedgerLoss { at, ended_at, remembered, entries, requests }).await?;
    let lost = format!("{ended_at} of {remembered}");
    let event = Event::of(Actor::operator(), Action::LedgerLossAccepted, lost, at);
    Ok(flows.store.audit().append_to_all(event).await?)
}

/// Marks of the lost ledger lead nowhere: everything is looked at once more, from the beginning.
async fn forget(flows: &Flows, marks: Marks) -> Result<(), FlowError> {
    if !flows.ledger.has(marks.main.clone()).await? {
        flows.store.forget_ledger_mark(marks.main).await?;
    }
    if !flows.ledger.has(marks.keystore.clone()).await? {
        flows.keystore.forget_ledger_mark(marks.keystore).await?;
    }
    Ok(())
}
