//! The keyholder: the only holder of the TFHE secret keys. It is shown encrypted decisions and answers one bit for each
//! verification; it never sees a template, a probe or a score.
//!
//! # Threat
//!
//! FHE ciphertexts are malleable, so whoever may have ciphertexts of his own choice opened holds a decryption oracle: adding
//! half a turn to one mask coefficient flips the answer exactly when that bit of the secret key is 1. About 2,048 answers
//! give away the whole key, and with it every template of that key. No check on the ciphertext can tell such a question from
//! an honest one. Therefore the keyholder is metered instead:
//!
//! - it talks to the edge alone (mutual TLS, or inside the same process in the embedded set-up);
//! - a verification id is answered once, and several decisions under one id are answered by ONE bit (any match), whose
//!   place among them is not told;
//! - answers are counted for each subject, each tenant and each UTC day, in a journal that survives a restart;
//! - the journal says who asked about whom and when, and is written in one transaction BEFORE anything is opened. An answer
//!   that is lost on the way, or a ciphertext that turns out not to be a decision, is counted all the same.
//!
//! What this does not do: a hostile *edge* makes up subjects and tenants at will, so only the budget of the day binds it, and
//! a day's honest traffic is more than 2,048 answers. Metering makes the theft slow, visible and attributable, not impossible.
//! The budgets of subject and tenant bind hostile *clients* of an honest edge.
//!
//! # One interface, two places
//!
//! [`Keyholder::Local`] runs in this process; [`Keyholder::Remote`] reaches `velum keyholder` over mutual TLS. Both answer
//! alike, and the same tests run over both.

mod client;
mod local;
pub mod server;
mod wire;

use std::{fmt, sync::Arc};

use crate::{
    domain::{
        decision::Decision,
        id::{SubjectId, TenantId, VerificationId},
    },
    fhe::decide::EncryptedDecision,
    store::TEMPLATES_PER_SUBJECT_MAX,
    tls::Fingerprint,
};

pub use self::{
    client::{RemoteKeyholder, RemoteSetupError},
    local::{DEFAULT_BUDGETS, LocalKeyholder},
};
pub use crate::store::journal::{BudgetScope, Budgets};

/// Most decisions that one verification may bring: as many templates as a subject may have.
pub const DECISIONS_MAX: usize = TEMPLATES_PER_SUBJECT_MAX;

/// A question to the keyholder: did any of these comparisons match?
pub struct OpenRequest {
    pub verification: VerificationId,
    pub tenant: TenantId,
    pub subject: SubjectId,
    /// 1 to [`DECISIONS_MAX`] decisions, all under the keyholder's key.
    pub decisions: Vec<EncryptedDecision>,
}

/// Who asks, as the audit trail names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// The embedded set-up: `serve` and keyholder are one process.
    InProcess,
    /// A client certificate that the keyholder's authority signed.
    Edge(Fingerprint),
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InProcess => f.write_str("in-process"),
            Self::Edge(fingerprint) => write!(f, "edge:{fingerprint}"),
        }
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyholderError {
    /// Whether the request arrived is not known: its verification id may be used up. Start a new verification later.
    #[error("the keyholder is not available")]
    Unavailable { retry_after_s: u64 },
    #[error("this verification has been opened before")]
    AlreadyOpened,
    #[error("this verification's id was not made about now, by the keyholder's clock")]
    Untimely,
    #[error("the {} budget of decisions is spent until the next UTC day", scope.as_str())]
    BudgetSpent { scope: BudgetScope, retry_after_s: u64 },
    #[error("this subject was erased")]
    Forgotten,
    #[error("the decision belongs to another key than the keyholder's")]
    WrongKey,
    #[error("the request holds something that is not an encrypted decision")]
    Malformed,
    #[error("the keyholder does not serve this edge")]
    Forbidden,
}

impl KeyholderError {
    /// When nothing better is known: long enough for a restart, short enough for a person who waits.
    pub const RETRY_AFTER_S: u64 = 2;

    fn unavailable() -> Self {
        Self::Unavailable { retry_after_s: Self::RETRY_AFTER_S }
    }

    pub fn code(&self) -> &'static str {
        match self {
            Self::Unavailable { .. } => "keyholder_unavailable",
            Self::AlreadyOpened => "verification_already_opened",
            Self::Untimely => "verification_untimely",
            Self::BudgetSpent { .. } => "decision_budget_spent",
            Self::Forgotten => "subject_forgotten",
            Self::WrongKey => "keyholder_wrong_key",
            Self::Malformed => "keyholder_malformed_request",
            Self::Forbidden => "keyholder_forbidden",
        }
    }

    /// Seconds after which the same wish, as a new verification, may succeed; `None` where waiting does not help.
    pub fn retry_after_s(&self) -> Option<u64> {
        match self {
            Self::Unavailable { retry_after_s } | Self::BudgetSpent { retry_after_s, .. } => Some(*retry_after_s),
            Self::AlreadyOpened
            | Self::Untimely
            | Self::Forgotten
            | Self::WrongKey
            | Self::Malformed
            | Self::Forbidden => None,
        }
    }
}

/// The edge's handle on the keyholder.
#[derive(Clone)]
pub enum Keyholder {
    Local(Arc<LocalKeyholder>),
    Remote(RemoteKeyholder),
}

impl Keyholder {
    /// One bit: whether any of the decisions is a match. Uses up the verification id, whatever comes of it.
    pub async fn open(&self, request: OpenRequest) -> Result<Decision, KeyholderError> {
        match self {
            Self::Local(keyholder) => keyholder.open(request, Caller::InProcess).await,
            Self::Remote(keyholder) => keyholder.open(request).await,
        }
    }

    /// Part of an erasure: the keyholder drops its counters of this subject and answers nothing about it any more.
    /// Safe to repeat. How many counters it were, where the keyholder has noted it.
    pub async fn forget(&self, tenant: TenantId, subject: SubjectId) -> Result<Option<u64>, KeyholderError> {
        match self {
            Self::Local(keyholder) => keyholder.forget(tenant, subject, Caller::InProcess).await,
            Self::Remote(keyholder) => keyholder.forget(tenant, subject).await,
        }
    }

    /// Whether an opening could be answered now, under the key that the edge encrypts for.
    pub async fn ready(&self) -> Result<(), KeyholderError> {
        match self {
            Self::Local(keyholder) => keyholder.ready().await,
            Self::Remote(keyholder) => keyholder.ready().await,
        }
    }
}
