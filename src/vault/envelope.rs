//! Envelope keys: each person's data key, and the key that hashes addresses, wrapped by a key-encryption key that has a name.
//!
//! ```text
//! wrapped key      version (1 byte, = 1) ‖ nonce (12) ‖ ciphertext (32) ‖ tag (16), as in `field`, beside its key id
//! associated data  as in `field`, with table "data_keys", row "<key id>/<tenant>/<subject>", column "wrapped";
//!                  of an address key with table "address_keys", row "<key id>/<starts_at>"
//! ```
//! All of that is bound in, so that a wrapped key cannot be passed off as another subject's, another period's, one of the
//! other kind or another key's.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use zeroize::Zeroizing;

use super::{AddressKey, Place, VaultError, field, random};
use crate::domain::id::{SubjectId, TenantId};

/// One person's key, and while it is exchanged the next one as well: that seals, and both open. It cannot be printed, cloned
/// or serialised; it is wiped when dropped.
pub struct DataKey {
    key: Zeroizing<[u8; field::KEY_BYTES]>,
    next: Option<Zeroizing<[u8; field::KEY_BYTES]>>,
}

impl DataKey {
    pub fn generate() -> Result<Self, VaultError> {
        Ok(Self { key: Zeroizing::new(random()?), next: None })
    }

    /// This key while it is exchanged for `next`.
    pub fn followed_by(self, next: Option<DataKey>) -> Self {
        Self { next: next.map(|next| next.key), ..self }
    }

    pub fn seal(&self, place: &Place<'_>, plaintext: &[u8]) -> Result<Vec<u8>, VaultError> {
        field::seal(self.next.as_ref().unwrap_or(&self.key), place, plaintext)
    }

    pub fn open(&self, place: &Place<'_>, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        match (field::open(&self.key, place, sealed), &self.next) {
            (Err(VaultError::NotAuthentic), Some(next)) => field::open(next, place, sealed),
            (outcome, _) => outcome,
        }
    }
}

/// Name of a key-encryption key: 1 to 64 characters of a-z, 0-9, `-` and `_`. Names sort by age (e.g. `2026-11-20`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KekId(String);

impl KekId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KekId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the name of a key-encryption key is 1 to 64 characters of a-z, 0-9, '-' and '_'")]
pub struct InvalidKekId;

impl FromStr for KekId {
    type Err = InvalidKekId;

    fn from_str(text: &str) -> Result<Self, InvalidKekId> {
        let plain =
            text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte));
        if plain && (1..=64).contains(&text.len()) { Ok(Self(text.to_owned())) } else { Err(InvalidKekId) }
    }
}

/// A key that wraps data keys. Made by `keyring` only, from checked bytes.
pub struct KeyEncryptionKey(Zeroizing<[u8; field::KEY_BYTES]>);

impl KeyEncryptionKey {
    pub fn from_bytes(bytes: Zeroizing<[u8; field::KEY_BYTES]>) -> Self {
        Self(bytes)
    }
}

/// A data key as it rests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrappedKey {
    pub kek: String,
    pub bytes: Vec<u8>,
}

/// Every key-encryption key the program was given: the current one wraps, each of them unwraps.
pub struct KeyEncryptionKeys {
    current: KekId,
    by_id: BTreeMap<KekId, KeyEncryptionKey>,
    /// Names of keys that are refused, whether their files are there or not.
    retired: BTreeSet<KekId>,
}

impl KeyEncryptionKeys {
    /// `None` when `current` is not among `keys`.
    pub fn new(current: KekId, keys: impl IntoIterator<Item = (KekId, KeyEncryptionKey)>) -> Option<Self> {
        let by_id: BTreeMap<_, _> = keys.into_iter().collect();
        by_id.contains_key(&current).then_some(Self { current, by_id, retired: BTreeSet::new() })
    }

    /// The same without those that were retired. `RetiredKey` when the current one was.
    pub fn refusing(mut self, retired: BTreeSet<KekId>) -> Result<Self, VaultError> {
        if retired.contains(&self.current) {
            return Err(VaultError::RetiredKey(self.current.0));
        }
        self.by_id.retain(|id, _| !retired.contains(id));
        self.retired = retired;
        Ok(self)
    }

    /// The key that wraps new keys.
    pub fn current(&self) -> &KekId {
        &self.current
    }

    pub fn ids(&self) -> impl Iterator<Item = &KekId> {
        self.by_id.keys()
    }

    pub fn wrap(&self, key: &DataKey, tenant: TenantId, subject: SubjectId) -> Result<WrappedKey, VaultError> {
        self.seal(&key.key, DATA_KEYS, &format!("{tenant}/{subject}"))
    }

    pub fn unwrap(&self, wrapped: &WrappedKey, tenant: TenantId, subject: SubjectId) -> Result<DataKey, VaultError> {
        self.open(wrapped, DATA_KEYS, &format!("{tenant}/{subject}")).map(|key| DataKey { key, next: None })
    }

    /// `starts_at` is the first moment of the key's period, in microseconds since 1970-01-01 UTC.
    pub fn wrap_address_key(&self, key: &AddressKey, starts_at: i64) -> Result<WrappedKey, VaultError> {
        self.seal(&key.0, ADDRESS_KEYS, &starts_at.to_string())
    }

    pub fn unwrap_address_key(&self, wrapped: &WrappedKey, starts_at: i64) -> Result<AddressKey, VaultError> {
        self.open(wrapped, ADDRESS_KEYS, &starts_at.to_string()).map(AddressKey)
    }

    fn seal(&self, key: &[u8; field::KEY_BYTES], table: &str, owner: &str) -> Result<WrappedKey, VaultError> {
        let kek = self.current.as_str().to_owned();
        let row = format!("{kek}/{owner}");
        let place = Place { table, row: &row, column: "wrapped" };
        let bytes = field::seal(&self.by_id[&self.current].0, &place, key)?;
        Ok(WrappedKey { kek, bytes })
    }

    fn open(
        &self,
        wrapped: &WrappedKey,
        table: &str,
        owner: &str,
    ) -> Result<Zeroizing<[u8; field::KEY_BYTES]>, VaultError> {
        let kek = KekId(wrapped.kek.clone());
        if self.retired.contains(&kek) {
            return Err(VaultError::RetiredKey(kek.0));
        }
        let key = self.by_id.get(&kek).ok_or_else(|| VaultError::UnknownKey(wrapped.kek.clone()))?;
        let row = format!("{kek}/{owner}");
        let bytes = field::open(&key.0, &Place { table, row: &row, column: "wrapped" }, &wrapped.bytes)?;
        let bytes: &[u8; field::KEY_BYTES] = bytes.as_slice().try_into().map_err(|_| VaultError::Malformed)?;
        Ok(Zeroizing::new(*bytes))
    }
}

const DATA_KEYS: &str = "data_keys";
const ADDRESS_KEYS: &str = "address_keys";
