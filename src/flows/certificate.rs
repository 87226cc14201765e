//! The erasure certificate: what was destroyed, where and when, for anybody to check who has the public keys.

use serde::{Deserialize, Serialize};

use super::{FlowError, Flows};
pub use crate::store::DestroyedKey;
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
    /// The data key, and a second one where it was being exchanged. Certificates of before have none here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub data_keys: Vec<DestroyedKey>,
    /// Until when a backup of the key store may still hold the person's data key.
    pub key_store_backups_until: String,
    /// What is left, and why.
    pub remains: Vec<Remains>,
    /// The end of the tenant's audit log when the rows were removed; its last entry is `subject.erased`.
    pub audit: Checkpoint,
}

/// What was in a place, and how much of it was removed. Where nothing was counted there is no count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Destroyed {
    pub place: String,
    pub what: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remains {
    pub place: String,
    pub what: String,
    pub why: String,
}

/// What each place said that it removed.
pub struct Gone<'a> {
    /// `None`, like `counters`: by a program of before, which did not note it.
    pub data_keys: Option<Vec<DestroyedKey>>,
    /// Of the keyholder.
    pub counters: Option<u64>,
    pub removed: &'a Removed,
}

/// Signs what was found to be done.
pub fn issue(flows: &Flows, request: &ErasureRequest, gone: Gone<'_>) -> Result<String, FlowError> {
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
        destroyed: destroyed(&gone),
        data_keys: gone.data_keys.unwrap_or_default(),
        key_store_backups_until: stamp(now + flows.erasure_policy.keystore_backups_kept),
        remains: remains(),
        audit: gone.removed.audit.clone(),
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

/// Every place where something about a person is ever kept. One that holds nothing of anybody is named without a count.
fn destroyed(gone: &Gone<'_>) -> Vec<Destroyed> {
    let rows = &gone.removed.rows;
    let data_keys = gone.data_keys.as_ref().map(Vec::len);
    let counters = gone.counters.and_then(|counters| usize::try_from(counters).ok());
    let places = [
        ("key store", "data key, without which no sealed field opens, in backups of the database neither", data_keys),
        ("database", "person (sealed external reference, blind index)", Some(rows.subjects)),
        ("database", "consents", Some(rows.consents)),
        ("database", "template ciphertexts", Some(rows.enrolments)),
        ("database", "verification records", Some(rows.verifications)),
        ("database", "counter of failed attempts", Some(rows.attempts)),
        ("database", "idempotency records with sealed answers", Some(rows.idempotency_records)),
        ("database", "access requests with sealed packages", Some(rows.access_requests)),
        ("database", "reasons that were written on earlier erasure requests", Some(rows.reasons)),
        ("keyholder", "counters of opened decisions; the person is refused from then on", counters),
        ("redis", "holds nothing of a person", None),
        ("matcher memory", "holds nothing of a person between requests", None),
        ("job queue", "holds nothing of a person but ids of requests", None),
    ];
    let line = |(place, what, count): (&str, &str, Option<usize>)| Destroyed {
        place: place.to_owned(),
        what: what.to_owned(),
        count: count.map(|count| count as u64),
    };
    places.into_iter().map(line).collect()
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
            "this request and earlier ones of the person: state, law and dates, with the same digest, and no words of anybody",
            "proof that they were answered in time",
        ),
        (
            "database",
            "of a request that a controller passed on, its name there and a keyed digest of what was sent",
            "so that the same request is known when it comes again",
        ),
        (
            "database",
            "for a day, status and address of answers about this request, by a keyed digest of the call",
            "so that a call which is sent again has no second effect",
        ),
        (
            "key store",
            "the random subject id, marked as destroyed, and the digest of the wrapped key",
            "so that no key is ever made for it again, and for this certificate",
        ),
        (
            "erasure ledger",
            "the random subject id, this request's id and this certificate",
            "so that a restored backup does not bring the person back",
        ),
        (
            "keyholder",
            "a digest of the random subject id, marked as forgotten and in its own audit lines",
            "so that no decision about the person is ever opened again, and accountability",
        ),
    ];
    let line = |(place, what, why): (&str, &str, &str)| Remains {
        place: place.to_owned(),
        what: what.to_owned(),
        why: why.to_owned(),
    };
    kept.into_iter().map(line).collect()
}
