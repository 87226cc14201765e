//! What one act is recorded as: who, what, to whom, why and when. Never content.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, UtcOffset, format_description::StaticFormatDescription, macros::format_description};

macro_rules! actions {
    ($($name:ident = $text:literal;)*) => {
        /// What was done.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Action { $($name),* }

        impl Action {
            pub const ALL: &[Self] = &[$(Self::$name),*];

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }
        }

        impl FromStr for Action {
            type Err = UnknownAction;

            fn from_str(text: &str) -> Result<Self, UnknownAction> {
                Self::ALL.iter().copied().find(|action| action.as_str() == text).ok_or(UnknownAction)
            }
        }
    };
}

actions! {
    TenantCreated = "tenant.created";
    QuotaSet = "tenant.quota_set";
    ClientCreated = "client.created";
    ClientDisabled = "client.disabled";
    TokenRevoked = "token.revoked";
    ApiKeyCreated = "api_key.created";
    ApiKeyRolled = "api_key.rolled";
    ApiKeyRevoked = "api_key.revoked";
    SubjectCreated = "subject.created";
    SubjectRectified = "subject.rectified";
    SubjectRestricted = "subject.restricted";
    RestrictionLifted = "subject.restriction_lifted";
    SubjectErased = "subject.erased";
    AccessRequested = "access.requested";
    AccessCompleted = "access.completed";
    AccessRejected = "access.rejected";
    AccessCancelled = "access.cancelled";
    AccessFetched = "access.fetched";
    AccessExpired = "access.expired";
    ErasureRequested = "erasure.requested";
    ErasureVerified = "erasure.verified";
    ErasureHeld = "erasure.held";
    ErasureReleased = "erasure.released";
    ErasureRejected = "erasure.rejected";
    ErasureCancelled = "erasure.cancelled";
    ErasureBegun = "erasure.begun";
    ErasureCompleted = "erasure.completed";
    ErasureReplayed = "erasure.replayed";
    LedgerLossAccepted = "ledger.loss_accepted";
    OpenDsrFoundNobody = "opendsr.found_nobody";
    CallbackDelivered = "callback.delivered";
    CallbackGivenUp = "callback.given_up";
    NoticePublished = "notice.published";
    ConsentGranted = "consent.granted";
    ConsentWithdrawn = "consent.withdrawn";
    EnrolmentCreated = "enrolment.created";
    EnrolmentDeleted = "enrolment.deleted";
    VerificationDecided = "verification.decided";
    RetentionDeleted = "retention.deleted";
    JobRetried = "job.retried";
    FieldKeyAdded = "keys.field_added";
    TokenKeyAdded = "keys.token_added";
    EvidenceKeyAdded = "keys.evidence_added";
    FieldKeyTookOver = "keys.field_took_over";
    FieldKeyRetired = "keys.field_retired";
    DataKeysExchanged = "keys.data_exchanged";
    FheKeyTookOver = "keys.fhe_took_over";
    FheKeyRetired = "keys.fhe_retired";
    OfficerAdded = "officer.added";
    OfficerReset = "officer.reset";
    OfficerDisabled = "officer.disabled";
    OfficerSignedIn = "officer.signed_in";
    OfficerSignedOut = "officer.signed_out";
    OfficerSignInFailed = "officer.sign_in_failed";
    OfficerPasswordChanged = "officer.password_changed";
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no action of the audit log")]
pub struct UnknownAction;

/// Who did it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// The id of a credential, or `operator` for a command on the host, or `service` for what the program does by itself.
    pub name: String,
    /// The request's id.
    pub request: Option<String>,
}

impl Actor {
    pub fn operator() -> Self {
        Self { name: "operator".to_owned(), request: None }
    }

    pub fn service() -> Self {
        Self { name: "service".to_owned(), request: None }
    }
}

/// What an entry says of a reason that people give in their own words: those may name somebody, and stay out of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It stands in the request, until the person is erased.
    StatedInRequest,
    NotAsked,
}

impl Why {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::StatedInRequest => "stated_in_request",
            Self::NotAsked => "not_asked",
        }
    }
}

/// A person, by a keyed hash of the id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubjectDigest(pub [u8; 32]);

impl fmt::Display for SubjectDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// An act, before it has its place in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub action: Action,
    pub actor: Actor,
    pub subject: Option<SubjectDigest>,
    /// The id of what was made, changed or removed; of a person never.
    pub object: Option<String>,
    /// A code, where there is something to explain.
    pub reason: Option<&'static str>,
    pub at: OffsetDateTime,
}

impl Event {
    /// By the program or its operator; nobody asked for it over the network.
    pub fn of(actor: Actor, action: Action, object: impl fmt::Display, at: OffsetDateTime) -> Self {
        Self { action, actor, subject: None, object: Some(object.to_string()), reason: None, at }
    }

    pub fn entry(&self, sequence: u64) -> Entry {
        Entry {
            sequence,
            at: stamp(self.at),
            action: self.action.as_str().to_owned(),
            actor: self.actor.name.clone(),
            request: self.actor.request.clone(),
            subject: self.subject.map(|subject| subject.to_string()),
            object: self.object.clone(),
            reason: self.reason.map(str::to_owned),
        }
    }
}

/// A line of the log. The order of the members is part of what is hashed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// From 1, without gaps.
    pub sequence: u64,
    /// RFC 3339, UTC, microseconds. By our clock: a clock that was set back shows here, and the order stands.
    pub at: String,
    pub action: String,
    pub actor: String,
    pub request: Option<String>,
    pub subject: Option<String>,
    pub object: Option<String>,
    pub reason: Option<String>,
}

impl Entry {
    /// The one form in which it is hashed and exported.
    pub fn to_json(&self) -> Vec<u8> {
        // Our own shapes always serialise.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

const STAMP: StaticFormatDescription =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");

/// A moment in the form in which it is hashed.
pub fn stamp(at: OffsetDateTime) -> String {
    at.to_offset(UtcOffset::UTC).format(STAMP).unwrap_or_default()
}
