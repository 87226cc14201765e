//! The shapes of requests to erase a person.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Timestamp, checked_text};
use crate::{flows::erasures::ErasureRequest, http::problem::Problem};

/// A person's wish to be erased.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewErasureBody {
    #[schema(example = "sub_0193512ab4c87d0e8f6a5b4c3d2e1f00")]
    pub subject_id: String,
    /// `gdpr`, `dpdp` or `ccpa`: says until when; absent: the service's own.
    #[serde(default)]
    #[schema(pattern = "^(gdpr|dpdp|ccpa)$", example = "gdpr")]
    pub regulation: Option<String>,
    /// When the person asked you (RFC 3339), not in the future; absent: now.
    #[serde(default)]
    #[schema(example = "2026-11-20T12:00:00Z")]
    pub received_at: Option<Timestamp>,
    /// You know already that it was the person who asked: the erasure begins at once.
    #[serde(default)]
    pub verified: bool,
}

/// Why.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReasonBody {
    /// For the record and for the person asked about; it outlives the erasure, so let it name nobody. 1 to 200 characters.
    #[schema(
        min_length = 1,
        max_length = 200,
        pattern = "^[^\\x00-\\x1F\\x7F-\\x9F]*$",
        example = "tax record, until 2031"
    )]
    pub reason: String,
}

impl ReasonBody {
    pub fn reason(self) -> Result<String, Problem> {
        checked_text("reason", self.reason, 200)
    }
}

/// Which erasure requests.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ErasureQuery {
    /// Only those in this state.
    #[param(pattern = "^(received|verified|in_progress|completed|rejected|on_hold|cancelled)$")]
    pub state: Option<String>,
    /// Only those for this person; also after the erasure.
    pub subject_id: Option<String>,
    /// Items on a page, 1 to 100; 20 unless told.
    #[param(minimum = 1, maximum = 100)]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

/// A request to erase a person.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErasureRequestBody {
    #[schema(example = "ers_0193512ab4c87d0e8f6a5b4c3d2e1f00")]
    pub id: String,
    /// `null` when the request has ended.
    pub subject_id: Option<String>,
    /// The person, as a keyed hash of the id: in the certificate, and in the audit log.
    pub subject_digest: String,
    #[schema(example = "gdpr")]
    pub regulation: String,
    /// `received`, `verified`, `in_progress`, `completed`, `rejected`, `on_hold` or `cancelled`.
    #[schema(example = "completed")]
    pub state: String,
    /// Of a rejection or a hold.
    pub reason: Option<String>,
    pub received_at: Timestamp,
    /// Until when the law wants it answered.
    pub due_at: Timestamp,
    pub verified_at: Option<Timestamp>,
    pub begun_at: Option<Timestamp>,
    /// When it was completed, rejected or cancelled.
    pub ended_at: Option<Timestamp>,
    /// Rows of the database that were removed, by table; `null` before.
    pub removed: Option<RemovedRowsBody>,
}

/// Rows of the database that were removed, by table. Everything that was destroyed stands in the certificate.
#[derive(Debug, Serialize, ToSchema)]
pub struct RemovedRowsBody {
    pub subjects: usize,
    pub consents: usize,
    pub enrolments: usize,
    pub verifications: usize,
    pub attempts: usize,
    pub idempotency_records: usize,
    /// With their packages.
    pub access_requests: usize,
}

impl From<ErasureRequest> for ErasureRequestBody {
    fn from(request: ErasureRequest) -> Self {
        Self {
            id: request.id.to_string(),
            subject_id: request.subject.map(|subject| subject.to_string()),
            subject_digest: request.subject_digest.to_string(),
            regulation: request.regulation.to_string(),
            state: request.state.to_string(),
            reason: request.reason,
            received_at: request.received_at.into(),
            due_at: request.due_at.into(),
            verified_at: request.verified_at.map(Timestamp),
            begun_at: request.begun_at.map(Timestamp),
            ended_at: request.ended_at.map(Timestamp),
            removed: request.removed.map(|removed| RemovedRowsBody {
                subjects: removed.rows.subjects,
                consents: removed.rows.consents,
                enrolments: removed.rows.enrolments,
                verifications: removed.rows.verifications,
                attempts: removed.rows.attempts,
                idempotency_records: removed.rows.idempotency_records,
                access_requests: removed.rows.access_requests,
            }),
        }
    }
}
