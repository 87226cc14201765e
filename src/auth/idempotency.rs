//! Keyed hashes of what callers send with an `Idempotency-Key`: what is stored of a call, so that it is known again.

use sha2::{Digest, Sha256};

use super::client_secret::Pepper;
use crate::domain::id::TenantId;

impl Pepper {
    /// Names the record of a call. `operation` holds no 0x00.
    pub fn idempotency_record(&self, tenant: TenantId, operation: &str, key: &str) -> [u8; 32] {
        let parts = [tenant.to_string(), operation.to_owned(), key.to_owned()];
        self.keyed_hash(b"velum idempotency record v1", &parts.each_ref().map(|part| part.as_bytes()))
    }

    /// Tells one request from another. Each part is hashed by itself first, so that none can run into the next.
    pub fn idempotency_fingerprint<'a>(&self, parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
        let digests: Vec<u8> = parts.into_iter().flat_map(Sha256::digest).collect();
        self.keyed_hash(b"velum idempotency fingerprint v1", &[&digests])
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    #[test]
    fn parts_do_not_run_into_each_other() {
        let pepper = Pepper::new(Zeroizing::new([7; 32]));
        let of = |parts: &[&str]| pepper.idempotency_fingerprint(parts.iter().map(|part| part.as_bytes()));
        assert_ne!(of(&["ab", "c"]), of(&["a", "bc"]));
        assert_ne!(of(&["ab"]), of(&["ab", ""]));
        assert_eq!(of(&["ab", "c"]), of(&["ab", "c"]));
        let (one, other) = (TenantId::generate(), TenantId::generate());
        assert_ne!(pepper.idempotency_record(one, "POST /a", "k"), pepper.idempotency_record(other, "POST /a", "k"));
        assert_ne!(pepper.idempotency_record(one, "POST /a", "k"), pepper.idempotency_record(one, "POST /b", "k"));
    }
}
