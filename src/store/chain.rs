//! Rows that are chained by hashes: the keyholder's audit lines, and the ledger of erasures.

use sha2::{Digest, Sha256};

/// `SHA-256(previous ‖ len(part_1) ‖ part_1 ‖ ...)`, lengths as 8 bytes, big-endian: no part can run into the next.
pub(super) fn chained_hash<'a>(previous: &[u8], parts: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut hash = Sha256::new_with_prefix(previous);
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().to_vec()
}
