//! The shapes of access requests.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};

use super::{Timestamp, parsed, parsed_if_given};
use crate::{
    flows::access_requests::{AccessAnswer, AccessRequest, DOWNLOADS_MAX, Fulfilment, NewAccess, PackageNote},
    http::problem::Problem,
};

/// A person's wish to be given what is known of them.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewAccessBody {
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
    /// You know already that it was the person who asked: the package is made at once.
    #[serde(default)]
    pub verified: bool,
    /// With `verified`: the person's age public key (`age1…`). Absent: a passphrase is made, and shown in this answer alone.
    #[serde(default)]
    #[schema(max_length = 100, example = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p")]
    pub recipient: Option<String>,
}

impl NewAccessBody {
    pub fn read(self) -> Result<NewAccess, Problem> {
        let recipient = self.recipient;
        if recipient.is_some() && !self.verified {
            return Err(Problem::invalid_field("recipient", "is given with `verified`, here or later"));
        }
        Ok(NewAccess {
            subject: parsed("subject_id", &self.subject_id)?,
            regulation: parsed_if_given("regulation", self.regulation.as_deref())?,
            received_at: self.received_at.map(|at| at.0),
            verified: self.verified.then_some(Fulfilment { recipient }),
        })
    }
}

/// How the package is encrypted.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FulfilmentBody {
    /// The person's age public key (`age1…`). Absent: a passphrase is made, and shown in this answer alone.
    #[serde(default)]
    #[schema(max_length = 100, example = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p")]
    pub recipient: Option<String>,
}

impl From<FulfilmentBody> for Fulfilment {
    fn from(body: FulfilmentBody) -> Self {
        Self { recipient: body.recipient }
    }
}

/// Which access requests.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AccessQuery {
    /// Only those in this state.
    #[param(pattern = "^(received|completed|rejected|cancelled|expired)$")]
    pub state: Option<String>,
    /// Only those of this person.
    pub subject_id: Option<String>,
    /// Items on a page, 1 to 100; 20 unless told.
    #[param(minimum = 1, maximum = 100)]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

/// A request to be given what is known.
#[derive(Debug, Serialize, ToSchema)]
pub struct AccessRequestBody {
    #[schema(example = "acr_0193512ab4c87d0e8f6a5b4c3d2e1f00")]
    pub id: String,
    pub subject_id: String,
    #[schema(example = "gdpr")]
    pub regulation: String,
    /// `received`, `completed`, `rejected`, `cancelled` or `expired`.
    #[schema(example = "completed")]
    pub state: String,
    /// Of a rejection.
    pub reason: Option<String>,
    pub received_at: Timestamp,
    /// Until when the law wants it answered.
    pub due_at: Timestamp,
    /// When it was completed, rejected or cancelled.
    pub ended_at: Option<Timestamp>,
    /// `null` as long as there never was one.
    pub package: Option<PackageBody>,
}

/// What was put together.
#[derive(Debug, Serialize, ToSchema)]
pub struct PackageBody {
    /// `recipient` or `passphrase`.
    pub encrypted_for: String,
    /// It is gone from then on.
    pub expires_at: Timestamp,
    /// How often the link can still be followed.
    pub downloads_left: u32,
}

impl From<PackageNote> for PackageBody {
    fn from(note: PackageNote) -> Self {
        Self {
            encrypted_for: note.lock.as_str().to_owned(),
            expires_at: note.expires_at.into(),
            downloads_left: DOWNLOADS_MAX.saturating_sub(note.downloads),
        }
    }
}

impl AccessRequestBody {
    pub fn at(now: OffsetDateTime, request: AccessRequest) -> Self {
        Self {
            id: request.id.to_string(),
            subject_id: request.subject.to_string(),
            regulation: request.regulation.as_str().to_owned(),
            state: request.state_at(now).as_str().to_owned(),
            reason: request.reason,
            received_at: request.received_at.into(),
            due_at: request.due_at.into(),
            ended_at: request.ended_at.map(Timestamp::from),
            package: request.package.map(PackageBody::from),
        }
    }
}

/// A request, and what fetches and opens its package where it was made just now.
#[derive(Serialize, ToSchema)]
pub struct AccessAnswerBody {
    #[serde(flatten)]
    pub about: AccessRequestBody,
    /// For the person: fetches the package without a credential, a few times, until it expires. Not shown again.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub link: Option<String>,
    /// For the person, by another way than the link: opens the package. Not shown again.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub passphrase: Option<String>,
}

impl AccessAnswerBody {
    pub fn at(now: OffsetDateTime, answer: &AccessAnswer) -> Self {
        let handover = answer.handover.as_ref();
        Self {
            about: AccessRequestBody::at(now, answer.request.clone()),
            link: handover.map(|handover| handover.link.to_string()),
            passphrase: handover.and_then(|handover| handover.passphrase.as_ref()).map(|text| text.to_string()),
        }
    }
}
