//! The ledger of erasures: a database of its own, backed up apart from the others, so that whatever is restored, it is known
//! who must stay erased. Append-only and chained by hashes, as the keyholder's audit lines are; whoever reads it follows the
//! chain ([`Walk`]), so that nobody acts on an entry that was not written here.
//!
//! An erasure writes two entries: `begun` before anything is destroyed, and `certified` with the certificate at its end.
//! The main database and the key store each remember up to which entry they agree with it ([`Mark`]); one that was restored
//! remembers less than it should.

use diesel::prelude::*;
use time::OffsetDateTime;

use super::{
    Database,
    chain::chained_hash,
    columns::{instant, micros, parse},
    conn::{AnyConnection, Reach},
    error::{Conflict, StoreError},
    migrations,
    schema::ledger::{ledger_entries, ledger_head, ledger_losses},
};
use crate::domain::id::{ErasureId, SubjectId, TenantId};

/// Cheap to clone.
#[derive(Clone)]
pub struct ErasureLedger {
    database: Database,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LedgerKind {
    Begun,
    /// With the certificate, a JWS.
    Certified(String),
}

impl LedgerKind {
    fn as_str(&self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::Certified(_) => "certified",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewLedgerEntry {
    pub at: OffsetDateTime,
    pub kind: LedgerKind,
    pub request: ErasureId,
    pub tenant: TenantId,
    pub subject: SubjectId,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerEntry {
    pub mark: Mark,
    pub entry: NewLedgerEntry,
}

/// A place in the ledger: an entry's number, and the hash over it and all before it.
#[derive(Debug, Clone, PartialEq, Eq, Queryable)]
pub struct Mark {
    pub sequence: i64,
    pub hash: Vec<u8>,
}

impl Mark {
    /// Before the first entry.
    pub fn start() -> Self {
        Self { sequence: 0, hash: vec![0; 32] }
    }
}

#[derive(Queryable, Insertable)]
#[diesel(table_name = ledger_entries)]
struct Row {
    sequence: i64,
    at: i64,
    kind: String,
    request_id: String,
    tenant_id: String,
    subject_id: String,
    certificate: String,
    hash: Vec<u8>,
}

/// What an operator accepted as lost: entries that no database knows enough of to write them again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerLoss {
    pub at: OffsetDateTime,
    /// The last entry that this ledger had, and the last one that a database remembered.
    pub ended_at: i64,
    pub remembered: i64,
    /// How many of those between could not be written again.
    pub entries: i64,
    /// Completed requests whose person is not known any more.
    pub requests: i64,
}

#[derive(Queryable, Insertable)]
#[diesel(table_name = ledger_losses)]
struct LossRow {
    at: i64,
    ended_at: i64,
    remembered: i64,
    entries: i64,
    requests: i64,
}

const HEAD_ROW: i64 = 1;
/// Entries that are read in one go.
const PAGE_ENTRIES: i64 = 500;

impl ErasureLedger {
    /// `url` is `postgres://...` or `sqlite:PATH`, and no other database's.
    pub async fn connect(url: &str, pool_size: usize) -> Result<Self, StoreError> {
        Ok(Self { database: Database::connect(url, pool_size, &migrations::LEDGER).await? })
    }

    pub fn database(&self) -> &Database {
        &self.database
    }

    /// Writes an entry, unless the request has one of its kind; the entry that stands in the end.
    pub async fn append(&self, entry: NewLedgerEntry) -> Result<LedgerEntry, StoreError> {
        let (request, kind) = (entry.request, entry.kind.as_str());
        let appended = self.database.pool.write(Reach::Every, move |connection| append(connection, &entry)).await;
        match appended.map_err(|error| error.or_conflict(Conflict::Id)) {
            Err(StoreError::Conflict(_)) => self.of_request(request, kind).await,
            other => other,
        }
    }

    async fn of_request(&self, request: ErasureId, kind: &'static str) -> Result<LedgerEntry, StoreError> {
        let query = ledger_entries::table
            .filter(ledger_entries::request_id.eq(request.to_string()))
            .filter(ledger_entries::kind.eq(kind));
        let row: Row = self.database.pool.run(Reach::Every, move |connection| Ok(query.first(connection)?)).await?;
        row.try_into()
    }

    /// The way from a place to the end.
    pub fn walk(&self, from: Mark) -> Walk<'_> {
        Walk { ledger: self, at: from }
    }

    /// Its end, as the last writer left it.
    pub async fn head(&self) -> Result<Mark, StoreError> {
        self.database.pool.run(Reach::Every, head).await
    }

    /// Whether the ledger has this very place in it: a database that remembers another one is not of this ledger, or the
    /// ledger lost its end.
    pub async fn has(&self, mark: Mark) -> Result<bool, StoreError> {
        if mark == Mark::start() {
            return Ok(true);
        }
        let query = ledger_entries::table.find(mark.sequence).filter(ledger_entries::hash.eq(mark.hash)).count();
        let found: i64 =
            self.database.pool.run(Reach::Every, move |connection| Ok(query.get_result(connection)?)).await?;
        Ok(found > 0)
    }

    pub async fn accept_loss(&self, loss: LedgerLoss) -> Result<(), StoreError> {
        let LedgerLoss { at, ended_at, remembered, entries, requests } = loss;
        let row = LossRow { at: micros(at), ended_at, remembered, entries, requests };
        let insert = move |connection: &mut AnyConnection| {
            Ok(diesel::insert_into(ledger_losses::table).values(&row).execute(connection).map(drop)?)
        };
        self.database.pool.write(Reach::Every, insert).await
    }

    /// Oldest first.
    pub async fn losses(&self) -> Result<Vec<LedgerLoss>, StoreError> {
        let query = ledger_losses::table.order(ledger_losses::at);
        let rows: Vec<LossRow> =
            self.database.pool.run(Reach::Every, move |connection| Ok(query.load(connection)?)).await?;
        let read = |LossRow { at, ended_at, remembered, entries, requests }| {
            let at = instant("ledger_losses.at", at)?;
            Ok(LedgerLoss { at, ended_at, remembered, entries, requests })
        };
        rows.into_iter().map(read).collect()
    }
}

/// Follows the chain, page by page. `LedgerBroken` names the first entry that was changed, removed, inserted or moved.
pub struct Walk<'a> {
    ledger: &'a ErasureLedger,
    /// The last entry that fitted.
    at: Mark,
}

impl Walk<'_> {
    /// The entries that come next, oldest first; none at the end.
    pub async fn next(&mut self) -> Result<Vec<LedgerEntry>, StoreError> {
        let after = self.at.sequence;
        let read = move |connection: &mut AnyConnection| {
            // The end first: what is appended in between comes with the next page.
            let end = head(connection)?;
            let rows = ledger_entries::table.filter(ledger_entries::sequence.gt(after));
            let rows: Vec<Row> = rows.order(ledger_entries::sequence).limit(PAGE_ENTRIES).load(connection)?;
            Ok((end, rows))
        };
        let (end, rows) = self.ledger.database.pool.run(Reach::Every, read).await?;
        if rows.is_empty() && end != self.at {
            // What was cut off at the end breaks no hash.
            return Err(StoreError::LedgerBroken { sequence: after + 1 });
        }
        let mut entries = Vec::with_capacity(rows.len());
        for row in rows {
            self.at = row.place_after(&self.at)?;
            entries.push(row.try_into()?);
        }
        Ok(entries)
    }
}

fn head(connection: &mut AnyConnection) -> Result<Mark, StoreError> {
    let head = ledger_head::table.find(HEAD_ROW).select((ledger_head::sequence, ledger_head::hash));
    Ok(head.first(connection)?)
}

fn append(connection: &mut AnyConnection, new: &NewLedgerEntry) -> Result<LedgerEntry, StoreError> {
    // The update changes nothing; it takes the row's lock.
    let own = ledger_head::table.find(HEAD_ROW);
    diesel::update(own).set(ledger_head::id.eq(HEAD_ROW)).execute(connection)?;
    let before = head(connection)?;
    let certificate = match &new.kind {
        LedgerKind::Begun => String::new(),
        LedgerKind::Certified(certificate) => certificate.clone(),
    };
    let mut row = Row {
        sequence: before.sequence + 1,
        at: micros(new.at),
        kind: new.kind.as_str().to_owned(),
        request_id: new.request.to_string(),
        tenant_id: new.tenant.to_string(),
        subject_id: new.subject.to_string(),
        certificate,
        hash: Vec::new(),
    };
    row.hash = row.chained_hash(&before.hash);
    diesel::insert_into(ledger_entries::table).values(&row).execute(connection)?;
    let new_head = (ledger_head::sequence.eq(row.sequence), ledger_head::hash.eq(&row.hash));
    diesel::update(own).set(new_head).execute(connection)?;
    row.try_into()
}

impl Row {
    fn chained_hash(&self, previous: &[u8]) -> Vec<u8> {
        let (sequence, at) = (self.sequence.to_string(), self.at.to_string());
        let parts =
            [&sequence, &at, &self.kind, &self.request_id, &self.tenant_id, &self.subject_id, &self.certificate];
        chained_hash(previous, parts.map(String::as_bytes))
    }

    /// Where this entry is, if it is the one that was written after `before`.
    fn place_after(&self, before: &Mark) -> Result<Mark, StoreError> {
        let place = Mark { sequence: before.sequence + 1, hash: self.chained_hash(&before.hash) };
        let is_here = self.sequence == place.sequence && self.hash == place.hash;
        if is_here { Ok(place) } else { Err(StoreError::LedgerBroken { sequence: place.sequence }) }
    }
}

impl TryFrom<Row> for LedgerEntry {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let entry = NewLedgerEntry {
            at: instant("ledger_entries.at", row.at)?,
            kind: match row.kind.as_str() {
                "begun" => LedgerKind::Begun,
                "certified" => LedgerKind::Certified(row.certificate),
                _ => return Err(StoreError::Corrupt { column: "ledger_entries.kind" }),
            },
            request: parse("ledger_entries.request_id", &row.request_id)?,
            tenant: parse("ledger_entries.tenant_id", &row.tenant_id)?,
            subject: parse("ledger_entries.subject_id", &row.subject_id)?,
        };
        Ok(Self { mark: Mark { sequence: row.sequence, hash: row.hash }, entry })
    }
}

/// Reads and writes the one row of a `ledger_mark`: the table is the same in both databases that have one.
macro_rules! marks {
    ($table:ident) => {
        use crate::store::schema::$table::ledger_mark;

        pub async fn read(pool: &Pool) -> Result<Mark, StoreError> {
            let query = ledger_mark::table.select((ledger_mark::sequence, ledger_mark::hash));
            pool.run(Reach::Every, move |connection| Ok(query.first(connection)?)).await
        }

        /// Never back: another process may have looked later.
        pub async fn advance(pool: &Pool, to: Mark) -> Result<(), StoreError> {
            let earlier = ledger_mark::table.filter(ledger_mark::sequence.lt(to.sequence));
            let update =
                diesel::update(earlier).set((ledger_mark::sequence.eq(to.sequence), ledger_mark::hash.eq(to.hash)));
            pool.run(Reach::Every, move |connection| Ok(update.execute(connection).map(drop)?)).await
        }

        /// Back to the beginning, from a place that the ledger does not have any more.
        pub async fn forget(pool: &Pool, place: Mark) -> Result<(), StoreError> {
            let same = ledger_mark::table
                .filter(ledger_mark::sequence.eq(place.sequence))
                .filter(ledger_mark::hash.eq(place.hash));
            let start = Mark::start();
            let update =
                diesel::update(same).set((ledger_mark::sequence.eq(start.sequence), ledger_mark::hash.eq(start.hash)));
            pool.run(Reach::Every, move |connection| Ok(update.execute(connection).map(drop)?)).await
        }
    };
}

/// How far the main database agrees with the ledger.
pub(super) mod mark_of_main {
    use diesel::prelude::*;

    use super::{Mark, Reach, StoreError};
    use crate::store::conn::Pool;

    marks!(main);
}

/// How far the key store does.
pub(super) mod mark_of_keystore {
    use diesel::prelude::*;

    use super::{Mark, Reach, StoreError};
    use crate::store::conn::Pool;

    marks!(keystore);
}
