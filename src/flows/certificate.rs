//! The erasure certificate: what was destroyed, where and when, for anybody to check who has the public keys.

use serde::{Deserialize, Serialize};

use super::{FlowError, Flows};
use crate::{
    audit::{Checkpoint, stamp},
    auth::evidence::{Document, EvidenceError, EvidenceVerifier},
    store::{ErasureRequest, Removed},
};

/// What the certificate says. Names are those of RFC 7519 where it has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// The service, as its access tokens name it.
    pub iss: String,
    /// Seconds since 1970.
    pub iat: i64,
    /// The erasure request.
    pub jti: String,
    pub tenant_id: String,
    /// The person: HMAC-SHA-256 of tenant and subject id under a key of the service.
    pub subject_digest: String,
    pub regulation: String,
    pub received_at: String,
    pub due_at: String,
    pub begun_at: String,
    pub destroyed: Vec<Destroyed>,
    /// Until when a backup of the key store may still hold the person's data key.
    pub key_store_backups_until: String,
    /// What is left, and why.
    pub remains: Vec<Remains>,
    /// The end of the tenant's audit log when the rows were removed; its last entry is `subject.erased`.
    pub audit: Checkpoint,
}

/// What was in a place, and how much of it was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Destroyed {
    pub place: String,
    pub what: String,
    pub count: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remains {
    pub place: String,
    pub what: String,
    pub why: String,
}

/// Signs what was found to be done.
pub fn issue(flows: &Flows, request: &ErasureRequest, removed: &Removed) -> Result<String, FlowError> {
    let now = flows.now();
    let certificate = Certificate {
        iss: flows.tokens.config().issuer.clone(),
        iat: now.unix_timestamp(),
        jti: request.id.to_string(),
        tenant_id: request.tenant.to_string(),
        subject_digest: request.subject_digest.to_string(),
        regulation: request.regulation.to_string(),
        received_at: stamp(request.received_at),
        due_at: stamp(request.due_at),
        begun_at: stamp(request.begun_at.unwrap_or(now)),
        destroyed: destroyed(removed),
        key_store_backups_until: stamp(now + flows.erasure_policy.keystore_backups_kept),
        remains: remains(),
        audit: removed.audit.clone(),
    };
    flows.evidence.sign(Document::ErasureCertificate, &certificate, now).map_err(FlowError::internal)
}

/// What a certificate of ours says, if its signature is good.
pub fn read(flows: &Flows, certificate: &str) -> Result<Certificate, EvidenceError> {
    flows.evidence.verify(Document::ErasureCertificate, certificate)
}

/// What a certificate says, if one of the keys signed it.
pub fn verify(certificate: &str, keys: &EvidenceVerifier) -> Result<Certificate, EvidenceError> {
    keys.verify(Document::ErasureCertificate, certificate)
}

/// Every place where something about a person is ever kept. A place that keeps nothing by its nature is listed with 0.
fn destroyed(removed: &Removed) -> Vec<Destroyed> {
    let rows = &removed.rows;
    let counted = [
        ("key store", "data key, without which no sealed field opens, in backups of the database neither", 1),
        ("database", "person (sealed external reference, blind index)", rows.subjects),
        ("database", "consents", rows.consents),
        ("database", "template ciphertexts", rows.enrolments),
        ("database", "verification records", rows.verifications),
        ("database", "counter of failed attempts", rows.attempts),
        ("database", "idempotency records with sealed answers", rows.idempotency_records),
        ("database", "access requests with sealed packages", rows.access_requests),
        ("keyholder", "counter of opened decisions; the person is refused from then on", 1),
        ("redis", "keys about a person; none is ever written", 0),
        ("matcher memory", "templates kept between requests; none is", 0),
        ("job queue", "payloads about a person; they hold ids of requests alone", 0),
    ];
    let line = |(place, what, count): (&str, &str, usize)| Destroyed {
        place: place.to_owned(),
        what: what.to_owned(),
        count: count as u64,
    };
    counted.into_iter().map(line).collect()
}

fn remains() -> Vec<Remains> {
    let kept = [
        (
            "audit log",
            "acts, with a keyed digest in place of the person's id",
            "accountability, and proof of this erasure",
        ),
        (
            "database",
            "this request, with the same digest, and with the name and a keyed digest of the controller's where one passed it on",
            "proof that it was answered in time",
        ),
        ("key store", "the random subject id, marked as destroyed", "so that no key is ever made for it again"),
        ("erasure ledger", "the random subject id", "so that a restored backup does not bring the person back"),
        ("keyholder", "a digest of the random subject id", "so that no decision about the person is ever opened again"),
    ];
    let line = |(place, what, why): (&str, &str, &str)| Remains {
        place: place.to_owned(),
        what: what.to_owned(),
        why: why.to_owned(),
    };
    kept.into_iter().map(line).collect()
}
