//! Each part of the settings, read from the environment: names, defaults and bounds.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    CacheSettings, ComputeSettings, DatabaseUrl, FaceSettings, KeyholderServerSettings, KeyholderSettings,
    LimitSettings, Mode, OpenDsrSettings, RedisUrl, SecretsSettings, ServerSettings, Settings, StorageSettings,
    reader::{self, Reader},
};
use crate::{
    auth::jwt::{TokenConfig, TokenLifetime},
    cache::{Rate, Rates},
    domain::{attempts::AttemptRule, consent::Purpose, retention::RetentionSchedule},
    flows::{ErasurePolicy, access_requests::AccessPolicy},
    http::cors::WebOrigin,
    keyholder::{Budgets, DEFAULT_BUDGETS},
    telemetry::{self, LogConfig},
    tls::{Fingerprint, Identity},
};

/// Every setting there is, in the order in which `config show` lists them.
pub fn all(reader: &mut Reader) -> Settings {
    let mode = reader.value("MODE", "`embedded` or `production`", "embedded");
    let data_dir: PathBuf = reader.value("DATA_DIR", "a folder", "data");
    Settings {
        mode,
        log: log(reader, mode),
        server: server(reader, mode),
        tokens: tokens(reader),
        secrets: secrets(reader, &data_dir),
        storage: storage(reader, &data_dir),
        cache: cache(reader),
        limits: limits(reader),
        erasure_policy: erasure_policy(reader),
        access_policy: access_policy(reader),
        opendsr: opendsr(reader),
        worker: reader.value("WORKER", "`embedded` or `separate`", "embedded"),
        retention: retention(reader),
        keyholder_server: keyholder_server(reader, &data_dir),
        face: face(reader),
        compute: compute(reader),
        keyholder: keyholder(reader),
        default_false_match_rate: reader.value("FALSE_MATCH_RATE", "1e-2, 1e-3 or 1e-4", "1e-4"),
        data_dir,
    }
}

fn log(reader: &mut Reader, mode: Mode) -> LogConfig {
    LogConfig {
        format: reader.value(
            "LOG_FORMAT",
            "`json` or `pretty`",
            if mode == Mode::Embedded { "pretty" } else { "json" },
        ),
        filter: log_filter(reader),
    }
}

fn server(reader: &mut Reader, mode: Mode) -> ServerSettings {
    let server = ServerSettings {
        listen: reader.value("LISTEN", "an address and port such as 127.0.0.1:8443", "127.0.0.1:8443"),
        listen_socket: reader.optional("LISTEN_SOCKET", "a path such as /run/velum/green.sock"),
        metrics_listen: reader.optional("METRICS_LISTEN", "an address and port of the inside, such as 127.0.0.1:9464"),
        cors_origins: cors_origins(reader, mode),
        tls: identity(reader, "TLS"),
        tls_authority: reader.file("TLS_CA", "the certificate authority of this server's certificate, for healthcheck"),
        workers: reader.number("HTTP_WORKERS", "a number of threads from 1 to 64", processors().min(64), 1..=64)
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
            reader.number("ADDRESS_KEY_HOURS", "1 to 168 hours", 24, 1..=168) as i64
        ),
    };
    if server.proxy_protocol && server.trusted_proxies.is_empty() {
        let sentence = "must be set where VELUM_PROXY_PROTOCOL is true: only these may open a connection then";
        reader.problem("TRUSTED_PROXIES", sentence.to_owned());
    }
    server
}

fn tokens(reader: &mut Reader) -> TokenConfig {
    TokenConfig {
        issuer: issuer(reader),
        audience: reader.value("AUDIENCE", "a name for whom access tokens are meant", "velum"),
        lifetime: token_lifetime(reader),
        leeway: TokenConfig::LEEWAY_DEFAULT,
    }
}

fn secrets(reader: &mut Reader, data_dir: &Path) -> SecretsSettings {
    let in_folder = |name: &str| data_dir.join(name).display().to_string();
    SecretsSettings {
        dir: reader.value("SECRETS_DIR", "the folder of the keys (see secrets/README.md)", &in_folder("secrets")),
        jwt_signing_key: reader.secret("JWT_SIGNING_KEY", "an RSA private key of at least 2048 bits as PKCS #8 PEM"),
        client_secret_pepper: reader.secret("CLIENT_SECRET_PEPPER", "32 random bytes in base64 or hex"),
        blind_index_key: reader.secret("BLIND_INDEX_KEY", "32 random bytes in base64 or hex"),
        kek_current: reader.optional("KEK_CURRENT", "the name of a key-encryption key in the secrets folder"),
        fhe_dir: reader.value("FHE_DIR", "the folder of public.key and evaluation.key", &in_folder("fhe")),
    }
}

fn storage(reader: &mut Reader, data_dir: &Path) -> StorageSettings {
    StorageSettings {
        database: database(reader, "DATABASE_URL", &data_dir.join("velum.db")),
        keystore: database(reader, "KEYSTORE_URL", &data_dir.join("keystore.db")),
        ledger: database(reader, "LEDGER_URL", &data_dir.join("ledger.db")),
        pool_size: reader.number("DATABASE_POOL_SIZE", "a number of connections from 1 to 200", 8, 1..=200) as usize,
    }
}

fn cache(reader: &mut Reader) -> CacheSettings {
    CacheSettings {
        redis: reader.redacted_optional("REDIS_URL", RedisUrl::EXPECTED),
        authority: reader.file("REDIS_CA", "the certificate authority of Redis"),
    }
}

fn limits(reader: &mut Reader) -> LimitSettings {
    LimitSettings {
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
    }
}

fn erasure_policy(reader: &mut Reader) -> ErasurePolicy {
    ErasurePolicy {
        regulation: reader.value("ERASURE_REGULATION", "gdpr, dpdp or ccpa", "gdpr"),
        dpdp_days: reader.number("ERASURE_DPDP_DAYS", "a number of days from 1 to 365", 30, 1..=365) as u16,
        on_withdrawal: reader.value("ERASE_ON_WITHDRAWAL", "`true` or `false`", "false"),
        keystore_backups_kept: time::Duration::days(reader.number(
            "KEYSTORE_BACKUP_DAYS",
            "a number of days from 0 to 90",
            7,
            0..=90,
        ) as i64),
    }
}

fn access_policy(reader: &mut Reader) -> AccessPolicy {
    AccessPolicy {
        package_kept: time::Duration::days(reader.number(
            "ACCESS_PACKAGE_DAYS",
            "a number of days from 1 to 30",
            7,
            1..=30,
        ) as i64),
    }
}

fn opendsr(reader: &mut Reader) -> OpenDsrSettings {
    OpenDsrSettings {
        certificate: reader.file("OPENDSR_CERTIFICATE", "a certificate in PEM form, issued for the evidence key"),
        callback_networks: reader
            .optional("CALLBACK_NETWORKS", "addresses and networks such as 10.1.0.0/16, joined by commas")
            .unwrap_or_default(),
        callback_authority: reader.file("CALLBACK_CA", "the certificate authority of those who get callbacks"),
    }
}

fn keyholder_server(reader: &mut Reader, data_dir: &Path) -> KeyholderServerSettings {
    KeyholderServerSettings {
        listen: reader.value("KEYHOLDER_LISTEN", "an address and port such as 127.0.0.1:8444", "127.0.0.1:8444"),
        identity: identity(reader, "KEYHOLDER"),
        edge_authority: reader.file("KEYHOLDER_EDGE_CA", "the certificate authority of the servers that may ask"),
        admitted_edges: fingerprints(reader),
        workers: reader.number("KEYHOLDER_WORKERS", "a number of threads from 1 to 64", processors().min(64), 1..=64)
            as usize,
        journal: database(reader, "KEYHOLDER_JOURNAL_URL", &data_dir.join("keyholder.db")),
        budgets: Budgets {
            per_subject: budget(reader, "KEYHOLDER_BUDGET_PER_SUBJECT", DEFAULT_BUDGETS.per_subject),
            per_tenant: budget(reader, "KEYHOLDER_BUDGET_PER_TENANT", DEFAULT_BUDGETS.per_tenant),
            per_day: budget(reader, "KEYHOLDER_BUDGET_PER_DAY", DEFAULT_BUDGETS.per_day),
        },
    }
}

fn face(reader: &mut Reader) -> FaceSettings {
    FaceSettings {
        models_dir: reader.value("MODELS_DIR", "the folder of manifest.toml and the model files", "models"),
        embedder: reader.optional("EMBEDDER", "the id of an embedder in the manifest"),
        onnxruntime: reader.value("ONNXRUNTIME", "the ONNX Runtime library", "runtime/libonnxruntime.so.1.31.1"),
    }
}

fn compute(reader: &mut Reader) -> ComputeSettings {
    let workers = reader.number("COMPUTE_WORKERS", "a number of threads from 1 to 256", processors().min(256), 1..=256);
    ComputeSettings {
        workers: workers as usize,
        queue: reader.number("COMPUTE_QUEUE", "a number of requests from 0 to 10000", workers * 8, 0..=10_000) as usize,
        upload_bytes: reader.number("UPLOAD_MEMORY_MB", "a number of megabytes from 32 to 65536", 256, 32..=65_536)
            as usize
            * 1_000_000,
    }
}

fn processors() -> u64 {
    std::thread::available_parallelism().map_or(1, usize::from) as u64
}

/// An SQLite file where nothing else is set.
fn database(reader: &mut Reader, name: &str, file: &Path) -> DatabaseUrl {
    reader.redacted(name, "sqlite:PATH or postgres://USER:PASSWORD@HOST/NAME", &DatabaseUrl::sqlite(file))
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
