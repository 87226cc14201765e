//! What production refuses: everything that makes itself, everything that is convenient and unsafe.
//!
//! Three ways around are left open on purpose, each under its own name, for installations that know what they do:
//! `VELUM_ALLOW_LOCAL_KEYHOLDER`, `VELUM_ALLOW_SQLITE` and `VELUM_ALLOW_PRIVATE_CALLBACKS`.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use super::{DatabaseUrl, KeyholderSettings, Mode, Role, SecretText, Settings, reader::Reader};
use crate::tls::{Identity, development};

/// Lies in every folder whose keys made themselves; production refuses such a folder wherever it was copied to.
pub const DEVELOPMENT_MARKER: &str = "MADE_FOR_DEVELOPMENT";

/// In the folder of the encryption's keys: opens decisions.
pub const SECRET_KEY_FILE: &str = "secret.key";
/// Where the secret key before lies, while keys are changed.
pub const RETIRING_KEY_FILE: &str = "retiring.key";

/// Shortest password of a database, in characters.
const PASSWORD_LENGTH_MIN: usize = 16;
/// Fewest different characters in it. Sixteen random hexadecimal digits have fewer than six once in ten thousand.
const PASSWORD_LETTERS_MIN: usize = 6;

pub fn check(settings: &Settings, role: Role, reader: &mut Reader) {
    let local_keyholder_allowed = reader.value("ALLOW_LOCAL_KEYHOLDER", "`true` or `false`", "false");
    let sqlite_allowed = reader.value("ALLOW_SQLITE", "`true` or `false`", "false");
    let private_callbacks_allowed = reader.value("ALLOW_PRIVATE_CALLBACKS", "`true` or `false`", "false");
    one_purpose_each(settings, reader);
    if settings.mode == Mode::Embedded {
        return;
    }
    callbacks(settings, private_callbacks_allowed, reader);
    match role {
        Role::Serve => {
            identity_given(reader, "TLS");
            not_self_made(certificate(&settings.server.tls), "TLS_CERTIFICATE_FILE", reader);
            edge(settings, sqlite_allowed, local_keyholder_allowed, reader);
        }
        Role::Worker => edge(settings, sqlite_allowed, local_keyholder_allowed, reader),
        Role::Keyholder => {
            identity_given(reader, "KEYHOLDER");
            not_self_made(certificate(&settings.keyholder_server.identity), "KEYHOLDER_CERTIFICATE_FILE", reader);
            must_be_set(reader, "KEYHOLDER_EDGE_CA", "KEYHOLDER_EDGE_CA_FILE");
            let authority = settings.keyholder_server.edge_authority.as_deref();
            not_self_made(authority, "KEYHOLDER_EDGE_CA_FILE", reader);
            folder(settings, &settings.secrets.fhe_dir, "FHE_DIR", reader);
            // One process alone writes the journal, so SQLite serves it well; but where it lies is nobody's guess.
            database(&settings.keyholder_server.journal, "KEYHOLDER_JOURNAL_URL", true, reader);
        }
        Role::Tool => {}
    }
}

/// What a server and its worker have in common.
fn edge(settings: &Settings, sqlite_allowed: bool, local_keyholder_allowed: bool, reader: &mut Reader) {
    issuer(settings, reader);
    folder(settings, &settings.secrets.dir, "SECRETS_DIR", reader);
    folder(settings, &settings.secrets.fhe_dir, "FHE_DIR", reader);
    database(&settings.storage.database, "DATABASE_URL", sqlite_allowed, reader);
    database(&settings.storage.keystore, "KEYSTORE_URL", sqlite_allowed, reader);
    database(&settings.storage.ledger, "LEDGER_URL", sqlite_allowed, reader);
    keyholder(settings, local_keyholder_allowed, reader);
    redis(settings, reader);
}

/// In every mode: a key store inside the main database would be in its backups, and a journal beside it within reach of the
/// server that it meters.
fn one_purpose_each(settings: &Settings, reader: &mut Reader) {
    let (database, keystore) = (&settings.storage.database, &settings.storage.keystore);
    let journal = &settings.keyholder_server.journal;
    if keystore.location() == database.location() {
        reader.problem("KEYSTORE_URL", "expected another database than VELUM_DATABASE_URL".to_owned());
    }
    let ledger = &settings.storage.ledger;
    if [database, keystore].iter().any(|other| other.location() == ledger.location()) {
        reader.problem(
            "LEDGER_URL",
            "expected another database than the others: it must outlive a restore of them".to_owned(),
        );
    }
    if [database, keystore, ledger].iter().any(|other| other.location() == journal.location()) {
        reader.problem("KEYHOLDER_JOURNAL_URL", "expected a database of its own".to_owned());
    }
    if settings.mode == Mode::Production {
        one_secret_each(settings, reader);
    }
}

/// What opens one thing must not open another.
fn one_secret_each(settings: &Settings, reader: &mut Reader) {
    let (storage, secrets) = (&settings.storage, &settings.secrets);
    let text = |text: &str| Zeroizing::new(text.trim().to_owned());
    let key = |given: &Option<SecretText>| given.as_ref().map(|given| text(given.expose_text()));
    let password = |url: &DatabaseUrl| url.expose_password().map(text);
    let given = [
        ("CLIENT_SECRET_PEPPER", key(&secrets.client_secret_pepper)),
        ("BLIND_INDEX_KEY", key(&secrets.blind_index_key)),
        ("DATABASE_URL", password(&storage.database)),
        ("KEYSTORE_URL", password(&storage.keystore)),
        ("LEDGER_URL", password(&storage.ledger)),
        ("KEYHOLDER_JOURNAL_URL", password(&settings.keyholder_server.journal)),
        ("REDIS_URL", settings.cache.redis.as_ref().and_then(|url| url.expose_password()).map(text)),
    ];
    for (position, (name, secret)) in given.iter().enumerate() {
        let earlier = given[..position].iter().find(|(_, other)| other.is_some() && other == secret);
        if let Some((other, _)) = earlier {
            reader.problem(name, format!("its secret is the one of VELUM_{other}; give it its own"));
        }
    }
}

/// Whoever may pass requests on names the addresses that are called.
fn callbacks(settings: &Settings, private_allowed: bool, reader: &mut Reader) {
    if !settings.opendsr.callback_networks.is_empty() && !private_allowed {
        let sentence = "whoever passes requests on could make this server call there; set \
                        VELUM_ALLOW_PRIVATE_CALLBACKS=true to accept that";
        reader.problem("CALLBACK_NETWORKS", sentence.to_owned());
    }
}

fn identity_given(reader: &mut Reader, name: &str) {
    for part in ["CERTIFICATE", "KEY"] {
        must_be_set(reader, &format!("{name}_{part}"), &format!("{name}_{part}_FILE"));
    }
}

fn certificate(identity: &Option<Identity>) -> Option<&Path> {
    identity.as_ref().map(|identity| identity.certificate.as_path())
}

/// The key of a self-made authority lies in some data folder: whoever reads it there issues certificates.
fn not_self_made(certificate: Option<&Path>, name: &str, reader: &mut Reader) {
    // A file that holds no certificate is the business of `tls`, which says so at the start.
    if certificate.is_some_and(|certificate| development::is_self_made(certificate).unwrap_or(false)) {
        reader.problem(name, "this certificate made itself for development; have a real one issued".to_owned());
    }
}

fn must_be_set(reader: &mut Reader, name: &str, shown: &str) {
    if !reader.is_set(name) {
        reader.problem(shown, "must be set in production".to_owned());
    }
}

fn issuer(settings: &Settings, reader: &mut Reader) {
    let host = settings.tokens.issuer.strip_prefix("https://").and_then(|rest| rest.split(['/', ':']).next());
    let local =
        host.is_none_or(|host| host.is_empty() || host.eq_ignore_ascii_case("localhost") || host.starts_with("127."));
    if !reader.is_set("ISSUER") || local {
        let sentence = "must be set in production, to the public https:// address of this service";
        reader.problem("ISSUER", sentence.to_owned());
    }
}

fn folder(settings: &Settings, folder: &Path, name: &str, reader: &mut Reader) {
    if !reader.is_set(name) {
        let sentence = "must be set in production, to a folder that `velum keys generate` filled".to_owned();
        return reader.problem(name, sentence);
    }
    let sentence = if !folder.is_dir() {
        format!("expected a folder; {} is none", folder.display())
    } else if folder.join(DEVELOPMENT_MARKER).exists() {
        format!(
            "the keys in {} made themselves for development; make real ones with `velum keys generate`",
            folder.display()
        )
    } else if real(folder).starts_with(real(&settings.data_dir)) {
        format!("{} lies inside the data folder, and so in its backups; keep keys elsewhere", folder.display())
    } else {
        return;
    };
    reader.problem(name, sentence);
}

fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

fn database(url: &DatabaseUrl, name: &str, sqlite_allowed: bool, reader: &mut Reader) {
    if !reader.is_set(name) {
        return reader.problem(name, "must be set in production".to_owned());
    }
    if url.is_sqlite() && !sqlite_allowed {
        let sentence = "SQLite serves one process; use PostgreSQL, or set VELUM_ALLOW_SQLITE=true if that is enough";
        reader.problem(name, sentence.to_owned());
    }
    password(url.expose_password(), name, reader);
}

fn redis(settings: &Settings, reader: &mut Reader) {
    let Some(url) = &settings.cache.redis else { return };
    if !url.is_private() {
        let sentence = "everybody on the way can read and change what is said to Redis; use rediss:// (TLS)";
        reader.problem("REDIS_URL", sentence.to_owned());
    }
    if url.is_remote() && url.expose_password().is_none() {
        let sentence = "has no password: whoever reaches that Redis could end tokens and lift rates; give its user one";
        reader.problem("REDIS_URL", sentence.to_owned());
    }
    password(url.expose_password(), "REDIS_URL", reader);
}

fn password(password: Option<&str>, name: &str, reader: &mut Reader) {
    if password.is_some_and(is_guessable) {
        let sentence = format!(
            "its password has fewer than {PASSWORD_LENGTH_MIN} characters beside common words, or repeats few of them; make \
             a random one"
        );
        reader.problem(name, sentence);
    }
}

/// What everybody tries first does not count towards the length.
fn is_guessable(password: &str) -> bool {
    const COMMON: [&str; 8] = ["password", "changeme", "postgres", "secret", "letmein", "qwerty", "admin", "velum"];
    let rest = COMMON
        .iter()
        .fold(Zeroizing::new(password.to_lowercase()), |rest, word| Zeroizing::new(rest.replace(word, "")));
    rest.chars().count() < PASSWORD_LENGTH_MIN || rest.chars().collect::<HashSet<_>>().len() < PASSWORD_LETTERS_MIN
}

fn keyholder(settings: &Settings, local_allowed: bool, reader: &mut Reader) {
    match &settings.keyholder {
        KeyholderSettings::Local if !local_allowed => reader.problem(
            "KEYHOLDER",
            "a server that holds its own secret key can open every template; set the https:// address of a separate \
             `velum keyholder`, or VELUM_ALLOW_LOCAL_KEYHOLDER=true to accept that"
                .to_owned(),
        ),
        KeyholderSettings::Local => {}
        KeyholderSettings::Remote { identity, authority, .. } => {
            identity_given(reader, "KEYHOLDER_CLIENT");
            not_self_made(certificate(identity), "KEYHOLDER_CLIENT_CERTIFICATE_FILE", reader);
            must_be_set(reader, "KEYHOLDER_CA", "KEYHOLDER_CA_FILE");
            not_self_made(authority.as_deref(), "KEYHOLDER_CA_FILE", reader);
            let is_here = |name: &&str| settings.secrets.fhe_dir.join(name).exists();
            if let Some(name) = [SECRET_KEY_FILE, RETIRING_KEY_FILE].into_iter().find(is_here) {
                let path = settings.secrets.fhe_dir.display();
                let sentence = format!("{path} holds {name}, which belongs to the keyholder alone; move it there");
                reader.problem("FHE_DIR", sentence);
            }
        }
    }
}
