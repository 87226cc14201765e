//! The one file that knows which database it is: PostgreSQL in production, SQLite as the embedded default.
//!
//! `AnyConnection` is diesel's multi-connection, so that each query in this room is written once. What differs between the
//! two (how a connection is opened, how a writing transaction begins, how migrations are kept apart) stays here.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Duration,
};

use deadpool::managed::{self, Metrics, PoolError, RecycleError, RecycleResult};
use deadpool_diesel::Runtime;
use diesel::{
    Connection, ConnectionError, OptionalExtension, PgConnection, QueryResult, QueryableByName, RunQueryDsl,
    SqliteConnection,
    connection::{AnsiTransactionManager, SimpleConnection, TransactionManager},
    sql_query,
    sql_types::{BigInt, Text},
};

use super::error::StoreError;
use crate::domain::id::TenantId;

/// How long a caller waits for a free connection, for opening one, or for a test of an idle one.
const POOL_WAIT: Duration = Duration::from_secs(5);
/// How long one piece of work may take before the caller is told that the database is away. Longer than the database's
/// own limits below, so that normally the database gives up first and the outcome is known.
const WORK_WAIT: Duration = Duration::from_secs(15);

/// Limits on the PostgreSQL side. `tcp_user_timeout` (milliseconds) ends waits on a host that vanished without a word.
const POSTGRES_SESSION: &str = "SET statement_timeout = '10s'; SET lock_timeout = '5s'; \
     SET idle_in_transaction_session_timeout = '30s'; SET client_min_messages = 'warning'; SET timezone = 'UTC'";
const POSTGRES_URL_OPTIONS: [(&str, &str); 5] = [
    ("connect_timeout", "4"),
    ("tcp_user_timeout", "10000"),
    ("keepalives_idle", "10"),
    ("keepalives_interval", "5"),
    ("application_name", "velum"),
];

/// `secure_delete` overwrites what is deleted. `synchronous = FULL` makes a commit survive a power cut: a key store or a
/// journal that forgets its last second would bring a destroyed key back, or let a decision be opened twice. The cache is
/// KiB for each connection: the files are small, and the system caches them once more.
const SQLITE_SESSION: &str = "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; PRAGMA foreign_keys = ON; \
     PRAGMA synchronous = FULL; PRAGMA secure_delete = ON; PRAGMA trusted_schema = OFF; PRAGMA cache_size = -512";

#[derive(diesel::MultiConnection)]
pub enum AnyConnection {
    Postgres(PgConnection),
    Sqlite(SqliteConnection),
}

/// Which database a connection or a migration is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    Postgres,
    Sqlite,
}

impl AnyConnection {
    pub fn dialect(&self) -> Dialect {
        match self {
            Self::Postgres(_) => Dialect::Postgres,
            Self::Sqlite(_) => Dialect::Sqlite,
        }
    }

    /// Runs `work` in one transaction that is going to write; it rolls back when `work` fails.
    ///
    /// SQLite takes its write lock at once (a reader that turns writer half-way would fail instead of waiting).
    /// PostgreSQL runs at READ COMMITTED; who must exclude others first updates one row that they all update (`subjects::lock`,
    /// the head of the keyholder's audit lines), and reads after that.
    pub fn write<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, StoreError>) -> Result<T, StoreError> {
        match self {
            Self::Postgres(connection) => AnsiTransactionManager::begin_transaction_sql(connection, "BEGIN")?,
            Self::Sqlite(connection) => AnsiTransactionManager::begin_transaction_sql(connection, "BEGIN IMMEDIATE")?,
        }
        match work(self) {
            Ok(value) => {
                <Self as Connection>::TransactionManager::commit_transaction(self)?;
                Ok(value)
            }
            Err(error) => {
                // A connection whose roll-back failed is thrown away when the pool next looks at it.
                let _ = <Self as Connection>::TransactionManager::rollback_transaction(self);
                Err(error)
            }
        }
    }

    /// Like [`write`](Self::write), without waiting for the disk. The end of a process forgets nothing of it; a power cut may,
    /// unless a `write` was committed after it: both stand in one log, the earlier one first.
    pub fn write_behind<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, StoreError>) -> Result<T, StoreError> {
        match self.dialect() {
            Dialect::Postgres => self.write(|connection| {
                connection.batch_execute("SET LOCAL synchronous_commit = off")?;
                work(connection)
            }),
            Dialect::Sqlite => {
                self.batch_execute("PRAGMA synchronous = NORMAL")?;
                let result = self.write(work);
                self.batch_execute("PRAGMA synchronous = FULL")?;
                result
            }
        }
    }

    /// The end of a query whose rows are about to be changed: those that another transaction has in its hands are passed over.
    /// SQLite has one writer at a time.
    pub(super) fn passing_over_locked(&self) -> &'static str {
        match self.dialect() {
            Dialect::Postgres => "FOR UPDATE SKIP LOCKED",
            Dialect::Sqlite => "",
        }
    }

    /// Runs migrations while no other process can: both colours of a deploy may start at once.
    /// On SQLite that makes them one transaction; on PostgreSQL each has its own, under an advisory lock.
    pub(super) fn migrate<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let Self::Postgres(connection) = self else { return self.write(work) };
        connection
            .batch_execute("SET statement_timeout = 0; SET lock_timeout = '60s'; SELECT pg_advisory_lock(831744)")?;
        let result = work(self);
        let unlock = format!("SELECT pg_advisory_unlock(831744); {POSTGRES_SESSION}");
        self.batch_execute(&unlock)?;
        result
    }

    /// Whether any migration ever ran here.
    pub(super) fn was_migrated(&mut self) -> QueryResult<bool> {
        #[derive(QueryableByName)]
        struct Tables {
            #[diesel(sql_type = BigInt)]
            tables: i64,
        }
        let tables: Tables = match self {
            Self::Postgres(connection) => {
                let query =
                    "SELECT count(*) AS tables FROM pg_class WHERE oid = to_regclass('__diesel_schema_migrations')";
                sql_query(query).get_result(connection)?
            }
            Self::Sqlite(connection) => {
                let query = "SELECT count(*) AS tables FROM sqlite_master WHERE name = '__diesel_schema_migrations'";
                sql_query(query).get_result(connection)?
            }
        };
        Ok(tables.tables > 0)
    }

    /// The versions of the migrations that ran here, in no order. Only where any did.
    pub(super) fn migrated_versions(&mut self) -> QueryResult<Vec<String>> {
        #[derive(QueryableByName)]
        struct Applied {
            #[diesel(sql_type = Text)]
            version: String,
        }
        let applied = sql_query("SELECT version FROM __diesel_schema_migrations").load(self)?;
        Ok(applied.into_iter().map(|row: Applied| row.version).collect())
    }

    /// The name of this connection's role, where row-level security does not bind it (a superuser, or BYPASSRLS).
    pub(super) fn role_beyond_row_security(&mut self) -> QueryResult<Option<String>> {
        #[derive(QueryableByName)]
        struct Role {
            #[diesel(sql_type = Text)]
            name: String,
        }
        let Self::Postgres(connection) = self else { return Ok(None) };
        let query =
            "SELECT rolname::text AS name FROM pg_roles WHERE rolname = current_user AND (rolsuper OR rolbypassrls)";
        let role: Option<Role> = sql_query(query).get_result(connection).optional()?;
        Ok(role.map(|role| role.name))
    }

    /// What stands behind a SELECT whose rows must stay as they are until commit, though others may read them so as well.
    /// SQLite's one writer excludes all others anyway.
    pub(super) fn shared_lock(&self) -> &'static str {
        match self.dialect() {
            Dialect::Postgres => "FOR SHARE",
            Dialect::Sqlite => "",
        }
    }

    /// Takes what was just deleted or overwritten out of the files as far as the database can.
    ///
    /// SQLite: `secure_delete` has zeroed the pages, so moving them from the write-ahead log into the file and emptying the
    /// log is all there is to do (a reader at work postpones it to the next call). PostgreSQL: nothing to call here; the old
    /// row version stays in its page until vacuum and in the WAL until it is recycled (migrations/README.md).
    pub(super) fn scrub(&mut self) -> QueryResult<()> {
        match self {
            Self::Postgres(_) => Ok(()),
            Self::Sqlite(connection) => connection.batch_execute("PRAGMA wal_checkpoint(TRUNCATE)"),
        }
    }

    fn open(address: &Address) -> Result<Self, ConnectionError> {
        let refused = ConnectionError::CouldntSetupConfiguration;
        match address {
            Address::Postgres(url) => {
                let mut connection = PgConnection::establish(url)?;
                connection.batch_execute(POSTGRES_SESSION).map_err(refused)?;
                Ok(Self::Postgres(connection))
            }
            Address::Sqlite(path) => {
                create_sqlite(path)?;
                let mut connection = SqliteConnection::establish(&path.to_string_lossy())?;
                connection.batch_execute(SQLITE_SESSION).map_err(refused)?;
                Ok(Self::Sqlite(connection))
            }
        }
    }
}

/// Makes the file of a new database, which its owner alone may read; SQLite gives its log the same mode.
///
/// It gets its name when it is whole: of programs that start at once, switching a file to a write-ahead log in place fails for
/// all but one. And a file that has its name is left alone: whoever opens and closes it here takes the locks away that this
/// process's connections hold on it (POSIX), and another program that ends may then delete the log under them.
fn create_sqlite(path: &Path) -> Result<(), ConnectionError> {
    if path.exists() {
        return Ok(());
    }
    let failed = |error: std::io::Error| ConnectionError::BadConnection(error.to_string());
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let made = tempfile::NamedTempFile::new_in(folder).map_err(failed)?.into_temp_path();
    let mut connection = SqliteConnection::establish(&made.to_string_lossy())?;
    connection.batch_execute(SQLITE_SESSION).map_err(ConnectionError::CouldntSetupConfiguration)?;
    drop(connection);
    match made.persist_noclobber(path) {
        Err(taken) if taken.error.kind() == ErrorKind::AlreadyExists => Ok(()), // somebody else was quicker
        made => made.map_err(|error| failed(error.error)),
    }
}

/// Where a database is. No Debug and no Display: a PostgreSQL URL may hold a password.
#[derive(Clone)]
enum Address {
    Postgres(String),
    Sqlite(PathBuf),
}

impl Address {
    fn parse(url: &str) -> Result<Self, StoreError> {
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            Ok(Self::Postgres(with_default_options(url)))
        } else {
            let path = url.strip_prefix("sqlite://").or_else(|| url.strip_prefix("sqlite:")).unwrap_or(url);
            if path.is_empty() || path.contains("://") {
                return Err(StoreError::BadUrl("a database is postgres://... or sqlite:PATH"));
            }
            if path == ":memory:" || path.starts_with("file:") {
                return Err(StoreError::BadUrl("an SQLite database is a file: sqlite:PATH"));
            }
            Ok(Self::Sqlite(PathBuf::from(path)))
        }
    }
}

/// Adds the time limits that the URL does not set itself.
fn with_default_options(url: &str) -> String {
    let mut url = url.to_owned();
    for (name, value) in POSTGRES_URL_OPTIONS {
        if !url.contains(&format!("{name}=")) {
            url.push(if url.contains('?') { '&' } else { '?' });
            url.push_str(&format!("{name}={value}"));
        }
    }
    url
}

/// Whose rows a piece of work may see and write. On PostgreSQL the database itself holds it to that (row-level security),
/// whatever its queries ask for; SQLite has the queries alone.
#[derive(Debug, Clone, Copy)]
pub enum Reach {
    Tenant(TenantId),
    /// All tenants: identifying a caller, commands of the operator, tables without tenants.
    Every,
}

impl From<TenantId> for Reach {
    fn from(tenant: TenantId) -> Self {
        Self::Tenant(tenant)
    }
}

impl Reach {
    /// Before every piece of work, so that nothing is left of the one before.
    fn declare(self, connection: &mut AnyConnection) -> QueryResult<()> {
        let AnyConnection::Postgres(connection) = connection else { return Ok(()) };
        // An id holds letters, digits and an underscore: nothing that a quote would have to be escaped for.
        connection.batch_execute(&match self {
            Self::Tenant(tenant) => format!("SET velum.tenant = '{tenant}'"),
            Self::Every => "SET velum.tenant = '*'".to_owned(),
        })
    }
}

/// Opens connections for the pool and tests idle ones before they are handed out again.
pub struct Opener(Address);

impl managed::Manager for Opener {
    type Type = deadpool_diesel::Connection<AnyConnection>;
    type Error = deadpool_diesel::Error;

    async fn create(&self) -> Result<Self::Type, Self::Error> {
        let address = self.0.clone();
        let open = move || AnyConnection::open(&address).map_err(deadpool_diesel::Error::Connection);
        deadpool_diesel::Connection::new(Runtime::Tokio1, open).await
    }

    async fn recycle(&self, connection: &mut Self::Type, _: &Metrics) -> RecycleResult<Self::Error> {
        if connection.is_mutex_poisoned() {
            return Err(RecycleError::message("a query panicked on this connection"));
        }
        if let Address::Sqlite(_) = self.0 {
            // Nothing is asked of anybody, so no thread is needed for it. A request that was cancelled may be at work still.
            let connection = connection.try_lock();
            let mut connection = connection.map_err(|_| RecycleError::message("this connection is still at work"))?;
            return test(&mut connection).map_err(RecycleError::Backend);
        }
        match connection.interact(test).await {
            Ok(result) => result.map_err(RecycleError::Backend),
            Err(_) => Err(RecycleError::message("the test of an idle connection panicked")),
        }
    }
}

/// A connection is used again only when no transaction is left open on it and its server still answers.
fn test(connection: &mut AnyConnection) -> Result<(), deadpool_diesel::Error> {
    if <AnyConnection as Connection>::TransactionManager::is_broken_transaction_manager(connection) {
        return Err(deadpool_diesel::Error::BrokenTransactionManger);
    }
    match connection.dialect() {
        Dialect::Postgres => sql_query("SELECT 1").execute(connection).map(drop).map_err(deadpool_diesel::Error::Ping),
        Dialect::Sqlite => Ok(()),
    }
}

/// A bounded pool. A database that is away is an error after seconds, never a hang; one that is back is used again.
#[derive(Clone)]
pub struct Pool(managed::Pool<Opener>);

impl Pool {
    /// Opens nothing yet.
    pub fn new(url: &str, size: usize) -> Result<Self, StoreError> {
        let pool = managed::Pool::builder(Opener(Address::parse(url)?))
            .max_size(size.max(1))
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(POOL_WAIT))
            .create_timeout(Some(POOL_WAIT))
            .recycle_timeout(Some(POOL_WAIT))
            .build()
            .map_err(|_| StoreError::BadUrl("the connection pool could not be built"))?;
        Ok(Self(pool))
    }

    pub fn waiting(&self) -> usize {
        self.0.status().waiting
    }

    /// Runs `work` on a connection, off the async threads.
    pub async fn run<T: Send + 'static>(
        &self,
        reach: impl Into<Reach>,
        work: impl FnOnce(&mut AnyConnection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.run_within(WORK_WAIT, reach, work).await
    }

    /// Runs `work`, and tells the caller that the database is away when it takes longer than `wait`.
    pub(super) async fn run_within<T: Send + 'static>(
        &self,
        wait: Duration,
        reach: impl Into<Reach>,
        work: impl FnOnce(&mut AnyConnection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let connection = self.0.get().await.map_err(unavailable)?;
        let reach = reach.into();
        let work = move |connection: &mut AnyConnection| {
            reach.declare(connection)?;
            work(connection)
        };
        match tokio::time::timeout(wait, connection.interact(work)).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(StoreError::Unavailable("a query panicked".into())),
            Err(_) => {
                // Still busy on its thread: it must not go back to the pool.
                drop(managed::Object::take(connection));
                Err(StoreError::Unavailable("the database did not answer in time".into()))
            }
        }
    }

    /// Like `run`, in one transaction (`AnyConnection::write`).
    pub async fn write<T: Send + 'static>(
        &self,
        reach: impl Into<Reach>,
        work: impl FnOnce(&mut AnyConnection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.run(reach, |connection| connection.write(work)).await
    }
}

fn unavailable(error: PoolError<deadpool_diesel::Error>) -> StoreError {
    match error {
        PoolError::Timeout(_) => StoreError::Unavailable("no database connection became free in time".into()),
        PoolError::Backend(error) => StoreError::Unavailable(error.into()),
        other => StoreError::Unavailable(other.to_string().into()),
    }
}
