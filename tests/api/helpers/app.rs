//! The server under test.

use std::{ffi::OsString, future::Future, path::Path, sync::Arc};

use serde_json::Value;
use tempfile::TempDir;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use velum::{
    app::{App, Running},
    auth::{Role, Scope, Scopes},
    domain::clock::{Clock as _, ManualClock},
    flows::clients::{self, NewCredential},
    secrets,
    settings::{self, PREFIX, Settings},
};

use super::{
    client::Client,
    databases::{Databases, Kind},
    engine,
};

/// Settings beyond those of every test, by their names without the prefix.
pub type Options<'a> = &'a [(&'a str, &'a str)];

pub struct TestApp {
    pub databases: Databases,
    pub clock: Arc<ManualClock>,
    pub running: Running,
    pub data_dir: TempDir,
}

/// Runs a test on every database there is here.
pub async fn each_database<F: Future<Output = ()>>(test: impl Fn(TestApp) -> F) {
    each_database_with(&[], test).await;
}

/// The same with settings of the test's own.
pub async fn each_database_with<F: Future<Output = ()>>(options: Options<'_>, test: impl Fn(TestApp) -> F) {
    for kind in Kind::here() {
        test(TestApp::spawn(kind, options).await).await;
    }
}

impl TestApp {
    /// On SQLite.
    pub async fn start() -> Self {
        Self::spawn(Kind::Sqlite, &[]).await
    }

    pub async fn spawn(kind: Kind, options: Options<'_>) -> Self {
        let data_dir = tempfile::tempdir().unwrap();
        let databases = Databases::make(kind, data_dir.path());
        let clock = Arc::new(ManualClock::at(OffsetDateTime::now_utc()));
        let running = Self::serve(data_dir.path(), &databases, options, Arc::clone(&clock)).await;
        Self { databases, clock, running, data_dir }
    }

    /// Another process of the same deployment.
    pub async fn twin(&self, options: Options<'_>) -> Running {
        Self::serve(self.data_dir.path(), &self.databases, options, Arc::clone(&self.clock)).await
    }

    /// A server on a data folder and databases that may have served before.
    pub async fn serve(
        data_dir: &Path,
        databases: &Databases,
        options: Options<'_>,
        clock: Arc<ManualClock>,
    ) -> Running {
        engine::make_keys_once();
        keep_evidence_key(data_dir);
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let own = [
            ("DATA_DIR", data_dir.display().to_string()),
            ("LISTEN", "127.0.0.1:0".to_owned()),
            ("FHE_DIR", engine::fhe_dir().display().to_string()),
            ("MODELS_DIR", root.join("models").display().to_string()),
            ("ONNXRUNTIME", onnxruntime(root)),
            ("DATABASE_URL", databases.main.clone()),
            ("KEYSTORE_URL", databases.keystore.clone()),
            ("LEDGER_URL", databases.ledger.clone()),
            ("KEYHOLDER_JOURNAL_URL", databases.journal.clone()),
            ("DATABASE_POOL_SIZE", "4".to_owned()),
            ("HTTP_WORKERS", "1".to_owned()),
            // Tests of limits set their own.
            ("RATE_CLIENT", "1000000".to_owned()),
            ("RATE_ADDRESS", "1000000".to_owned()),
        ];
        let own = own.into_iter().filter(|(name, _)| !options.iter().any(|(other, _)| name == other));
        let given = options.iter().map(|(name, value)| (*name, (*value).to_owned()));
        let variables = own.chain(given).map(|(name, value)| (OsString::from(format!("{PREFIX}{name}")), value.into()));
        let settings =
            Settings::read(variables, settings::Role::Serve).settings.unwrap_or_else(|problems| panic!("{problems}"));

        let engine = engine::engine(&settings);
        let app = App::build_around(engine, settings, clock).await.expect("the server starts");
        app.spawn().expect("the server listens")
    }

    /// The same installation, stopped and started again; in between something happens to its databases.
    pub async fn restarted(self, between: impl FnOnce(&Databases)) -> Self {
        let Self { running, databases, data_dir, clock } = self;
        running.stop(std::time::Duration::ZERO).await;
        between(&databases);
        let running = Self::serve(data_dir.path(), &databases, &[], Arc::clone(&clock)).await;
        Self { running, databases, data_dir, clock }
    }

    /// A client of the tenant that the first start made, with every scope of an app.
    pub async fn client(&self) -> Client {
        self.client_with_scope("").await
    }

    /// A client of a tenant of its own.
    pub async fn foreign_client(&self) -> Client {
        let tenant = clients::create_tenant(self.running.flows(), "another").await.unwrap();
        let NewCredential { client, secret } =
            clients::create(self.running.flows(), tenant, "another", Scopes::client_app()).await.unwrap();
        self.client_with(&client.to_string(), secret.expose_text(), "").await
    }

    /// The compliance officer of another tenant.
    pub async fn foreign_officer(&self) -> Client {
        let tenant = clients::create_tenant(self.running.flows(), "abroad").await.unwrap();
        let scopes = Role::ComplianceOfficer.scopes();
        let made = clients::create(self.running.flows(), tenant, "officer", scopes).await.unwrap();
        self.client_with(&made.client.to_string(), made.secret.expose_text(), "").await
    }

    /// A client of another tenant that may manage its keys.
    pub async fn foreign_admin(&self) -> Client {
        let tenant = clients::create_tenant(self.running.flows(), "elsewhere").await.unwrap();
        let scopes = [Scope::Admin, Scope::Subjects].into_iter().collect();
        let made = clients::create(self.running.flows(), tenant, "admin", scopes).await.unwrap();
        self.client_with(&made.client.to_string(), made.secret.expose_text(), "").await
    }

    /// A moment this far from now, as JSON says it.
    pub fn clock_in(&self, from_now: time::Duration) -> String {
        (self.clock.now() + from_now).format(&Rfc3339).unwrap()
    }

    /// The development client again, with fewer scopes.
    pub async fn client_with_scope(&self, scope: &str) -> Client {
        let (id, secret) = self.credential();
        self.client_with(&id, &secret, scope).await
    }

    /// Id and secret of a new client of the first tenant.
    pub async fn credential_of(&self, role: Role) -> (String, String) {
        let tenants = self.databases.texts(&self.databases.main, "SELECT id AS text FROM tenants ORDER BY id");
        let tenant = tenants[0].parse().unwrap();
        let made = clients::create(self.running.flows(), tenant, role.as_str(), role.scopes()).await.unwrap();
        (made.client.to_string(), made.secret.expose_text().to_owned())
    }

    pub async fn client_of(&self, role: Role) -> Client {
        let (id, secret) = self.credential_of(role).await;
        self.stranger().with_token(&id, &secret, "").await
    }

    pub fn credential(&self) -> (String, String) {
        credential_in(self.data_dir.path())
    }

    async fn client_with(&self, id: &str, secret: &str, scope: &str) -> Client {
        self.stranger().with_token(id, secret, scope).await
    }

    /// Somebody without a token.
    pub fn stranger(&self) -> Client {
        let authority = self.running.authority.as_deref().expect("a certificate authority of its own");
        Client::stranger(authority, self.running.address.port())
    }
}

/// A long RSA key takes its time to be made, and no test asks for a fresh one.
fn keep_evidence_key(data_dir: &Path) {
    let path = data_dir.join("secrets/evidence/20261101T000000Z.pem");
    let key = include_str!("../../fixtures/keys/test_only_rsa_3072_one.pem");
    if !path.exists() {
        secrets::write_private(&path, key.as_bytes()).unwrap();
    }
}

/// Id and secret of the client that the first start made.
pub fn credential_in(data_dir: &Path) -> (String, String) {
    let text = std::fs::read_to_string(data_dir.join("dev_client.json")).unwrap();
    let credential: Value = serde_json::from_str(&text).unwrap();
    let member = |name: &str| credential[name].as_str().expect("a member of the credential").to_owned();
    (member("client_id"), member("client_secret"))
}

pub fn onnxruntime(root: &Path) -> String {
    let given = std::env::var("VELUM_ONNXRUNTIME").ok();
    given.unwrap_or_else(|| root.join("runtime/libonnxruntime.so.1.31.1").display().to_string())
}
