//! The end of a log: all that is needed to add to it, and to say what it is.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use super::{
    Hash,
    entry::{Entry, stamp},
    tree::Tree,
};
use crate::domain::id::TenantId;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    tenant: TenantId,
    hash: Hash,
    tree: Tree,
}

/// Size, hash and peaks that cannot be the end of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is not the end of an audit log")]
pub struct InvalidChain;

impl Chain {
    /// A log without entries.
    pub fn empty(tenant: TenantId) -> Self {
        let hash = Sha256::new_with_prefix("velum audit v1").chain_update(tenant.to_string()).finalize();
        Self { tenant, hash: hash.into(), tree: Tree::default() }
    }

    /// From what was kept of it.
    pub fn resume(tenant: TenantId, size: u64, hash: &[u8], peaks: &[u8]) -> Result<Self, InvalidChain> {
        if size == 0 {
            return Ok(Self::empty(tenant));
        }
        let hash = hash.try_into().map_err(|_| InvalidChain)?;
        Ok(Self { tenant, hash, tree: Tree::from_bytes(size, peaks).ok_or(InvalidChain)? })
    }

    /// Entries in the log.
    pub fn size(&self) -> u64 {
        self.tree.size()
    }

    pub fn hash(&self) -> &Hash {
        &self.hash
    }

    pub fn peaks_to_bytes(&self) -> Vec<u8> {
        self.tree.peaks_to_bytes()
    }

    pub fn push(&mut self, entry: &Entry) {
        self.hash = Sha256::new_with_prefix(self.hash).chain_update(entry.to_json()).finalize().into();
        self.tree.push(&self.hash);
    }

    pub fn checkpoint(&self, at: OffsetDateTime) -> Checkpoint {
        Checkpoint {
            tenant: self.tenant.to_string(),
            size: self.size(),
            hash: hex::encode(self.hash),
            root: hex::encode(self.tree.root()),
            at: stamp(at),
        }
    }

    /// Whether `checkpoint` was made of this very log, at this size.
    pub fn is_at(&self, checkpoint: &Checkpoint) -> bool {
        let Checkpoint { tenant, size, hash, root, at: _ } = checkpoint;
        *size == self.size()
            && *tenant == self.tenant.to_string()
            && *hash == hex::encode(self.hash)
            && *root == hex::encode(self.tree.root())
    }
}

/// What is signed now and then, for others to keep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    pub tenant: String,
    /// Entries in the log.
    pub size: u64,
    /// Of the last entry, in hexadecimal digits.
    pub hash: String,
    /// The Merkle tree hash over the hashes of all entries, in hexadecimal digits.
    pub root: String,
    pub at: String,
}

impl Checkpoint {
    /// What a JWS states, whoever signed it: for a comparison with the log that it was made of, at home.
    pub fn stated_in(jws: &str) -> Option<Self> {
        let claims = jws.split('.').nth(1)?;
        serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
    }
}
