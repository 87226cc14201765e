//! How flows end without their result. The errors of the rooms below are sorted here into what a caller can do about
//! them; what he cannot do anything about becomes [`FlowError::Internal`] and is for our own log.

use time::OffsetDateTime;

use super::{
    compute::{Busy, ComputeCrashed},
    incoming::IncomingError,
    notices::NoticeMistake,
    page::InvalidPageRequest,
    usage::QuotaSpent,
};
use crate::{
    domain::consent::Purpose,
    face::FaceError,
    fhe::encode::EncodeError,
    keyholder::KeyholderError,
    measure::Outcome,
    store::{Conflict, StoreError},
};

type Source = Box<dyn std::error::Error + Send + Sync>;

/// A variant for each thing that a caller would do differently.
#[derive(Debug, thiserror::Error)]
pub enum FlowError {
    #[error("there is nothing under this id")]
    NotFound,
    #[error("another subject of yours has this external_ref")]
    ExternalRefTaken,
    #[error("the subject has no active consent for `{purpose}`")]
    ConsentRequired { purpose: Purpose },
    #[error("the notice for `{purpose}` has changed materially since the subject agreed")]
    ConsentSuperseded { purpose: Purpose },
    #[error("the subject's data are restricted: they are kept, and nothing else is done with them")]
    SubjectRestricted,
    #[error("{mistake}")]
    NoticeMistaken { field: &'static str, mistake: NoticeMistake },
    #[error("the notice has changed materially since: show the person the newest version")]
    NoticeSuperseded,
    #[error("you published this version in this language already")]
    NoticeVersionTaken,
    #[error("differs from what this version says in another language")]
    NoticeMateriality,
    #[error("as many consents of the subject to this purpose stand as may")]
    ConsentLimitReached,
    #[error("a consent that has already expired cannot be granted")]
    ConsentAlreadyExpired,
    #[error("a key cannot have scopes that whoever makes it lacks")]
    ScopesBeyondCaller,
    #[error("the moment of expiry has passed")]
    ExpiryPast,
    #[error("the key has a successor already")]
    ApiKeyRolled,
    #[error("an earlier call with this Idempotency-Key asked for something else")]
    IdempotencyKeyReused,
    #[error("a call with this Idempotency-Key is at work")]
    TwinAtWork { retry_after_s: u64 },
    #[error("this call was carried out; its answer held a secret and was not kept")]
    AnswerNotKept,
    #[error(transparent)]
    QuotaSpent(#[from] QuotaSpent),
    #[error("too many verifications of this subject failed in a row")]
    AttemptsBlocked { retry_after_s: u64 },
    #[error("the person has an open erasure request")]
    ErasureOpen,
    #[error("the access request is in a state that does not allow this")]
    AccessState,
    #[error("is no age public key (age1…, X25519)")]
    RecipientInvalid,
    #[error("the erasure request is in a state that does not allow this")]
    ErasureState,
    #[error("a legal hold stands against the erasure of this person")]
    LegalHold,
    #[error("a request cannot have been received later than now")]
    ReceivedLater,
    #[error("you sent another request under this subject_request_id")]
    SubjectRequestIdTaken,
    #[error("a request cannot have been submitted later than now")]
    SubmittedLater,
    #[error("the identities name several persons")]
    SeveralPersons,
    /// Of a job alone.
    #[error("a callback was not delivered")]
    CallbackFailed(#[source] Source),
    #[error("the subject has as many enrolments as it may have")]
    EnrolmentLimitReached,
    #[error("the subject has no enrolment")]
    NoEnrolment,
    #[error("every enrolment of the subject was made under another model, parameters or key; enrol again")]
    EnrolmentsStale,
    #[error(transparent)]
    InvalidPage(#[from] InvalidPageRequest),
    #[error(transparent)]
    Incoming(#[from] IncomingError),
    /// The image, or the face in it, cannot be used.
    #[error("{sentence}")]
    FaceRefused { code: &'static str, sentence: String, reasons: Vec<&'static str> },
    #[error(transparent)]
    Busy(#[from] Busy),
    #[error("the database is away")]
    StoreAway(#[source] Source),
    #[error("the keyholder is away")]
    KeyholderAway { retry_after_s: u64 },
    #[error("the budget of {scope} for opened decisions is spent")]
    BudgetSpent { scope: &'static str, retry_after_s: u64 },
    #[error("an internal step failed")]
    Internal(#[source] Source),
}

impl FlowError {
    pub(super) fn blocked(now: OffsetDateTime, until: OffsetDateTime) -> Self {
        Self::AttemptsBlocked { retry_after_s: Self::seconds_until(now, until) }
    }

    /// For `Retry-After`: full seconds after which `until` has passed; at least 1.
    pub(super) fn seconds_until(now: OffsetDateTime, until: OffsetDateTime) -> u64 {
        u64::try_from((until - now).whole_seconds()).unwrap_or(0) + 1
    }

    pub(super) fn internal(source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Internal(Box::new(source))
    }

    /// Whether the request or this service is the reason.
    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Self::Busy(_) | Self::StoreAway(_) | Self::KeyholderAway { .. } | Self::Internal(_) => Outcome::Failed,
            _ => Outcome::Refused,
        }
    }
}

impl From<StoreError> for FlowError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound => Self::NotFound,
            StoreError::NoConsent => Self::ConsentRequired { purpose: Purpose::face_verification() },
            StoreError::ConsentSuperseded => Self::ConsentSuperseded { purpose: Purpose::face_verification() },
            StoreError::Restricted => Self::SubjectRestricted,
            StoreError::Conflict(Conflict::NoticeVersion) => Self::NoticeVersionTaken,
            StoreError::Conflict(Conflict::NoticeMateriality) => Self::NoticeMateriality,
            StoreError::Conflict(Conflict::NoticeSuperseded) => Self::NoticeSuperseded,
            StoreError::Conflict(Conflict::ExternalRef) => Self::ExternalRefTaken,
            StoreError::Conflict(Conflict::ApiKeyRolled) => Self::ApiKeyRolled,
            StoreError::Conflict(Conflict::ErasureOpen) => Self::ErasureOpen,
            StoreError::Conflict(Conflict::AccessState) => Self::AccessState,
            StoreError::Conflict(Conflict::ErasureState) => Self::ErasureState,
            StoreError::Conflict(Conflict::SubjectRequestId) => Self::SubjectRequestIdTaken,
            StoreError::Conflict(Conflict::TooManyTemplates) => Self::EnrolmentLimitReached,
            StoreError::Conflict(Conflict::TooManyConsents) => Self::ConsentLimitReached,
            // Another call took over: it will have the effect, and the answer.
            StoreError::Conflict(Conflict::ClaimLost) => Self::TwinAtWork { retry_after_s: 1 },
            StoreError::Unavailable(source) => Self::StoreAway(source),
            other => Self::internal(other),
        }
    }
}

impl From<FaceError> for FlowError {
    fn from(error: FaceError) -> Self {
        let (code, sentence) = (error.code(), error.to_string());
        match error {
            FaceError::InferenceFailed(source) => Self::Internal(source),
            FaceError::TooLarge => Self::Incoming(IncomingError::TooLarge),
            FaceError::QualityTooLow { reasons } => {
                let reasons = reasons.into_iter().map(|reason| reason.code()).collect();
                Self::FaceRefused { code, sentence, reasons }
            }
            _ => Self::FaceRefused { code, sentence, reasons: vec![] },
        }
    }
}

impl From<EncodeError> for FlowError {
    fn from(error: EncodeError) -> Self {
        match error {
            EncodeError::NormBoundExceeded => {
                Self::FaceRefused { code: error.code(), sentence: error.to_string(), reasons: vec![] }
            }
            other => Self::internal(other),
        }
    }
}

impl From<KeyholderError> for FlowError {
    fn from(error: KeyholderError) -> Self {
        match error {
            KeyholderError::Unavailable { retry_after_s } => Self::KeyholderAway { retry_after_s },
            KeyholderError::BudgetSpent { scope, retry_after_s } => {
                Self::BudgetSpent { scope: scope.as_str(), retry_after_s }
            }
            // Erased while the verification was on its way.
            KeyholderError::Forgotten => Self::NotFound,
            // Not the keyholder that this edge was set up with, or one with another idea of time: for a caller the same as none.
            KeyholderError::Forbidden | KeyholderError::WrongKey | KeyholderError::Untimely => {
                tracing::error!(
                    event = "keyholder_refuses_edge",
                    code = error.code(),
                    "the keyholder does not serve this edge"
                );
                Self::KeyholderAway { retry_after_s: KeyholderError::RETRY_AFTER_S }
            }
            other => Self::internal(other),
        }
    }
}

impl From<ComputeCrashed> for FlowError {
    fn from(crashed: ComputeCrashed) -> Self {
        Self::internal(crashed)
    }
}
