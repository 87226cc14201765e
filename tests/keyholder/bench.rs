//! A keyholder to test, and people to ask it about.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::Arc,
};

use actix_web::dev::ServerHandle;
use diesel::{Connection, PgConnection, SqliteConnection, connection::SimpleConnection};
use tempfile::TempDir;
use time::{OffsetDateTime, macros::datetime};
use velum::{
    domain::{
        clock::ManualClock,
        decision::Decision,
        id::{SubjectId, TenantId, VerificationId},
    },
    fhe::{
        decide::EncryptedDecision,
        keys::{KeyId, SecretKeys},
    },
    keyholder::{
        BudgetScope, Budgets, Keyholder, KeyholderError, LocalKeyholder, OpenRequest, RemoteKeyholder,
        server::{self, ServerConfig},
    },
    store::journal::{AuditLine, Chain, KeyholderJournal},
    tls::{
        self, Fingerprint,
        development::{self, DevelopmentTls},
    },
};

pub const NOW: OffsetDateTime = datetime!(2026-11-20 22:00 UTC);
pub const UNTIL_MIDNIGHT_S: u64 = 2 * 3_600;

pub fn stored(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/fhe/v1").join(name)).unwrap()
}

pub fn stored_secret() -> SecretKeys {
    SecretKeys::from_bytes(&stored("secret.key")).unwrap()
}

pub fn decision(decision: Decision) -> EncryptedDecision {
    let name = if decision.is_match() { "decision_match.bin" } else { "decision_no_match.bin" };
    EncryptedDecision::from_bytes(&stored(name), stored_secret().key_id()).unwrap()
}

#[derive(Clone, Copy, Debug)]
pub enum Place {
    InProcess,
    BehindMutualTls,
}

/// Where a journal lies; a PostgreSQL database is dropped with it.
pub enum JournalDatabase {
    Sqlite { url: String },
    Postgres { admin_url: String, name: String },
}

impl JournalDatabase {
    pub fn sqlite(directory: &TempDir) -> Self {
        Self::Sqlite { url: format!("sqlite:{}", directory.path().join("keyholder.db").display()) }
    }

    pub fn postgres() -> Option<Self> {
        let admin_url = std::env::var("VELUM_TEST_POSTGRES_URL").ok()?;
        let name = format!("velum_keyholder_{}", uuid::Uuid::now_v7().simple());
        let mut admin = PgConnection::establish(&admin_url).unwrap();
        admin.batch_execute(&format!("CREATE DATABASE {name}")).unwrap();
        Some(Self::Postgres { admin_url, name })
    }

    pub fn url(&self) -> String {
        match self {
            Self::Sqlite { url } => url.clone(),
            Self::Postgres { admin_url, name } => {
                let (server, options) = admin_url.split_once('?').unwrap_or((admin_url, ""));
                let (server, _) = server.rsplit_once('/').unwrap();
                format!("{server}/{name}?{options}").trim_end_matches('?').to_owned()
            }
        }
    }
}

impl Drop for JournalDatabase {
    fn drop(&mut self) {
        if let Self::Postgres { admin_url, name } = self
            && let Ok(mut admin) = PgConnection::establish(admin_url)
        {
            let _left_for_the_server_to_clean = admin.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)"));
        }
    }
}

/// A keyholder with a journal in a directory of its own, and a way to ask it.
pub struct Bench {
    pub place: Place,
    budgets: Budgets,
    database: JournalDatabase,
    _directory: TempDir,
    pub tls: DevelopmentTls,
    pub clock: Arc<ManualClock>,
    running: Option<Running>,
}

pub struct Running {
    address: SocketAddr,
    handle: ServerHandle,
    task: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Bench {
    pub async fn new(place: Place, budgets: Budgets) -> (Self, Keyholder) {
        let directory = tempfile::tempdir().unwrap();
        let database = JournalDatabase::sqlite(&directory);
        Self::on(database, directory, place, budgets).await
    }

    pub async fn on(
        database: JournalDatabase,
        directory: TempDir,
        place: Place,
        budgets: Budgets,
    ) -> (Self, Keyholder) {
        let tls = development::ensure(&directory.path().join("tls"), &[], OffsetDateTime::now_utc()).unwrap();
        let mut bench = Self {
            place,
            budgets,
            database,
            _directory: directory,
            tls,
            clock: Arc::new(ManualClock::at(NOW)),
            running: None,
        };
        bench.journal().await.migrate().await.unwrap();
        let keyholder = bench.start().await;
        (bench, keyholder)
    }

    pub async fn journal(&self) -> KeyholderJournal {
        KeyholderJournal::connect(&self.database.url(), 4).await.unwrap()
    }

    /// Holds the SQLite journal until dropped: openings wait.
    pub fn hold_journal(&self) -> SqliteConnection {
        let mut connection = SqliteConnection::establish(self.database.url().trim_start_matches("sqlite:")).unwrap();
        connection.batch_execute("PRAGMA busy_timeout = 5000; BEGIN EXCLUSIVE").unwrap();
        connection
    }

    pub async fn local(&self, secret: SecretKeys) -> Arc<LocalKeyholder> {
        let started = LocalKeyholder::start(secret, self.journal().await, self.budgets, self.clock.clone()).await;
        Arc::new(started.unwrap())
    }

    /// One that changes keys: its own is new, and it holds the one before as well.
    pub async fn local_after(&self, retiring: Option<SecretKeys>, secret: SecretKeys) -> Arc<LocalKeyholder> {
        let started = LocalKeyholder::start(secret, self.journal().await, self.budgets, self.clock.clone()).await;
        Arc::new(started.unwrap().also_holding(retiring))
    }

    /// Starts it, or starts it anew on the same journal (and, for a server, at the same address).
    pub async fn start(&mut self) -> Keyholder {
        let local = self.local(stored_secret()).await;
        match self.place {
            Place::InProcess => Keyholder::Local(local),
            Place::BehindMutualTls => {
                self.serve(local, Vec::new()).await;
                self.ask_as(&self.tls, stored_secret().key_id())
            }
        }
    }

    pub async fn serve(&mut self, local: Arc<LocalKeyholder>, admitted_edges: Vec<Fingerprint>) {
        let address = self.running.as_ref().map_or("127.0.0.1:0".parse().unwrap(), |running| running.address);
        let listener = TcpListener::bind(address).unwrap();
        let config = ServerConfig {
            listen: address,
            identity: self.tls.keyholder.clone(),
            edge_authority: self.tls.authority.clone(),
            admitted_edges,
            workers: 2,
        };
        let address = listener.local_addr().unwrap();
        let server = server::start(listener, &config, local).unwrap();
        self.running = Some(Running { address, handle: server.handle(), task: tokio::spawn(server) });
    }

    pub async fn stop(&mut self) {
        if let Some(running) = &mut self.running {
            running.handle.stop(true).await;
            (&mut running.task).await.unwrap().unwrap();
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.running.as_ref().unwrap().address
    }

    /// A client with the edge certificate of `tls`, that trusts its authority.
    pub fn ask_as(&self, tls: &DevelopmentTls, key: KeyId) -> Keyholder {
        let client = tls::keyholder_client(&tls.edge, &tls.authority).unwrap();
        Keyholder::Remote(RemoteKeyholder::new(&format!("https://{}", self.address()), client, key).unwrap())
    }

    /// What the keyholder wrote down since it started; each start is a line of its own, the first of all is one.
    pub async fn audit_lines(&self) -> Vec<AuditLine> {
        let journal = self.journal().await;
        assert!(matches!(journal.verify_chain().await.unwrap(), Chain::Whole { .. }));
        let mut lines = journal.audit_lines(0, 1_000).await.unwrap();
        assert_eq!(lines[0].event, "keyholder_started");
        lines.retain(|line| line.event != "keyholder_started");
        lines
    }
}

/// One person at one tenant.
#[derive(Clone, Copy)]
pub struct Person {
    pub tenant: TenantId,
    pub subject: SubjectId,
}

impl Person {
    pub fn new() -> Self {
        Self::at(TenantId::generate())
    }

    pub fn at(tenant: TenantId) -> Self {
        Self { tenant, subject: SubjectId::generate() }
    }

    pub fn asks(self, decisions: Vec<EncryptedDecision>) -> OpenRequest {
        OpenRequest {
            verification: VerificationId::generate_at(NOW),
            tenant: self.tenant,
            subject: self.subject,
            decisions,
        }
    }

    pub fn asks_once(self) -> OpenRequest {
        self.asks(vec![decision(Decision::Match)])
    }
}

#[track_caller]
pub fn assert_spent(answer: Result<Decision, KeyholderError>, expected: BudgetScope) {
    match answer {
        Err(KeyholderError::BudgetSpent { scope, retry_after_s }) => {
            assert_eq!(scope, expected);
            assert!((UNTIL_MIDNIGHT_S..=UNTIL_MIDNIGHT_S + 1).contains(&retry_after_s), "{retry_after_s}");
        }
        other => panic!("expected a spent budget, got {other:?}"),
    }
}
