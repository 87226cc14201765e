//! Equality look-ups over sealed values: HMAC-SHA-256 under a key of its own.
//!
//! ```text
//! index = HMAC-SHA-256(key, len(tenant) ‖ tenant ‖ len(column) ‖ column ‖ len(value) ‖ value)      len: u64, big-endian
//! ```
//! Without the key nobody can try out references; within one tenant and column equal values do show as equal, which is
//! what an index is for. Across tenants and columns the same value gives unrelated indices.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::push_length_prefixed;
use crate::domain::id::TenantId;

pub struct BlindIndexKey(Zeroizing<[u8; 32]>);

/// The keyed hash of one value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlindIndex([u8; 32]);

impl BlindIndex {
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl BlindIndexKey {
    pub fn from_bytes(bytes: Zeroizing<[u8; 32]>) -> Self {
        Self(bytes)
    }

    pub fn index(&self, tenant: TenantId, column: &str, value: &str) -> BlindIndex {
        self.index_within(&tenant.to_string(), column, value)
    }

    /// For what has one meaning in the whole service. `*`, which is no tenant's id, stands in the tenant's place.
    pub fn index_across_tenants(&self, column: &str, value: &str) -> BlindIndex {
        self.index_within("*", column, value)
    }

    fn index_within(&self, tenant: &str, column: &str, value: &str) -> BlindIndex {
        let mut message = Zeroizing::new(Vec::new());
        for part in [tenant.as_bytes(), column.as_bytes(), value.as_bytes()] {
            push_length_prefixed(&mut message, part);
        }
        BlindIndex(mac(&self.0, &message))
    }
}

pub(super) fn mac(key: &[u8; 32], message: &[u8]) -> [u8; 32] {
    #[expect(clippy::expect_used, reason = "HMAC takes a key of any length")]
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with Python's `hmac` from the formula above.
    #[test]
    fn the_index_is_that_of_an_independent_implementation() {
        let key = BlindIndexKey::from_bytes(Zeroizing::new(std::array::from_fn(|i| i as u8)));
        let tenant = "ten_0191d0a0b0c07000800000000000000a".parse().unwrap();
        let index = key.index(tenant, "subjects.external_ref", "emp-0042");
        let expected = "63b090047b85df539f45e2b4cd03c1f96997cd6c5204b195a4fb6a90a795d04d";
        assert_eq!(hex::encode(index.as_bytes()), expected);
    }

    /// RFC 4231 test case 2.
    #[test]
    fn the_hash_is_hmac_sha_256() {
        let mut key = [0; 32];
        key[..4].copy_from_slice(b"Jefe");
        let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(hex::encode(mac(&key, b"what do ya want for nothing?")), expected);
    }
}
