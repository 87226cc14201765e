//! A database of its own for each test, on each kind, and plain SQL beside the store to look at what it wrote.

use std::{
    future::Future,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use diesel::{
    Connection, PgConnection, RunQueryDsl, SqliteConnection, connection::SimpleConnection, sql_query, sql_types::Text,
};
use time::{OffsetDateTime, macros::datetime};
use velum::{
    audit::{Action, Actor, Event, SubjectDigest},
    domain::{
        access::{AccessState, LockKind},
        consent::{Consent, GivenBy, Method, Purpose, ShownNotice, Statement},
        decision::{Decision, FalseMatchRate},
        erasure::{ErasureState, Regulation},
        id::{AccessId, ConsentId, EnrolmentId, ErasureId, NoticeId, SubjectId, TenantId, VerificationId},
        job::JobKind,
        matching::Threshold,
        notice::{Controller, Generation, Notice},
    },
    store::{
        AccessRequest, Act, DeletedRows, ErasureLedger, ErasureRequest, KeyStore, KeyholderJournal, NewJob, NewPackage,
        NewSubject, NewTemplate, NewVerification, NewWithdrawal, Store, StoreError, TemplateKind, Tenant, Verification,
    },
    vault::{BlindIndexKey, DataKey, KeyEncryptionKeys, envelope::KeyEncryptionKey},
};
use zeroize::Zeroizing;

pub const NOW: OffsetDateTime = datetime!(2026-11-20 12:00 UTC);
pub const POOL_SIZE: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Sqlite,
    Postgres,
}

/// One empty database; gone when dropped.
pub struct TestDatabase {
    pub kind: Kind,
    pub url: String,
    keep: Keep,
}

enum Keep {
    Folder(tempfile::TempDir),
    Server { admin_url: String, name: String },
}

/// Runs a test on SQLite, then on PostgreSQL.
pub fn on_each_database<Test: Future<Output = ()>>(test: impl Fn(Arc<TestDatabase>) -> Test) {
    for kind in [Kind::Sqlite, Kind::Postgres] {
        eprintln!("on {kind:?}");
        on(kind, &test);
    }
}

/// Runs a test on one kind of database, or says why not.
pub fn on<Test: Future<Output = ()>>(kind: Kind, test: impl Fn(Arc<TestDatabase>) -> Test) {
    let Some(database) = TestDatabase::new(kind) else {
        eprintln!("skipped: VELUM_TEST_POSTGRES_URL is not set");
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test(Arc::new(database)));
}

impl TestDatabase {
    pub fn new(kind: Kind) -> Option<Self> {
        match kind {
            Kind::Sqlite => {
                let folder = tempfile::tempdir().unwrap();
                let url = format!("sqlite:{}", folder.path().join("test.db").display());
                Some(Self { kind, url, keep: Keep::Folder(folder) })
            }
            Kind::Postgres => {
                let admin_url = std::env::var("VELUM_TEST_POSTGRES_URL").ok()?;
                let name = format!("velum_test_{}", uuid::Uuid::now_v7().simple());
                let admin = PgConnection::establish(&admin_url);
                let mut admin = admin.expect("VELUM_TEST_POSTGRES_URL should lead to a server");
                admin.batch_execute(&format!("CREATE DATABASE {name} OWNER velum_app")).unwrap();
                let (server, options) = admin_url.split_once('?').unwrap_or((&admin_url, ""));
                // Not the superuser: row-level security binds the program under test.
                let server = server.replacen("//velum:", "//velum_app:", 1);
                let (server, _) = server.rsplit_once('/').unwrap();
                let url = format!("{server}/{name}?{options}").trim_end_matches('?').to_owned();
                Some(Self { kind, url, keep: Keep::Server { admin_url, name } })
            }
        }
    }

    pub async fn store(&self) -> Store {
        let store = self.unmigrated_store().await.unwrap();
        store.migrate().await.unwrap();
        store
    }

    pub async fn unmigrated_store(&self) -> Result<Store, StoreError> {
        connect(&self.url).await
    }

    pub async fn store_at(&self, url: &str) -> Store {
        connect(url).await.unwrap()
    }

    pub async fn key_store(&self) -> KeyStore {
        let keys = KeyStore::connect(&self.url, POOL_SIZE, keks(&[("2026-11", 1)])).await.unwrap();
        keys.migrate().await.unwrap();
        keys
    }

    pub async fn ledger(&self) -> ErasureLedger {
        let ledger = ErasureLedger::connect(&self.url, POOL_SIZE).await.unwrap();
        ledger.database().migrate().await.unwrap();
        ledger
    }

    pub async fn journal(&self) -> KeyholderJournal {
        let journal = KeyholderJournal::connect(&self.url, POOL_SIZE).await.unwrap();
        journal.migrate().await.unwrap();
        journal
    }

    /// Runs SQL beside the store.
    pub fn execute(&self, sql: &str) -> Result<(), diesel::result::Error> {
        match self.kind {
            Kind::Sqlite => self.sqlite().batch_execute(sql),
            Kind::Postgres => self.postgres().batch_execute(sql),
        }
    }

    /// The column `value` of every row that a query gives, as text.
    pub fn values(&self, sql: &str) -> Vec<String> {
        #[derive(diesel::QueryableByName)]
        struct Value {
            #[diesel(sql_type = Text)]
            value: String,
        }
        let rows: Vec<Value> = match self.kind {
            Kind::Sqlite => sql_query(sql).load(&mut self.sqlite()).unwrap(),
            Kind::Postgres => sql_query(sql).load(&mut self.postgres()).unwrap(),
        };
        rows.into_iter().map(|row| row.value).collect()
    }

    pub fn count(&self, table: &str) -> usize {
        self.values(&format!("SELECT CAST(count(*) AS TEXT) AS value FROM {table}"))[0].parse().unwrap()
    }

    /// A column of bytes of every row, in hex.
    pub fn bytes(&self, table: &str, column: &str) -> Vec<String> {
        match self.kind {
            Kind::Sqlite => self.values(&format!("SELECT lower(hex({column})) AS value FROM {table}")),
            Kind::Postgres => self.values(&format!("SELECT encode({column}, 'hex') AS value FROM {table}")),
        }
    }

    /// The files of an SQLite database, log included.
    pub fn sqlite_paths(&self) -> Vec<PathBuf> {
        let Keep::Folder(folder) = &self.keep else { panic!("not SQLite") };
        std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().path()).collect()
    }

    /// Everything in them.
    pub fn sqlite_files(&self) -> Vec<u8> {
        self.sqlite_paths().iter().flat_map(|path| std::fs::read(path).unwrap()).collect()
    }

    /// Another session, after it has run `sql`. PostgreSQL only.
    pub fn stranger(&self, sql: &str) -> PgConnection {
        let mut connection = self.postgres();
        connection.batch_execute(sql).unwrap();
        connection
    }

    /// The server's superuser, on this database. PostgreSQL only.
    pub fn superuser_url(&self) -> String {
        self.url.replacen("//velum_app:", "//velum:", 1)
    }

    /// Returns when so many sessions wait for a lock. PostgreSQL only.
    pub async fn wait_for_blocked(&self, sessions: usize) {
        let blocked = "pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        let begin = Instant::now();
        while self.count(blocked) < sessions {
            assert!(begin.elapsed() < Duration::from_secs(5), "nobody waits");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Closes the database to new connections and ends those there are, or opens it again. PostgreSQL only.
    pub fn allow_connections(&self, allow: bool) {
        let Keep::Server { admin_url, name } = &self.keep else { panic!("not PostgreSQL") };
        let mut admin = PgConnection::establish(admin_url).unwrap();
        admin.batch_execute(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS {allow}")).unwrap();
        if !allow {
            let end = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'");
            admin.batch_execute(&end).unwrap();
        }
    }

    /// Sees every tenant's rows.
    fn postgres(&self) -> PgConnection {
        let mut connection = PgConnection::establish(&self.url).unwrap();
        connection.batch_execute("SET velum.tenant = '*'").unwrap();
        connection
    }

    fn sqlite(&self) -> SqliteConnection {
        let mut connection = SqliteConnection::establish(self.url.trim_start_matches("sqlite:")).unwrap();
        connection.batch_execute("PRAGMA busy_timeout = 5000").unwrap();
        connection
    }
}

async fn connect(url: &str) -> Result<Store, StoreError> {
    Store::connect(url, POOL_SIZE, BlindIndexKey::from_bytes(Zeroizing::new([9; 32]))).await
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        if let Keep::Server { admin_url, name } = &self.keep
            && let Ok(mut admin) = PgConnection::establish(admin_url)
        {
            let _ = admin.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)"));
        }
    }
}

// ---- things to store, with good defaults -------------------------------------------------------------------------------

pub fn keks(ids: &[(&str, u8)]) -> KeyEncryptionKeys {
    let keys =
        ids.iter().map(|(id, byte)| (id.parse().unwrap(), KeyEncryptionKey::from_bytes(Zeroizing::new([*byte; 32]))));
    KeyEncryptionKeys::new(ids.last().unwrap().0.parse().unwrap(), keys).unwrap()
}

pub fn purpose() -> Purpose {
    Purpose::face_verification()
}

pub fn kind() -> TemplateKind {
    TemplateKind {
        model: "dlib-resnet29-v1".parse().unwrap(),
        parameter_id: "velum-1".to_owned(),
        fhe_key_id: "00112233445566778899aabbccddeeff".to_owned(),
    }
}

pub async fn tenant(store: &Store) -> TenantId {
    let tenant = Tenant { id: TenantId::generate(), name: "Example Bank".to_owned(), created_at: NOW };
    store.tenants().create(&tenant, Actor::operator()).await.unwrap();
    tenant.id
}

/// A person with a data key, known as `external_ref`.
pub async fn subject(store: &Store, tenant: TenantId, external_ref: &str) -> (SubjectId, DataKey) {
    let (id, key) = (SubjectId::generate(), DataKey::generate().unwrap());
    store.subjects().insert(tenant, NewSubject { id, external_ref, created_at: NOW }, &key, act()).await.unwrap();
    (id, key)
}

pub fn consent_of(subject: SubjectId) -> Consent {
    Consent {
        id: ConsentId::generate(),
        subject,
        purpose: purpose(),
        notice: ShownNotice { version: "2026-11".to_owned(), id: None, generation: Generation(0) },
        granted: said(NOW),
        given_by: GivenBy::Oneself,
        guardian: None,
        expires_at: None,
        withdrawn: None,
        superseded: false,
    }
}

/// Of a consent without references nothing is sealed: any key does.
pub fn any_key() -> Arc<DataKey> {
    Arc::new(DataKey::generate().unwrap())
}

/// Yes or no, at this moment.
pub fn said(at: OffsetDateTime) -> Statement {
    Statement { at, by: Some("cli_1".to_owned()), method: Some(Method::InPerson), evidence: None }
}

pub async fn grant(store: &Store, tenant: TenantId, subject: SubjectId) -> ConsentId {
    let consent = consent_of(subject);
    store.consents().insert(tenant, &consent, &any_key(), act()).await.unwrap();
    consent.id
}

/// Every consent of a person who has few, newest first.
pub async fn all_consents(store: &Store, tenant: TenantId, subject: SubjectId, key: &DataKey) -> Vec<Consent> {
    store.consents().list(tenant, subject, None, 100, key).await.unwrap().items
}

/// An act of the operator, without an idempotency key.
pub fn act() -> Act {
    Event::of(Actor::operator(), Action::SubjectCreated, "something", NOW).into()
}

/// A withdrawal that erases nobody.
pub fn withdrawal(statement: Statement, key: Arc<DataKey>) -> NewWithdrawal {
    NewWithdrawal { statement, key, erasure: None }
}

/// The same as a withdrawal takes it.
pub fn act_of(_: &Consent) -> Result<Act, StoreError> {
    Ok(act())
}

/// A request that has begun.
pub fn erasure_of(tenant: TenantId, subject: SubjectId) -> ErasureRequest {
    ErasureRequest {
        id: ErasureId::generate(),
        tenant,
        subject: Some(subject),
        subject_digest: SubjectDigest([9; 32]),
        regulation: Regulation::Gdpr,
        state: ErasureState::InProgress,
        reason: None,
        received_at: NOW,
        due_at: Regulation::Gdpr.due_at(NOW, 1),
        verified_at: Some(NOW),
        begun_at: Some(NOW),
        ended_at: None,
        removed: None,
        certificate: None,
    }
}

/// A request of a person to be given what is known of them, that waits to be answered.
pub fn access_of(tenant: TenantId, subject: SubjectId) -> AccessRequest {
    AccessRequest {
        id: AccessId::generate(),
        tenant,
        subject,
        regulation: Regulation::Gdpr,
        state: AccessState::Received,
        reason: None,
        received_at: NOW,
        due_at: Regulation::Gdpr.due_at(NOW, 1),
        ended_at: None,
        package: None,
    }
}

/// How a link is kept that leads to a request.
pub fn link_of(request: AccessId) -> [u8; 32] {
    let mut hash = [0; 32];
    hash[..16].copy_from_slice(request.as_uuid().as_bytes());
    hash
}

/// What answers a request; to be had until then.
pub fn package_of(request: &AccessRequest, content: &[u8], key: &DataKey, expires_at: OffsetDateTime) -> NewPackage {
    let expiry = NewJob {
        kind: JobKind::PackageExpiry,
        tenant: Some(request.tenant),
        payload: serde_json::json!({}),
        unique_key: None,
        due_at: expires_at,
        created_at: NOW,
    };
    let content = (content, LockKind::Passphrase);
    NewPackage::sealed(request.id, content, key, link_of(request.id), (expires_at, expiry)).unwrap()
}

/// A request that was answered; its package can be had for a day.
pub async fn answered(store: &Store, tenant: TenantId, subject: SubjectId, key: &DataKey) -> AccessRequest {
    let request = access_of(tenant, subject);
    store.access_requests().open(&request, None, act()).await.unwrap();
    let package = package_of(&request, b"package", key, NOW + time::Duration::DAY);
    let done =
        AccessRequest { state: AccessState::Completed, ended_at: Some(NOW), package: Some(package.note()), ..request };
    store.access_requests().complete(&done, package, act()).await.unwrap();
    done
}

/// Removes a person as an erasure does.
pub async fn erase(store: &Store, tenant: TenantId, subject: SubjectId) -> DeletedRows {
    let request = erasure_of(tenant, subject);
    store.erasures().open(&request, None, act()).await.unwrap();
    let request = store.erasures().remove_rows(tenant, request.id, subject, act().event).await.unwrap();
    request.removed.unwrap().rows
}

/// A version of the notice for face verification.
pub fn notice_of(tenant: TenantId, version: &str, language: &str, material_change: bool) -> Notice {
    Notice {
        id: NoticeId::generate(),
        tenant,
        purpose: purpose(),
        version: version.to_owned(),
        language: language.parse().unwrap(),
        text_sha256: [7; 32],
        controller: Controller { name: "Example Bank".to_owned(), contact: "privacy@bank.example".to_owned() },
        retention: "P3Y".to_owned(),
        data_categories: vec!["face image, not kept".to_owned(), "face template".to_owned()],
        recipients: vec![],
        jurisdiction: Some("DE".to_owned()),
        policy_url: None,
        withdrawal_method: None,
        material_change,
        generation: Generation(0),
        published_at: NOW,
        published_by: "cli_1".to_owned(),
    }
}

pub async fn publish(store: &Store, notice: &Notice) -> Result<Notice, StoreError> {
    store.notices().publish(notice.clone(), "We compare your face.".to_owned(), |_| act()).await
}

pub async fn insert_template(
    store: &Store,
    tenant: TenantId,
    subject: SubjectId,
    key: &DataKey,
    template: &[u8],
) -> Result<EnrolmentId, StoreError> {
    let id = EnrolmentId::generate();
    let purpose = purpose();
    let (kind, older_key) = (kind(), None);
    let new = NewTemplate { id, subject, purpose: &purpose, kind, older_key, template, created_at: NOW };
    store.templates().insert(tenant, new, key, act()).await.map(|()| id)
}

pub fn verification_of(subject: SubjectId) -> Verification {
    Verification {
        id: VerificationId::generate_at(NOW),
        subject,
        model: kind().model,
        false_match_rate: FalseMatchRate::E4,
        threshold: Threshold(0.3125),
        decision: Decision::Match,
        created_at: NOW,
    }
}

pub async fn insert_verification(
    store: &Store,
    tenant: TenantId,
    verification: Verification,
    key: &DataKey,
) -> Result<(), StoreError> {
    let purpose = purpose();
    store.verifications().insert(tenant, NewVerification { verification, purpose: &purpose }, key, act()).await
}
