//! The stories of the product, one file each. What every flow promises:
//!
//! - A foreign id looks like an absent one: everything is looked up within the caller's tenant.
//! - No active consent, no processing: a face can only be read with a [`consents::ConsentProof`], and the consent is
//!   looked at again in the transaction that stores a result.
//! - CPU-heavy work runs in the [`compute::Compute`] pool, and images wait for it within the memory of
//!   [`uploads::Uploads`]; who finds either full is told so at once.

pub mod access_requests;
pub mod account;
pub mod addresses;
pub mod api_keys;
pub mod audit;
pub mod certificate;
pub mod clients;
pub mod compute;
pub mod consents;
pub mod enrol;
pub mod erasures;
mod error;
pub mod exchange;
mod faces;
pub mod health;
pub mod incoming;
pub mod jobs;
pub mod keys;
pub mod ledger;
pub mod notices;
pub mod officer_accounts;
pub mod officers;
pub mod once;
pub mod opendsr;
mod package;
pub mod page;
pub mod quality;
pub mod receipts;
pub mod rekey;
pub mod restriction;
pub mod retention;
pub mod revocations;
pub mod subjects;
pub mod tokens;
pub mod uploads;
pub mod usage;
pub mod verify;

use std::sync::Arc;

use time::{Duration, OffsetDateTime};
use tokio::sync::Notify;

use self::{
    access_requests::AccessPolicy, addresses::AddressKeys, compute::Compute, faces::Faces, opendsr::OpenDsr,
    uploads::Uploads,
};
pub use self::{
    error::FlowError,
    page::{Page, PageRequest},
};
use crate::{
    auth::{api_key::Environment, client_secret::Pepper, evidence::EvidenceKeys, jwt::Tokens},
    cache::Cache,
    domain::{
        attempts::AttemptRule,
        clock::Clock,
        decision::FalseMatchRate,
        erasure::Regulation,
        matching::{MatchSpec, Threshold},
        retention::RetentionSchedule,
    },
    face::FacePipeline,
    fhe::{
        keys::{EvaluationKey, PublicKey},
        params::PARAMETER_ID,
        rekey::Rekey,
    },
    keyholder::Keyholder,
    store::{ErasureLedger, Store, StoreError, TemplateKind, keystore::KeyStore},
};

/// What the flows work with; built once, at start.
pub struct Parts {
    pub store: Store,
    /// Counters, and a copy of the revocations.
    pub cache: Cache,
    pub keystore: KeyStore,
    pub ledger: ErasureLedger,
    pub keyholder: Keyholder,
    pub faces: Arc<FacePipeline>,
    pub public_key: Arc<PublicKey>,
    pub evaluation_key: Arc<EvaluationKey>,
    /// While keys are changed: the way of older templates to the key in use.
    pub rekey: Option<Arc<Rekey>>,
    pub tokens: Tokens,
    /// Sign what others keep.
    pub evidence: EvidenceKeys,
    pub pepper: Pepper,
    pub address_keys: AddressKeys,
    /// What API keys are made for, and which ones open something here.
    pub environment: Environment,
    pub compute: Compute,
    pub uploads: Uploads,
    pub clock: Arc<dyn Clock>,
    /// The rate at which a verification decides that names none.
    pub default_false_match_rate: FalseMatchRate,
    /// Enrolments and verifications of a tenant that has no quota of its own.
    pub quota_per_day: u32,
    pub attempt_rule: AttemptRule,
    pub retention: RetentionSchedule,
    pub erasure_policy: ErasurePolicy,
    pub access_policy: AccessPolicy,
    pub opendsr: OpenDsr,
}

/// What the operator has decided about erasures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErasurePolicy {
    /// Of an erasure or access request that names none.
    pub regulation: Regulation,
    /// Days in which a request under the DPDP Act is answered.
    pub dpdp_days: u16,
    /// Whoever agrees to nothing any more is erased.
    pub on_withdrawal: bool,
    /// How long a backup of the key store is kept.
    pub keystore_backups_kept: Duration,
}

impl ErasurePolicy {
    /// The law that a person's request is under, and until when it wants an answer to what was received then.
    fn deadline(&self, named: Option<Regulation>, received_at: OffsetDateTime) -> (Regulation, OffsetDateTime) {
        let regulation = named.unwrap_or(self.regulation);
        (regulation, regulation.due_at(received_at, self.dpdp_days))
    }
}

pub struct Flows {
    store: Store,
    cache: Cache,
    keystore: KeyStore,
    ledger: ErasureLedger,
    keyholder: Keyholder,
    faces: Arc<Faces>,
    match_spec: Arc<MatchSpec>,
    public_key: Arc<PublicKey>,
    evaluation_key: Arc<EvaluationKey>,
    rekey: Option<Arc<Rekey>>,
    tokens: Tokens,
    evidence: EvidenceKeys,
    pepper: Arc<Pepper>,
    address_keys: AddressKeys,
    environment: Environment,
    compute: Compute,
    uploads: Uploads,
    clock: Arc<dyn Clock>,
    default_false_match_rate: FalseMatchRate,
    quota_per_day: u32,
    attempt_rule: AttemptRule,
    erasure_policy: ErasurePolicy,
    access_policy: AccessPolicy,
    retention: RetentionSchedule,
    opendsr: OpenDsr,
    /// Told when a job was queued in this process.
    queued: Notify,
}

impl Flows {
    pub fn new(parts: Parts) -> Self {
        Self {
            match_spec: Arc::new(parts.faces.card().match_spec()),
            faces: Arc::new(Faces::new(parts.faces)),
            store: parts.store,
            cache: parts.cache,
            keystore: parts.keystore,
            ledger: parts.ledger,
            keyholder: parts.keyholder,
            public_key: parts.public_key,
            evaluation_key: parts.evaluation_key,
            rekey: parts.rekey,
            tokens: parts.tokens,
            evidence: parts.evidence,
            pepper: Arc::new(parts.pepper),
            address_keys: parts.address_keys,
            environment: parts.environment,
            compute: parts.compute,
            uploads: parts.uploads,
            clock: parts.clock,
            default_false_match_rate: parts.default_false_match_rate,
            quota_per_day: parts.quota_per_day,
            attempt_rule: parts.attempt_rule,
            erasure_policy: parts.erasure_policy,
            access_policy: parts.access_policy,
            retention: parts.retention,
            opendsr: parts.opendsr,
            queued: Notify::new(),
        }
    }

    /// The present moment, to the microsecond: what a store keeps, so that an answer says the same later.
    pub fn now(&self) -> OffsetDateTime {
        let now = self.clock.now();
        now - Duration::nanoseconds(i64::from(now.nanosecond() % 1000))
    }

    pub fn match_spec(&self) -> &MatchSpec {
        &self.match_spec
    }

    pub fn parameters(&self) -> &'static str {
        PARAMETER_ID
    }

    pub fn default_false_match_rate(&self) -> FalseMatchRate {
        self.default_false_match_rate
    }

    /// What a template must have been made under to be compared today.
    fn template_kind(&self) -> TemplateKind {
        TemplateKind {
            model: self.match_spec.model.clone(),
            parameter_id: PARAMETER_ID.to_owned(),
            fhe_key_id: self.public_key.key_id().to_string(),
        }
    }

    /// While keys are changed: the key from which templates are brought under the one in use.
    fn older_key(&self) -> Option<String> {
        self.rekey.as_ref().map(|rekey| rekey.from().to_string())
    }

    /// Whether a template of this kind can be compared today.
    fn compares(&self, kind: &TemplateKind) -> bool {
        let current = self.template_kind();
        let older = self.older_key().map(|fhe_key_id| TemplateKind { fhe_key_id, ..current.clone() });
        *kind == current || Some(kind) == older.as_ref()
    }

    /// A model card states every rate that can be asked for, so a missing one is our mistake.
    fn threshold(&self, rate: FalseMatchRate) -> Result<Threshold, FlowError> {
        self.match_spec.thresholds.get(&rate).copied().ok_or_else(|| FlowError::internal(ThresholdMissing(rate)))
    }

    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    pub fn evidence(&self) -> &EvidenceKeys {
        &self.evidence
    }

    pub fn environment(&self) -> Environment {
        self.environment
    }

    /// Another key-encryption key may wrap from now on, or one may have been retired.
    pub async fn refresh_wrapping_keys(&self) -> Result<(), StoreError> {
        self.keystore.refresh_keys().await
    }

    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    pub fn compute(&self) -> &Compute {
        &self.compute
    }

    pub fn uploads(&self) -> &Uploads {
        &self.uploads
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the model card states no threshold for {0}")]
struct ThresholdMissing(FalseMatchRate);
