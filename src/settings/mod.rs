//! The one reader of the environment.
//!
//! Every setting is a variable `VELUM_NAME`, or a file whose path is in `VELUM_NAME_FILE`. A variable that starts with
//! `VELUM_` and is no setting is refused by name: a misspelt limit must not be a missing one. All problems are reported at
//! once, each with the variable and what is expected. `velum config show` lists every setting; nothing else is configurable.

mod database_url;
mod gather;
mod production;
mod reader;
mod redis_url;

use std::{
    ffi::OsString,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use zeroize::Zeroizing;

use self::reader::Reader;
pub use self::{
    database_url::{DatabaseUrl, InvalidDatabaseUrl},
    production::{DEVELOPMENT_MARKER, RETIRING_KEY_FILE, SECRET_KEY_FILE},
    reader::{Effective, Origin, PREFIX, Problem, REDACTED},
    redis_url::{InvalidRedisUrl, RedisUrl},
};
use crate::{
    auth::jwt::TokenConfig,
    cache::Rates,
    domain::{
        attempts::AttemptRule, decision::FalseMatchRate, matching::CardId, network::Networks,
        retention::RetentionSchedule,
    },
    flows::{ErasurePolicy, access_requests::AccessPolicy},
    http::cors::WebOrigin,
    keyholder::Budgets,
    telemetry::LogConfig,
    tls::{Fingerprint, Identity},
    vault::envelope::KekId,
};

/// What kind of house this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One process on one machine; secrets and certificates make themselves on first start. For trying out and developing.
    Embedded,
    /// Nothing makes itself; whatever is convenient and unsafe is refused.
    Production,
}

impl FromStr for Mode {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "embedded" => Ok(Self::Embedded),
            "production" => Ok(Self::Production),
            _ => Err(()),
        }
    }
}

/// Which program reads the settings: production demands of each only what it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Serve,
    Keyholder,
    Worker,
    /// A command of the operator: migrate, keys, clients, models.
    Tool,
}

/// A secret given as the text of a setting. It cannot be printed.
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    fn new(text: Zeroizing<String>) -> Self {
        Self(text)
    }

    pub fn expose_text(&self) -> &str {
        &self.0
    }
}

/// Which process carries out jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerPlace {
    /// `velum serve`, beside its requests.
    Embedded,
    /// `velum worker` alone.
    Separate,
}

impl FromStr for WorkerPlace {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "embedded" => Ok(Self::Embedded),
            "separate" => Ok(Self::Separate),
            _ => Err(()),
        }
    }
}

pub struct Settings {
    pub mode: Mode,
    /// Where everything lies that has no place of its own.
    pub data_dir: PathBuf,
    pub log: LogConfig,
    pub server: ServerSettings,
    pub tokens: TokenConfig,
    pub secrets: SecretsSettings,
    pub storage: StorageSettings,
    pub cache: CacheSettings,
    pub limits: LimitSettings,
    pub erasure_policy: ErasurePolicy,
    pub access_policy: AccessPolicy,
    pub opendsr: OpenDsrSettings,
    pub worker: WorkerPlace,
    pub retention: RetentionSchedule,
    pub keyholder: KeyholderSettings,
    pub keyholder_server: KeyholderServerSettings,
    pub face: FaceSettings,
    pub compute: ComputeSettings,
    /// The false-match rate of a verification whose caller names none.
    pub default_false_match_rate: FalseMatchRate,
}

pub struct ServerSettings {
    pub listen: SocketAddr,
    /// For a proxy on the same host, beside `listen`; `None`: no Unix socket.
    pub listen_socket: Option<PathBuf>,
    /// Where Prometheus scrapes, without TLS; `None`: nowhere.
    pub metrics_listen: Option<SocketAddr>,
    /// Web pages that may call from a browser.
    pub cors_origins: Vec<WebOrigin>,
    /// `None`: the self-made certificate of the data folder.
    pub tls: Option<Identity>,
    /// Signed that certificate: what `velum healthcheck` trusts.
    pub tls_authority: Option<PathBuf>,
    pub workers: usize,
    pub connections_max: usize,
    /// From the first byte of a request's head to its last.
    pub head_timeout: Duration,
    /// From the head to the last byte of the answer.
    pub request_timeout: Duration,
    /// How long a stopping server waits for the requests it has accepted.
    pub stop_timeout: Duration,
    /// Whose word is taken on who the client is.
    pub trusted_proxies: Networks,
    /// Every connection begins with the header of the PROXY protocol.
    pub proxy_protocol: bool,
    /// How long one key hashes the addresses of clients.
    pub address_key_period: time::Duration,
}

pub struct SecretsSettings {
    /// Folder of the keys; see secrets/README.md for the names of its files.
    pub dir: PathBuf,
    /// Each of these replaces the file of the folder.
    pub jwt_signing_key: Option<SecretText>,
    pub client_secret_pepper: Option<SecretText>,
    pub blind_index_key: Option<SecretText>,
    /// Which key-encryption key wraps new data keys; `None`: the last by name.
    pub kek_current: Option<KekId>,
    /// Folder of the encryption's own keys: `public.key`, `evaluation.key` and, at the keyholder alone, `secret.key`.
    pub fhe_dir: PathBuf,
}

pub struct StorageSettings {
    pub database: DatabaseUrl,
    /// The subjects' wrapped keys. A database of its own: destroying a key there also erases the person from every backup
    /// of the main database.
    pub keystore: DatabaseUrl,
    /// Who must stay erased, whatever is restored. A database of its own, backed up apart from the two others.
    pub ledger: DatabaseUrl,
    pub pool_size: usize,
}

/// Redis: revocations and counters that several processes share.
pub struct CacheSettings {
    /// `None`: this process keeps them by itself.
    pub redis: Option<RedisUrl>,
    /// Signs the certificate of Redis, where that is not one of the system's authorities.
    pub authority: Option<PathBuf>,
}

/// Requests that controllers pass on by OpenDSR, and the callbacks that answer them.
pub struct OpenDsrSettings {
    /// Issued for the evidence key.
    pub certificate: Option<PathBuf>,
    /// Networks that are not public and may be called all the same.
    pub callback_networks: Networks,
    /// Signs the certificates of receivers, in place of the system's authorities.
    pub callback_authority: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy)]
pub struct LimitSettings {
    pub rates: Rates,
    /// Enrolments and verifications of a tenant that has no quota of its own.
    pub quota_per_day: u32,
    pub attempt_rule: AttemptRule,
}

/// Where decisions are opened.
pub enum KeyholderSettings {
    /// In this process.
    Local,
    /// In another process, over mutual TLS.
    Remote { address: String, identity: Option<Identity>, authority: Option<PathBuf> },
}

pub struct KeyholderServerSettings {
    pub listen: SocketAddr,
    pub identity: Option<Identity>,
    /// Signs the certificates of the servers that may ask.
    pub edge_authority: Option<PathBuf>,
    /// Only these of them; empty: all.
    pub admitted_edges: Vec<Fingerprint>,
    pub workers: usize,
    pub journal: DatabaseUrl,
    pub budgets: Budgets,
}

pub struct FaceSettings {
    pub models_dir: PathBuf,
    /// `None`: the manifest's default.
    pub embedder: Option<CardId>,
    pub onnxruntime: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ComputeSettings {
    pub workers: usize,
    /// Requests that may wait for a worker; one more is answered 503.
    pub queue: usize,
    /// Memory for images on their way in; one that finds no room is answered 503.
    pub upload_bytes: usize,
}

/// Every problem that was found. There is at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(Problem::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for Problems {}

/// The outcome of reading: what took effect is known even where the whole cannot be used.
pub struct Reading {
    pub settings: Result<Settings, Problems>,
    pub effective: Vec<Effective>,
}

impl Settings {
    /// The defaults of the embedded mode in a data folder of its own, on a free port: what `demo`, `bench` and tests start.
    pub fn embedded(data_dir: &Path) -> Result<Self, Problems> {
        let variable = |name: &str, value: OsString| (OsString::from(format!("{PREFIX}{name}")), value);
        let variables = [variable("DATA_DIR", data_dir.into()), variable("LISTEN", "127.0.0.1:0".into())];
        Self::read(variables, Role::Serve).settings
    }

    pub fn from_environment(role: Role) -> Result<Self, Problems> {
        Self::read(std::env::vars_os(), role).settings
    }

    pub fn read(variables: impl IntoIterator<Item = (OsString, OsString)>, role: Role) -> Reading {
        let mut reader = Reader::new(variables);
        let settings = gather::all(&mut reader);
        production::check(&settings, role, &mut reader);
        let (effective, problems) = reader.finish();
        Reading { settings: if problems.is_empty() { Ok(settings) } else { Err(Problems(problems)) }, effective }
    }
}
