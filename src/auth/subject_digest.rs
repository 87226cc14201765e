//! Keyed hashes of persons' ids, for what outlives the person: the audit log, certificates.

use super::client_secret::Pepper;
use crate::{
    audit::SubjectDigest,
    domain::id::{SubjectId, TenantId},
};

impl Pepper {
    /// The same person in two tenants has nothing in common; who lacks the key can compute none of it.
    pub fn subject_digest(&self, tenant: TenantId, subject: SubjectId) -> SubjectDigest {
        let parts = [tenant.to_string(), subject.to_string()];
        SubjectDigest(self.keyed_hash(b"velum subject digest v1", &parts.each_ref().map(|part| part.as_bytes())))
    }
}
