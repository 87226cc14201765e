//! Makes keys: the operator's with `velum keys generate`, the embedded mode's by themselves on first start.

use std::{
    fmt,
    fs::File,
    path::{Path, PathBuf},
    str::FromStr,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::{BLIND_INDEX, KEKS, PEPPER, SecretsError, Signs, fhe, files, signing_keys};
use crate::{
    auth::jwt::SigningKey,
    fhe::keys,
    settings::{DEVELOPMENT_MARKER, Settings},
    vault::{KekId, keyring},
};

/// One kind of key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Jwt,
    Evidence,
    Kek,
    Pepper,
    BlindIndex,
    Fhe,
}

impl Kind {
    pub const ALL: [Self; 6] = [Self::Jwt, Self::Evidence, Self::Kek, Self::Pepper, Self::BlindIndex, Self::Fhe];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Jwt => "jwt",
            Self::Evidence => "evidence",
            Self::Kek => "kek",
            Self::Pepper => "pepper",
            Self::BlindIndex => "blind-index",
            Self::Fhe => "fhe",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a kind of key is jwt, evidence, kek, pepper, blind-index or fhe")]
pub struct InvalidKind;

impl FromStr for Kind {
    type Err = InvalidKind;

    fn from_str(text: &str) -> Result<Self, InvalidKind> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or(InvalidKind)
    }
}

/// A key that was made, and where it lies. The key itself is only there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    pub kind: Kind,
    pub path: PathBuf,
}

/// Makes one key of a kind; never in place of one that is there. A second key-encryption key gets a name of its own.
pub fn make(kind: Kind, secrets_dir: &Path, fhe_dir: &Path, now: OffsetDateTime) -> Result<Made, SecretsError> {
    let path = match kind {
        Kind::Jwt => signing_keys::path_of(Signs::Tokens, secrets_dir, now),
        Kind::Evidence => signing_keys::path_of(Signs::Evidence, secrets_dir, now),
        Kind::Pepper => secrets_dir.join(PEPPER),
        Kind::BlindIndex => secrets_dir.join(BLIND_INDEX),
        Kind::Kek => kek_path(secrets_dir, &fresh_kek_name(secrets_dir, now)),
        Kind::Fhe => fhe_dir.join(fhe::PUBLIC),
    };
    if kind != Kind::Kek
        && let Some(path) = existing(kind, secrets_dir, fhe_dir)
    {
        return Err(SecretsError::Exists { path });
    }
    match kind {
        Kind::Jwt | Kind::Evidence => files::write_private(&path, SigningKey::generate_pem().as_bytes())?,
        Kind::Fhe => fhe::write(fhe_dir, &keys::generate())?,
        Kind::Pepper | Kind::BlindIndex | Kind::Kek => files::write_private(&path, random_key().as_bytes())?,
    }
    Ok(Made { kind, path })
}

/// The file of a kind that is there already. One file of a key set counts for all three: the others may lie on other
/// machines, and a second set would make the first worthless.
pub fn existing(kind: Kind, secrets_dir: &Path, fhe_dir: &Path) -> Option<PathBuf> {
    let path = match kind {
        Kind::Jwt => return newest(Signs::Tokens, secrets_dir),
        Kind::Evidence => return newest(Signs::Evidence, secrets_dir),
        Kind::Pepper => secrets_dir.join(PEPPER),
        Kind::BlindIndex => secrets_dir.join(BLIND_INDEX),
        Kind::Kek => return keyring::key_encryption_key_files(secrets_dir).ok()?.pop(),
        Kind::Fhe => return fhe::FILES.map(|name| fhe_dir.join(name)).into_iter().find(|path| path.exists()),
    };
    path.exists().then_some(path)
}

fn newest(signs: Signs, secrets_dir: &Path) -> Option<PathBuf> {
    signing_keys::files(signs, secrets_dir).ok()?.pop().map(|(_, path)| path)
}

/// Where the key-encryption key of this name lies.
pub fn kek_file(secrets_dir: &Path, id: &KekId) -> PathBuf {
    kek_path(secrets_dir, id.as_str())
}

fn kek_path(secrets_dir: &Path, name: &str) -> PathBuf {
    secrets_dir.join(KEKS).join(format!("{name}.key"))
}

/// Removes the file of a key-encryption key that was retired. Safe to repeat.
pub fn remove_kek(secrets_dir: &Path, id: &KekId) -> Result<Option<PathBuf>, SecretsError> {
    let path = kek_file(secrets_dir, id);
    if !path.exists() {
        return Ok(None);
    }
    files::destroy(&path)?;
    Ok(Some(path))
}

/// Makes every key that is missing, for the embedded mode alone. Processes that start together wait for one another.
pub fn ensure_development(settings: &Settings, now: OffsetDateTime) -> Result<Vec<Made>, SecretsError> {
    let (secrets_dir, fhe_dir) = (&settings.secrets.dir, &settings.secrets.fhe_dir);
    files::create_private_folder(&settings.data_dir)?;
    let _lock = lock(&settings.data_dir)?;

    let missing: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| is_missing(*kind, settings)).collect();
    for kind in &missing {
        refuse_lost(*kind, settings)?;
    }
    let mut made = Vec::new();
    for kind in missing {
        mark(if kind == Kind::Fhe { fhe_dir } else { secrets_dir })?;
        made.push(make(kind, secrets_dir, fhe_dir, now)?);
    }
    Ok(made)
}

fn is_missing(kind: Kind, settings: &Settings) -> bool {
    let secrets = &settings.secrets;
    let given = match kind {
        Kind::Jwt => secrets.jwt_signing_key.is_some(),
        Kind::Pepper => secrets.client_secret_pepper.is_some(),
        Kind::BlindIndex => secrets.blind_index_key.is_some(),
        Kind::Evidence | Kind::Kek | Kind::Fhe => false,
    };
    !given && existing(kind, &secrets.dir, &secrets.fhe_dir).is_none()
}

/// A database without the keys that sealed it is a loss, not a first start: a fresh key would only hide it.
fn refuse_lost(kind: Kind, settings: &Settings) -> Result<(), SecretsError> {
    let (database, key) = match kind {
        // A fresh one loses nothing that is stored: what the lost one signed is with whoever holds the public half.
        Kind::Jwt | Kind::Evidence => return Ok(()),
        Kind::Pepper => (&settings.storage.database, settings.secrets.dir.join(PEPPER)),
        Kind::BlindIndex => (&settings.storage.database, settings.secrets.dir.join(BLIND_INDEX)),
        Kind::Kek => (&settings.storage.keystore, settings.secrets.dir.join(KEKS)),
        Kind::Fhe => (&settings.storage.database, settings.secrets.fhe_dir.join(fhe::PUBLIC)),
    };
    match database.sqlite_path() {
        Some(data) if data.exists() => Err(SecretsError::KeysLost { data, key }),
        _ => Ok(()),
    }
}

fn mark(folder: &Path) -> Result<(), SecretsError> {
    let text = "The keys in this folder made themselves on a first start. Production refuses them.\n";
    match files::write_private(&folder.join(DEVELOPMENT_MARKER), text.as_bytes()) {
        Err(SecretsError::Exists { .. }) => Ok(()),
        other => other,
    }
}

fn lock(data_dir: &Path) -> Result<File, SecretsError> {
    let path = data_dir.join(".secrets.lock");
    let locked = File::create(&path).and_then(|file| file.lock().map(|()| file));
    locked.map_err(|source| SecretsError::Unwritable { path, source })
}

/// Named by its day, so that names sort by age; a second one of the day is numbered.
pub fn fresh_kek_name(secrets_dir: &Path, now: OffsetDateTime) -> String {
    let day = now.date();
    let is_taken = |name: &String| kek_path(secrets_dir, name).exists();
    let first = day.to_string();
    if !is_taken(&first) {
        return first;
    }
    (2..).map(|number| format!("{day}-{number:02}")).find(|name| !is_taken(name)).unwrap_or(first)
}

/// 32 bytes from the system's random source, as one line of base64.
#[expect(clippy::expect_used, reason = "no safe way to go on without randomness")]
fn random_key() -> Zeroizing<String> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(bytes.as_mut_slice()).expect("the system's random source answers");
    let mut line = Zeroizing::new(String::with_capacity(64));
    BASE64_STANDARD.encode_string(bytes.as_slice(), &mut line);
    line.push('\n');
    line
}
