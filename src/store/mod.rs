//! Rows at rest. Four databases, each with its own address, migrations and backups:
//!
//! | database | type | holds |
//! |---|---|---|
//! | main | `Store` | everything else, from tenants to jobs (below) |
//! | keystore | `KeyStore` | wrapped data keys and the key that hashes addresses; never inside a backup of the main database |
//! | journal | `KeyholderJournal` | the keyholder's used verification ids, budgets and audit lines |
//! | ledger | `ErasureLedger` | who must stay erased; never inside a backup of the others |
//!
//! The main database holds tenants, clients, API keys, ended tokens, officers and their sessions; subjects, notices,
//! consents, enrolments, verifications; erasure and access requests, OpenDSR; the audit log, usage, answers kept for an
//! `Idempotency-Key`, and jobs.
//!
//! What holds everywhere:
//! - The tenant comes first, and every query filters by it. Another tenant's row is `NotFound`, as if it did not exist.
//!   Without a tenant are only queries that find whose a credential is, and work on all tenants (`Reach::Every`).
//! - Whatever says something about a person is sealed here, where table, row and column are known: callers hand over plain
//!   values and that person's `DataKey`; a row never holds them unsealed.
//! - `find` by id answers `NotFound`; a look-up by anything else answers an `Option`.
//! - A database that is away is `Unavailable` within seconds.

mod access_requests;
mod address_keys;
mod api_keys;
mod attempts;
mod audit;
mod chain;
mod clients;
mod columns;
mod conn;
mod consents;
mod erasures;
mod error;
pub mod exchange;
mod history;
mod idempotency;
mod jobs;
pub mod journal;
pub mod keystore;
mod ledger;
mod migrations;
mod notices;
mod officers;
mod opendsr;
mod page;
mod retention;
mod rewrap;
pub mod schema;
mod statistics;
mod subjects;
mod templates;
mod tenants;
mod tokens;
mod usage;
mod verifications;

use std::sync::Arc;

use diesel::{RunQueryDsl, sql_query};

pub use self::{
    access_requests::{AccessFilter, AccessRequest, AccessRequests, NewPackage, PackageNote, SealedPackage},
    api_keys::{ApiKeyRow, ApiKeys},
    attempts::Attempts,
    audit::{Act, Audit, AuditFilter},
    clients::{Client, Clients, NewClient},
    consents::{Consents, NewWithdrawal, STANDING_CONSENTS_MAX},
    erasures::{Deadline, ErasureFilter, ErasureRequest, Erasures, NewErasureRequest, Removed, Step},
    error::{Conflict, StoreError},
    exchange::{ExchangeState, Exchanged},
    history::{Held, History, HistoryCursor, HistoryEntry, HistoryKind, TenantCounts},
    idempotency::{Claim, Claimed, Done, Idempotency, KeptAnswer, Receipt, RecordId},
    jobs::{Backlog, JobRow, Jobs, Lease, LeasedJob, NewJob},
    journal::KeyholderJournal,
    keystore::{DestroyedKey, KeyHolder, KeyStore},
    ledger::{ErasureLedger, LedgerEntry, LedgerKind, LedgerLoss, Mark, NewLedgerEntry},
    notices::Notices,
    officers::{Credentials, NameIndex, NewOfficer, NewSession, Officer, Officers, Session},
    opendsr::{Callback, KeptAddresses, OpenDsr, OpenDsrRequest, Receivers},
    page::{PAGE_ROWS_MAX, Page},
    retention::Retention,
    rewrap::Rewrapped,
    statistics::{AccessTimes, ConsentCount, ErasureTimes, KeyStatistics, Statistics, TemplateCount},
    subjects::{DeletedRows, NewSubject, Subject, Subjects},
    templates::{
        NewTemplate, SealedTemplate, StoredTemplate, TEMPLATES_PER_SUBJECT_MAX, TemplateKind, TemplateRow, Templates,
    },
    tenants::{Tenant, Tenants},
    tokens::{TokenRef, Tokens},
    usage::{Usage, UsageDay},
    verifications::{NewVerification, Verification, Verifications},
};
use self::{
    conn::{Pool, Reach},
    migrations::Migrations,
};
use crate::vault::BlindIndexKey;

/// The main database. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    database: Database,
    blind_index: Arc<BlindIndexKey>,
}

impl Store {
    /// `url` is `postgres://...` or `sqlite:PATH`. The database must answer, and must not be newer than this program.
    pub async fn connect(url: &str, pool_size: usize, blind_index: BlindIndexKey) -> Result<Self, StoreError> {
        let database = Database::connect(url, pool_size, &migrations::MAIN).await?;
        Ok(Self { database, blind_index: Arc::new(blind_index) })
    }

    /// The database under the store: migrations, schema check, readiness.
    pub fn database(&self) -> &Database {
        &self.database
    }

    pub async fn migrate(&self) -> Result<Vec<String>, StoreError> {
        self.database.migrate().await
    }

    pub fn tenants(&self) -> Tenants<'_> {
        Tenants { pool: self.pool() }
    }

    pub fn clients(&self) -> Clients<'_> {
        Clients { pool: self.pool() }
    }

    pub fn api_keys(&self) -> ApiKeys<'_> {
        ApiKeys { pool: self.pool() }
    }

    pub fn tokens(&self) -> Tokens<'_> {
        Tokens { pool: self.pool() }
    }

    pub fn history(&self) -> History<'_> {
        History { pool: self.pool() }
    }

    pub fn usage(&self) -> Usage<'_> {
        Usage { pool: self.pool() }
    }

    pub fn attempts(&self) -> Attempts<'_> {
        Attempts { pool: self.pool() }
    }

    pub fn audit(&self) -> Audit<'_> {
        Audit { pool: self.pool() }
    }

    pub fn access_requests(&self) -> AccessRequests<'_> {
        AccessRequests { pool: self.pool() }
    }

    pub fn erasures(&self) -> Erasures<'_> {
        Erasures { pool: self.pool() }
    }

    pub fn opendsr(&self) -> OpenDsr<'_> {
        OpenDsr { pool: self.pool() }
    }

    /// Up to where this database agrees with the ledger of erasures.
    pub async fn ledger_mark(&self) -> Result<Mark, StoreError> {
        ledger::mark_of_main::read(self.pool()).await
    }

    pub async fn advance_ledger_mark(&self, to: Mark) -> Result<(), StoreError> {
        ledger::mark_of_main::advance(self.pool(), to).await
    }

    /// Nothing is agreed on any more: `place` is not in the ledger that there is now.
    pub async fn forget_ledger_mark(&self, place: Mark) -> Result<(), StoreError> {
        ledger::mark_of_main::forget(self.pool(), place).await
    }

    pub fn idempotency(&self) -> Idempotency<'_> {
        Idempotency { pool: self.pool() }
    }

    pub fn jobs(&self) -> Jobs<'_> {
        Jobs { pool: self.pool() }
    }

    pub fn retention(&self) -> Retention<'_> {
        Retention { pool: self.pool() }
    }

    pub fn statistics(&self) -> Statistics<'_> {
        Statistics { pool: self.pool() }
    }

    pub fn subjects(&self) -> Subjects<'_> {
        Subjects { pool: self.pool(), blind_index: &self.blind_index }
    }

    pub fn consents(&self) -> Consents<'_> {
        Consents { pool: self.pool() }
    }

    pub fn notices(&self) -> Notices<'_> {
        Notices { pool: self.pool() }
    }

    pub fn officers(&self) -> Officers<'_> {
        Officers { pool: self.pool(), blind_index: &self.blind_index }
    }

    pub fn templates(&self) -> Templates<'_> {
        Templates { pool: self.pool() }
    }

    pub fn verifications(&self) -> Verifications<'_> {
        Verifications { pool: self.pool() }
    }

    fn pool(&self) -> &Pool {
        &self.database.pool
    }
}

/// Which of the four.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatabaseKind {
    Main,
    Keystore,
    Journal,
    Ledger,
}

impl DatabaseKind {
    pub fn as_str(self) -> &'static str {
        self.migrations().database
    }

    fn migrations(self) -> &'static Migrations {
        match self {
            Self::Main => &migrations::MAIN,
            Self::Keystore => &migrations::KEYSTORE,
            Self::Journal => &migrations::JOURNAL,
            Self::Ledger => &migrations::LEDGER,
        }
    }
}

/// One database with its migrations: what the four of them have in common.
#[derive(Clone)]
pub struct Database {
    pool: Pool,
    migrations: &'static Migrations,
}

impl Database {
    async fn connect(url: &str, pool_size: usize, migrations: &'static Migrations) -> Result<Self, StoreError> {
        let database = Self { pool: Pool::new(url, pool_size)?, migrations };
        migrations.check_known(&database.pool).await?;
        Ok(database)
    }

    /// A database without the keys of its rows: what migrating it takes.
    pub async fn open(kind: DatabaseKind, url: &str) -> Result<Self, StoreError> {
        Self::connect(url, 1, kind.migrations()).await
    }

    /// Every migration this program knows, oldest first, and whether the database has it.
    pub async fn migrations(&self) -> Result<Vec<(String, bool)>, StoreError> {
        self.migrations.status(&self.pool).await
    }

    /// What [`migrate`](Self::migrate) would apply, oldest first, and whether the running program can go on beside it: one that
    /// knows the versions `running`, or else what the database has.
    pub async fn pending(&self, running: Option<Vec<String>>) -> Result<Vec<(String, bool)>, StoreError> {
        self.migrations.pending(&self.pool, running).await
    }

    /// Applies the migrations that are missing; the versions it applied, oldest first.
    pub async fn migrate(&self) -> Result<Vec<String>, StoreError> {
        self.migrations.up(&self.pool).await
    }

    /// Takes the newest migration back, with the data that it held.
    pub async fn migrate_down(&self) -> Result<Option<String>, StoreError> {
        self.migrations.down(&self.pool).await
    }

    /// Refuses a role of PostgreSQL that row-level security does not bind.
    pub async fn check_row_security(&self) -> Result<(), StoreError> {
        match self.pool.run(Reach::Every, |connection| Ok(connection.role_beyond_row_security()?)).await? {
            Some(role) => Err(StoreError::RowSecurityBypassed { role }),
            None => Ok(()),
        }
    }

    /// Refuses to go on with a schema that is older than this program's, or so much newer that it cannot live with it.
    pub async fn check_schema(&self) -> Result<(), StoreError> {
        self.migrations.check(&self.pool).await
    }

    pub fn name(&self) -> &'static str {
        self.migrations.database
    }

    /// Pieces of work that wait for a connection at this moment.
    pub fn waiting(&self) -> usize {
        self.pool.waiting()
    }

    /// Answers as long as the database does.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.pool.run(Reach::Every, |connection| Ok(sql_query("SELECT 1").execute(connection).map(drop)?)).await
    }
}
