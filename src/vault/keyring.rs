//! Keys from the secrets folder: `kek/<id>.key` for key-encryption keys, single files for the others.
//!
//! A key file holds 32 random bytes in base64 or hex, one line, readable by its owner alone. A file that others can read,
//! that is shorter or longer, or whose bytes were plainly not drawn at random stops the start with a sentence that names it.

use std::{
    collections::{BTreeSet, HashSet},
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{
    VaultError,
    envelope::{KekId, KeyEncryptionKey, KeyEncryptionKeys},
};

pub const KEY_BYTES: usize = 32;

/// Folder of the key-encryption keys.
const KEKS: &str = "kek";

/// A random key has 30 different bytes or so; fewer than this comes by chance less than once in 10^16.
const DISTINCT_BYTES_MIN: usize = 16;

/// The AES-256 key of NIST SP 800-38A, appendix F.
const AES_256_EXAMPLE: [u8; KEY_BYTES] = [
    0x60, 0x3d, 0xeb, 0x10, 0x15, 0xca, 0x71, 0xbe, 0x2b, 0x73, 0xae, 0xf0, 0x85, 0x7d, 0x77, 0x81, 0x1f, 0x35, 0x2c,
    0x07, 0x3b, 0x61, 0x08, 0xd7, 0x2d, 0x98, 0x10, 0xa3, 0x09, 0x14, 0xdf, 0xf4,
];

/// Whose SHA-256 looks random and is none.
const COMMON_WORDS: &[&str] = &[
    "", "1234", "12345678", "admin", "changeme", "default", "example", "key", "letmein", "pass", "password", "pepper",
    "postgres", "qwerty", "root", "salt", "secret", "test", "velum",
];

#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    #[error("cannot read key file {path}: {source}", path = .path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("key file {path} can be read by others (mode {mode:03o}); run: chmod 600 {path}", path = .path.display())]
    OpenToOthers { path: PathBuf, mode: u32 },
    #[error("key file {path} does not hold 32 bytes in base64 or hex", path = .path.display())]
    NotAKey { path: PathBuf },
    #[error("key file {path} holds a guessable key; make a random one, e.g. with: openssl rand -base64 32", path = .path.display())]
    Weak { path: PathBuf },
    #[error("key file {path} is not named <id>.key with an id of a-z, 0-9, '-' and '_'", path = .path.display())]
    BadName { path: PathBuf },
    #[error("no key-encryption key <id>.key in {folder}", folder = .folder.display())]
    NoKeys { folder: PathBuf },
    #[error("the current key-encryption key {id} has no file in {folder}", folder = .folder.display())]
    CurrentMissing { id: KekId, folder: PathBuf },
    #[error(transparent)]
    Vault(#[from] VaultError),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyTextError {
    #[error("expected 32 bytes in base64 or hex")]
    NotAKey,
    #[error("the key is guessable; make a random one, e.g. with: openssl rand -base64 32")]
    Weak,
}

/// How often at most the folder is looked into for a key that is missing.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The key-encryption keys in use, and the folder they come from: a key that is put there serves without a restart.
pub struct Keyring {
    /// The secrets folder and the key that wraps, if one is named. `None`: these keys and no others.
    source: Option<(PathBuf, Option<KekId>)>,
    keys: RwLock<Arc<KeyEncryptionKeys>>,
    retired: Mutex<BTreeSet<KekId>>,
    looked_at: Mutex<Option<Instant>>,
}

impl From<KeyEncryptionKeys> for Keyring {
    fn from(keys: KeyEncryptionKeys) -> Self {
        let keys = RwLock::new(Arc::new(keys));
        Self { source: None, keys, retired: Mutex::default(), looked_at: Mutex::default() }
    }
}

impl Keyring {
    pub fn read(secrets: &Path, current: Option<&KekId>) -> Result<Self, KeyringError> {
        let keys = read_key_encryption_keys(secrets, current)?;
        Ok(Self { source: Some((secrets.to_owned(), current.cloned())), ..keys.into() })
    }

    pub fn keys(&self) -> Arc<KeyEncryptionKeys> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes what lies in the folder now; from here on refuses the keys of these names. What cannot be read, or wraps by a
    /// retired key, leaves the keys in use as they are.
    pub fn refresh(&self, retired: BTreeSet<KekId>) -> Result<(), KeyringError> {
        retired.clone_into(&mut self.retired.lock().unwrap_or_else(PoisonError::into_inner));
        self.read_again()
    }

    /// Looks for a key that is not known: it may have been made a moment ago, by another process.
    pub fn look_for(&self, kek: &str) -> Option<Arc<KeyEncryptionKeys>> {
        {
            let mut looked_at = self.looked_at.lock().unwrap_or_else(PoisonError::into_inner);
            if looked_at.is_some_and(|looked_at| looked_at.elapsed() < LOOK_INTERVAL) && !self.knows(kek) {
                return None;
            }
            *looked_at = Some(Instant::now());
        }
        self.read_again().ok()?;
        self.knows(kek).then(|| self.keys())
    }

    fn knows(&self, kek: &str) -> bool {
        self.keys().ids().any(|id| id.as_str() == kek)
    }

    fn read_again(&self) -> Result<(), KeyringError> {
        let Some((secrets, current)) = &self.source else { return Ok(()) };
        let retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let fresh = read_key_encryption_keys(secrets, current.as_ref())?.refusing(retired)?;
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(fresh);
        Ok(())
    }
}

/// Reads every `<secrets>/kek/<id>.key`. The current key is the one named, else the last by name.
pub fn read_key_encryption_keys(secrets: &Path, current: Option<&KekId>) -> Result<KeyEncryptionKeys, KeyringError> {
    let mut keys = Vec::new();
    for path in key_encryption_key_files(secrets)? {
        keys.push((kek_id(&path)?, KeyEncryptionKey::from_bytes(read_key(&path)?)));
    }
    let folder = secrets.join(KEKS);
    let newest = keys.iter().map(|(id, _)| id).max().ok_or_else(|| KeyringError::NoKeys { folder: folder.clone() })?;
    let current = current.unwrap_or(newest).clone();
    KeyEncryptionKeys::new(current.clone(), keys).ok_or(KeyringError::CurrentMissing { id: current, folder })
}

/// The files of `<secrets>/kek`, by name.
pub fn key_encryption_key_files(secrets: &Path) -> Result<Vec<PathBuf>, KeyringError> {
    let folder = secrets.join(KEKS);
    let unreadable = |source| KeyringError::Unreadable { path: folder.clone(), source };
    let entries: Result<Vec<_>, _> = fs::read_dir(&folder).map_err(unreadable)?.collect();
    let mut paths: Vec<_> = entries.map_err(unreadable)?.into_iter().map(|entry| entry.path()).collect();
    // Editors, orchestrators and a crash in the middle of writing leave dot files beside secrets; they are no keys.
    paths.retain(|path| !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")));
    paths.sort();
    Ok(paths)
}

/// Reads one key file, checking its mode, its length and that it is no placeholder.
pub fn read_key(path: &Path) -> Result<Zeroizing<[u8; KEY_BYTES]>, KeyringError> {
    let unreadable = |source| KeyringError::Unreadable { path: path.to_owned(), source };
    let mode = fs::metadata(path).map_err(unreadable)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyringError::OpenToOthers { path: path.to_owned(), mode });
    }
    let text = Zeroizing::new(fs::read(path).map_err(unreadable)?);
    key_from_text(&text).map_err(|error| match error {
        KeyTextError::NotAKey => KeyringError::NotAKey { path: path.to_owned() },
        KeyTextError::Weak => KeyringError::Weak { path: path.to_owned() },
    })
}

/// The key that a file or a setting holds as text.
pub fn key_from_text(text: &[u8]) -> Result<Zeroizing<[u8; KEY_BYTES]>, KeyTextError> {
    let key = decode(text.trim_ascii()).ok_or(KeyTextError::NotAKey)?;
    if is_weak(&key) { Err(KeyTextError::Weak) } else { Ok(key) }
}

fn kek_id(path: &Path) -> Result<KekId, KeyringError> {
    let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".key"));
    name.and_then(|name| name.parse().ok()).ok_or_else(|| KeyringError::BadName { path: path.to_owned() })
}

/// 64 characters are hex, 44 are base64; the lengths do not overlap, so no text can mean two keys.
fn decode(text: &[u8]) -> Option<Zeroizing<[u8; KEY_BYTES]>> {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    if text.len() == 2 * KEY_BYTES {
        hex::decode_to_slice(text, &mut *key).ok()?;
    } else {
        let decoded = Zeroizing::new(BASE64_STANDARD.decode(text).ok()?);
        *key = decoded.as_slice().try_into().ok()?;
    }
    Some(key)
}

/// Not a measure of entropy: it catches placeholders, pass phrases, counters and what others have published.
fn is_weak(key: &[u8; KEY_BYTES]) -> bool {
    let few_values = key.iter().collect::<HashSet<_>>().len() < DISTINCT_BYTES_MIN;
    let readable_text = str::from_utf8(key).is_ok_and(|text| !text.contains(|c: char| c.is_control() && c != '\n'));
    let step = key[1].wrapping_sub(key[0]);
    let counter = key.windows(2).all(|pair| pair[1].wrapping_sub(pair[0]) == step);
    let (first_half, second_half) = key.split_at(KEY_BYTES / 2);
    few_values || readable_text || counter || first_half == second_half || is_published(key)
}

/// In every list of test vectors, or a hash that anybody would try.
fn is_published(key: &[u8; KEY_BYTES]) -> bool {
    let is_hash_of = |word: &&str| Sha256::digest(word.as_bytes()).as_slice() == key;
    *key == AES_256_EXAMPLE || COMMON_WORDS.iter().any(is_hash_of)
}
