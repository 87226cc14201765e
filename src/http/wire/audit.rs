//! The shapes of the audit log.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::audit::Entry;

/// The end of the audit log at a moment, signed.
#[derive(Debug, Serialize, ToSchema)]
pub struct CheckpointBody {
    /// RS256, checked with `/.well-known/evidence-jwks.json`; says tenant, size, last hash, Merkle root and moment.
    pub jws: String,
}

/// Which entries of the audit log.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AuditQuery {
    /// Only what concerned this person; also after the erasure.
    pub subject_id: Option<String>,
    /// Only this kind of act.
    #[param(example = "consent.withdrawn")]
    pub action: Option<String>,
    /// Items on a page, 1 to 100; 20 unless told.
    #[param(minimum = 1, maximum = 100)]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

/// One entry of the audit log.
#[derive(Debug, Serialize, ToSchema)]
pub struct AuditEventBody {
    /// Its place in your tenant's log, from 1 without gaps.
    pub sequence: u64,
    /// By our clock, to the microsecond. The order of the log is that of `sequence`.
    #[schema(format = DateTime)]
    pub at: String,
    #[schema(example = "consent.withdrawn")]
    pub action: String,
    /// The id of a credential; `operator` for a command on the host; `service` for what the program does by itself.
    pub actor: String,
    /// The `X-Request-Id` of the request.
    pub request_id: Option<String>,
    /// The person, as a keyed hash of the id.
    pub subject_digest: Option<String>,
    /// The id of what was made, changed or removed.
    pub object: Option<String>,
    /// A code, where there is something to explain.
    pub reason: Option<String>,
}

impl From<Entry> for AuditEventBody {
    fn from(entry: Entry) -> Self {
        Self {
            sequence: entry.sequence,
            at: entry.at,
            action: entry.action,
            actor: entry.actor,
            request_id: entry.request,
            subject_digest: entry.subject,
            object: entry.object,
            reason: entry.reason,
        }
    }
}
