//! What is sealed at rest, and under which key.
//!
//! - Every field that says something about a person (external reference, template, decision) is sealed under that person's
//!   own *data key* (`field`), bound to its table, row and column: moved elsewhere it does not open.
//! - Data keys rest wrapped by a *key-encryption key* (`envelope`), in a key store that no database backup contains.
//!   Key-encryption keys come from files (`keyring`): one is current and wraps, every listed one unwraps.
//! - Look-ups by external reference go through a keyed hash (`blind_index`) with a key of its own.
//! - Addresses of clients are hashed under a key that lives for one period (`address`), wrapped in the same way meanwhile.
//!
//! A stolen dump of the main database shows ids, times, model names and equal-length noise; with the key store beside it,
//! the same, as long as the key-encryption keys were not taken too. Destroying a person's data key makes every sealed
//! field of that person unreadable, in old backups as well.
//! Not hidden: how many rows there are, when they were made, and how long each sealed value is.

pub mod address;
pub mod blind_index;
pub mod envelope;
pub mod field;
pub mod keyring;
pub mod package;

pub use address::AddressKey;
pub use blind_index::{BlindIndex, BlindIndexKey};
pub use envelope::{DataKey, KekId, KeyEncryptionKeys, WrappedKey};
pub use field::Place;
pub use keyring::{Keyring, KeyringError};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// Too short, or cut: nothing that `seal` could have written.
    #[error("sealed bytes are incomplete")]
    Malformed,
    #[error("sealed bytes have layout version {0}, which this program does not know")]
    UnknownVersion(u8),
    /// The key-encryption key was retired too early, or its file was lost.
    #[error("data key is wrapped by key-encryption key {0:?}, which is not in the keyring")]
    UnknownKey(String),
    /// Everything that it wrapped was wrapped anew, and it was put out of use.
    #[error("key-encryption key {0:?} was retired; it wraps and unwraps nothing any more")]
    RetiredKey(String),
    /// Altered, moved to another place, or sealed under another key; these cannot be told apart, by design.
    #[error("sealed bytes do not open here: altered, moved, or sealed under another key")]
    NotAuthentic,
    #[error("the operating system gave no randomness")]
    NoRandomness,
    #[error("a package could not be encrypted")]
    NotLocked,
}

impl VaultError {
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed => "sealed_malformed",
            Self::UnknownVersion(_) => "sealed_unknown_version",
            Self::UnknownKey(_) => "key_encryption_key_unknown",
            Self::RetiredKey(_) => "key_encryption_key_retired",
            Self::NotAuthentic => "sealed_not_authentic",
            Self::NoRandomness => "no_randomness",
            Self::NotLocked => "package_not_locked",
        }
    }
}

/// `part`, preceded by its length: what keeps ("ab", "c") and ("a", "bc") apart.
fn push_length_prefixed(bytes: &mut Vec<u8>, part: &[u8]) {
    bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
    bytes.extend_from_slice(part);
}

fn random<const N: usize>() -> Result<[u8; N], VaultError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| VaultError::NoRandomness)?;
    Ok(bytes)
}
