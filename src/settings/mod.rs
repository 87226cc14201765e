//! The one reader of the environment.
//!
//! Every setting is a variable `VELUM_NAME`, or a file whose path is in `VELUM_NAME_FILE`. A variable that starts with
//! `VELUM_` and is no setting is refused by name: a misspelt limit must not be a missing one. All problems are reported at
//! once, each with the variable and what is expected. `velum config show` lists every setting; nothing else is configurable.

mod database_url;
mod production;
mod reader;
mod redis_url;

use std::{
    collections::BTreeMap,
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
    auth::jwt::{TokenConfig, TokenLifetime},
    cache::{Rate, Rates},
    domain::{
        attempts::AttemptRule, consent::Purpose, decision::FalseMatchRate, matching::CardId, network::Networks,
        retention::RetentionSchedule,
    },
    flows::{ErasurePolicy, access_requests::AccessPolicy},
    http::cors::WebOrigin,
    keyholder::{Budgets, DEFAULT_BUDGETS},
    telemetry::{self, LogConfig},
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
        let settings = Self::gather(&mut reader);
        production::check(&settings, role, &mut reader);
        let (effective, problems) = reader.finish();
        Reading { settings: if problems.is_empty() { Ok(settings) } else { Err(Problems(problems)) }, effective }
    }

    /// Every setting there is, in the order in which `config show` lists them.
    fn gather(reader: &mut Reader) -> Self {
        let mode = reader.value("MODE", "`embedded` or `production`", "embedded");
        let data_dir: PathBuf = reader.value("DATA_DIR", "a folder", "data");
        let in_data = |name: &str| data_dir.join(name).display().to_string();
        let processors = std::thread::available_parallelism().map_or(1, usize::from) as u64;

        let log = LogConfig {
            format: reader.value(
                "LOG_FORMAT",
                "`json` or `pretty`",
                if mode == Mode::Embedded { "pretty" } else { "json" },
            ),
            filter: log_filter(reader),
        };
        let server = ServerSettings {
            listen: reader.value("LISTEN", "an address and port such as 127.0.0.1:8443", "127.0.0.1:8443"),
            listen_socket: reader.optional("LISTEN_SOCKET", "a path such as /run/velum/green.sock"),
            metrics_listen: reader
                .optional("METRICS_LISTEN", "an address and port of the inside, such as 127.0.0.1:9464"),
            cors_origins: cors_origins(reader, mode),
            tls: identity(reader, "TLS"),
            tls_authority: reader
                .file("TLS_CA", "the certificate authority of this server's certificate, for healthcheck"),
            workers: reader.number("HTTP_WORKERS", "a number of threads from 1 to 64", processors.min(64), 1..=64)
                as usize,
            connections_max: reader.number("CONNECTIONS_MAX", "a number from 1 to 100000", 1024, 1..=100_000) as usize,
            head_timeout: seconds(reader, "HEAD_TIMEOUT_S", "1 to 60 seconds", 5, 1, 60),
            request_timeout: seconds(reader, "REQUEST_TIMEOUT_S", "1 to 300 seconds", 30, 1, 300),
            stop_timeout: seconds(reader, "STOP_TIMEOUT_S", "1 to 30 seconds", 25, 1, 30),
            trusted_proxies: reader
                .optional("TRUSTED_PROXIES", "addresses and networks such as 10.0.0.0/8, joined by commas")
                .unwrap_or_default(),
            proxy_protocol: reader.value("PROXY_PROTOCOL", "`true` or `false`", "false"),
            address_key_period: time::Duration::hours(
                reader.number("ADDRESS_KEY_HOURS", "1 to 168 hours", 24, 1..=168) as i64,
            ),
        };
        if server.proxy_protocol && server.trusted_proxies.is_empty() {
            let sentence = "must be set where VELUM_PROXY_PROTOCOL is true: only these may open a connection then";
            reader.problem("TRUSTED_PROXIES", sentence.to_owned());
        }
        let tokens = TokenConfig {
            issuer: issuer(reader),
            audience: reader.value("AUDIENCE", "a name for whom access tokens are meant", "velum"),
            lifetime: token_lifetime(reader),
            leeway: TokenConfig::LEEWAY_DEFAULT,
        };
        let secrets = SecretsSettings {
            dir: reader.value("SECRETS_DIR", "the folder of the keys (see secrets/README.md)", &in_data("secrets")),
            jwt_signing_key: reader
                .secret("JWT_SIGNING_KEY", "an RSA private key of at least 2048 bits as PKCS #8 PEM"),
            client_secret_pepper: reader.secret("CLIENT_SECRET_PEPPER", "32 random bytes in base64 or hex"),
            blind_index_key: reader.secret("BLIND_INDEX_KEY", "32 random bytes in base64 or hex"),
            kek_current: reader.optional("KEK_CURRENT", "the name of a key-encryption key in the secrets folder"),
            fhe_dir: reader.value("FHE_DIR", "the folder of public.key and evaluation.key", &in_data("fhe")),
        };
        let expected = "sqlite:PATH or postgres://USER:PASSWORD@HOST/NAME";
        let database = |reader: &mut Reader, name: &str, file: &str| {
            reader.redacted(name, expected, &DatabaseUrl::sqlite(&data_dir.join(file)))
        };
        let storage = StorageSettings {
            database: database(reader, "DATABASE_URL", "velum.db"),
            keystore: database(reader, "KEYSTORE_URL", "keystore.db"),
            ledger: database(reader, "LEDGER_URL", "ledger.db"),
            pool_size: reader.number("DATABASE_POOL_SIZE", "a number of connections from 1 to 200", 8, 1..=200)
                as usize,
        };
        let cache = CacheSettings {
            redis: reader.redacted_optional("REDIS_URL", RedisUrl::EXPECTED),
            authority: reader.file("REDIS_CA", "the certificate authority of Redis"),
        };
        let limits = LimitSettings {
            rates: Rates { client: rate(reader, "RATE_CLIENT", 1_200), address: rate(reader, "RATE_ADDRESS", 2_400) },
            quota_per_day: reader.number(
                "QUOTA_PER_DAY",
                "a number of enrolments and verifications from 1 to 1000000000",
                100_000,
                1..=1_000_000_000,
            ) as u32,
            attempt_rule: AttemptRule {
                free: reader.number("ATTEMPTS_FREE", "a number of failures from 1 to 1000", 10, 1..=1_000) as u32,
            },
        };
        let erasure_policy = ErasurePolicy {
            regulation: reader.value("ERASURE_REGULATION", "gdpr, dpdp or ccpa", "gdpr"),
            dpdp_days: reader.number("ERASURE_DPDP_DAYS", "a number of days from 1 to 365", 30, 1..=365) as u16,
            on_withdrawal: reader.value("ERASE_ON_WITHDRAWAL", "`true` or `false`", "false"),
            keystore_backups_kept: time::Duration::days(reader.number(
                "KEYSTORE_BACKUP_DAYS",
                "a number of days from 0 to 90",
                7,
                0..=90,
            ) as i64),
        };
        let access_policy = AccessPolicy {
            package_kept: time::Duration::days(reader.number(
                "ACCESS_PACKAGE_DAYS",
                "a number of days from 1 to 30",
                7,
                1..=30,
            ) as i64),
        };
        let opendsr = OpenDsrSettings {
            certificate: reader.file("OPENDSR_CERTIFICATE", "a certificate in PEM form, issued for the evidence key"),
            callback_networks: reader
                .optional("CALLBACK_NETWORKS", "addresses and networks such as 10.1.0.0/16, joined by commas")
                .unwrap_or_default(),
            callback_authority: reader.file("CALLBACK_CA", "the certificate authority of those who get callbacks"),
        };
        let worker = reader.value("WORKER", "`embedded` or `separate`", "embedded");
        let retention = retention(reader);
        let keyholder_server = KeyholderServerSettings {
            listen: reader.value("KEYHOLDER_LISTEN", "an address and port such as 127.0.0.1:8444", "127.0.0.1:8444"),
            identity: identity(reader, "KEYHOLDER"),
            edge_authority: reader.file("KEYHOLDER_EDGE_CA", "the certificate authority of the servers that may ask"),
            admitted_edges: fingerprints(reader),
            workers: reader.number("KEYHOLDER_WORKERS", "a number of threads from 1 to 64", processors.min(64), 1..=64)
                as usize,
            journal: database(reader, "KEYHOLDER_JOURNAL_URL", "keyholder.db"),
            budgets: Budgets {
                per_subject: budget(reader, "KEYHOLDER_BUDGET_PER_SUBJECT", DEFAULT_BUDGETS.per_subject),
                per_tenant: budget(reader, "KEYHOLDER_BUDGET_PER_TENANT", DEFAULT_BUDGETS.per_tenant),
                per_day: budget(reader, "KEYHOLDER_BUDGET_PER_DAY", DEFAULT_BUDGETS.per_day),
            },
        };
        let face = FaceSettings {
            models_dir: reader.value("MODELS_DIR", "the folder of manifest.toml and the model files", "models"),
            embedder: reader.optional("EMBEDDER", "the id of an embedder in the manifest"),
            onnxruntime: reader.value("ONNXRUNTIME", "the ONNX Runtime library", "runtime/libonnxruntime.so.1.31.1"),
        };
        let workers =
            reader.number("COMPUTE_WORKERS", "a number of threads from 1 to 256", processors.min(256), 1..=256);
        let compute = ComputeSettings {
            workers: workers as usize,
            queue: reader.number("COMPUTE_QUEUE", "a number of requests from 0 to 10000", workers * 8, 0..=10_000)
                as usize,
            upload_bytes: reader.number("UPLOAD_MEMORY_MB", "a number of megabytes from 32 to 65536", 256, 32..=65_536)
                as usize
                * 1_000_000,
        };
        Self {
            mode,
            keyholder: keyholder(reader),
            default_false_match_rate: reader.value("FALSE_MATCH_RATE", "1e-2, 1e-3 or 1e-4", "1e-4"),
            data_dir,
            log,
            server,
            tokens,
            secrets,
            storage,
            cache,
            limits,
            erasure_policy,
            access_policy,
            opendsr,
            worker,
            retention,
            keyholder_server,
            face,
            compute,
        }
    }
}

/// The names of an `Identity`'s two files.
fn identity(reader: &mut Reader, name: &str) -> Option<Identity> {
    let (certificate_name, key_name) = (format!("{name}_CERTIFICATE"), format!("{name}_KEY"));
    let certificate = reader.file(&certificate_name, "a certificate chain in PEM form");
    let key = reader.file(&key_name, "the private key of the certificate in PEM form");
    match (certificate, key) {
        (Some(certificate), Some(key)) => {
            if let Some(mode) = reader::mode_open_to_others(&key) {
                let path = key.display();
                let sentence = format!("{path} can be read by others (mode {mode:03o}); run: chmod 600 {path}");
                reader.problem(&format!("{key_name}_FILE"), sentence);
            }
            Some(Identity { certificate, key })
        }
        (None, None) => None,
        (Some(_), None) => {
            reader.problem(&format!("{key_name}_FILE"), "expected the key of the certificate that is set".to_owned());
            None
        }
        (None, Some(_)) => {
            reader.problem(
                &format!("{certificate_name}_FILE"),
                "expected the certificate of the key that is set".to_owned(),
            );
            None
        }
    }
}

fn keyholder(reader: &mut Reader) -> KeyholderSettings {
    let expected = "`local` or the https:// address of a keyholder";
    let place: String = reader.value("KEYHOLDER", expected, "local");
    let identity = identity(reader, "KEYHOLDER_CLIENT");
    let authority = reader.file("KEYHOLDER_CA", "the certificate authority of the keyholder");
    match place.as_str() {
        "local" => KeyholderSettings::Local,
        address if address.starts_with("https://") => {
            KeyholderSettings::Remote { address: address.to_owned(), identity, authority }
        }
        _ => {
            reader.problem("KEYHOLDER", format!("expected {expected}"));
            KeyholderSettings::Local
        }
    }
}

fn issuer(reader: &mut Reader) -> String {
    let expected = "the https:// address under which clients reach this service";
    let issuer: String = reader.value("ISSUER", expected, "https://localhost:8443");
    if !issuer.starts_with("https://") || issuer.contains(['?', '#', ' ']) || issuer.ends_with('/') {
        reader.problem("ISSUER", format!("expected {expected}, without a `/` at its end"));
    }
    issuer
}

fn log_filter(reader: &mut Reader) -> String {
    let expected = "a log level, or `target=level` directives joined by commas";
    let filter: String = reader.value("LOG", expected, "info");
    if !telemetry::is_filter(&filter) {
        reader.problem("LOG", format!("expected {expected}"));
    }
    filter
}

fn token_lifetime(reader: &mut Reader) -> TokenLifetime {
    let default = TokenLifetime::DEFAULT.as_seconds();
    let bounds = TokenLifetime::MIN.as_seconds()..=TokenLifetime::MAX.as_seconds();
    let seconds = reader.number("TOKEN_LIFETIME_S", "300 to 900 seconds", default, bounds);
    TokenLifetime::from_seconds(seconds).unwrap_or(TokenLifetime::DEFAULT)
}

fn fingerprints(reader: &mut Reader) -> Vec<Fingerprint> {
    let expected = "SHA-256 fingerprints of certificates, joined by commas";
    let Some(text) = reader.optional::<String>("KEYHOLDER_ADMITTED_EDGES", expected) else {
        return Vec::new();
    };
    let parsed: Result<Vec<Fingerprint>, _> = text.split(',').map(|part| part.trim().parse()).collect();
    parsed.unwrap_or_else(|_| {
        reader.problem("KEYHOLDER_ADMITTED_EDGES", format!("expected {expected}"));
        Vec::new()
    })
}

fn rate(reader: &mut Reader, name: &str, default: u32) -> Rate {
    let requests = reader.number(name, "requests a minute from 1 to 10000000", default.into(), 1..=10_000_000) as u32;
    Rate::per_minute(requests).unwrap_or(Rate::ONE)
}

/// The longest a template may lie unused is what BIPA, section 15(a), allows: three years.
fn retention(reader: &mut Reader) -> RetentionSchedule {
    const THREE_YEARS: u64 = 3 * 365;
    let ended_consents_of = ended_consents_of(reader);
    let mut days = |name: &str, expected: &'static str, default: u64, least: u64, most: u64| {
        let days = reader.number(&format!("RETENTION_{name}_DAYS"), expected, default, least..=most);
        time::Duration::days(days as i64)
    };
    RetentionSchedule {
        unused_templates: days("UNUSED_TEMPLATES", "1 to 1095 days", THREE_YEARS, 1, THREE_YEARS),
        templates_without_consent: days("TEMPLATES_WITHOUT_CONSENT", "0 to 1095 days", 30, 0, THREE_YEARS),
        ended_consents: days("ENDED_CONSENTS", "365 to 3650 days", THREE_YEARS, 365, 3_650),
        ended_consents_of,
        verifications: days("VERIFICATIONS", "1 to 3650 days", 365, 1, 3_650),
        // Rule 6 of India's DPDP Rules, 2025: logs for one year at least, and that may be a leap year.
        audit_events: days("AUDIT", "366 to 36500 days", THREE_YEARS, 366, 36_500),
        usage_days: days("USAGE", "31 to 3650 days", 400, 31, 3_650),
    }
}

fn ended_consents_of(reader: &mut Reader) -> BTreeMap<Purpose, time::Duration> {
    let name = "RETENTION_ENDED_CONSENTS_PURPOSES";
    let expected = "purposes, each once, with 365 to 3650 days such as newsletter=365,attendance=730";
    let text = reader.optional::<String>(name, expected);
    let mut times = BTreeMap::new();
    for part in text.iter().flat_map(|text| text.split(',')) {
        let read = purpose_with_days(part).filter(|(_, days)| (365..=3_650).contains(days));
        let is_new = read.is_some_and(|(purpose, days)| times.insert(purpose, time::Duration::days(days)).is_none());
        if !is_new {
            reader.problem(name, format!("expected {expected}, found `{part}`"));
        }
    }
    times
}

fn purpose_with_days(text: &str) -> Option<(Purpose, i64)> {
    let (purpose, days) = text.split_once('=')?;
    Some((purpose.trim().parse().ok()?, days.trim().parse().ok()?))
}

fn cors_origins(reader: &mut Reader, mode: Mode) -> Vec<WebOrigin> {
    let expected = "origins of web pages such as https://app.example, joined by commas";
    let Some(text) = reader.optional::<String>("CORS_ORIGINS", expected) else {
        return Vec::new();
    };
    let parsed: Result<Vec<WebOrigin>, _> = text.split(',').map(|part| part.trim().parse()).collect();
    let origins = parsed.unwrap_or_else(|error| {
        reader.problem("CORS_ORIGINS", format!("expected {expected}; {error}"));
        Vec::new()
    });
    if mode == Mode::Production && origins.iter().any(WebOrigin::is_plain) {
        reader.problem("CORS_ORIGINS", "a page without TLS is for developing, not for production".to_owned());
    }
    origins
}

fn budget(reader: &mut Reader, name: &str, default: u32) -> u32 {
    reader.number(name, "a number of openings a day from 1 to 1000000000", default.into(), 1..=1_000_000_000) as u32
}

fn seconds(reader: &mut Reader, name: &str, expected: &'static str, default: u64, least: u64, most: u64) -> Duration {
    Duration::from_secs(reader.number(name, expected, default, least..=most))
}
