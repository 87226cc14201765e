//! The keyholder itself: check, journal, open, in this order.

use std::sync::Arc;

use crate::{
    domain::{
        clock::Clock,
        decision::Decision,
        id::{SubjectId, TenantId},
    },
    fhe::{
        decide::EncryptedDecision,
        keys::{KeyId, PublicKey, SecretKeys},
        open::OpenError,
    },
    measure,
    store::{
        StoreError,
        journal::{AuditEvent, Budgets, JournalError, KeyholderJournal, Opening},
    },
};

use super::{Caller, DECISIONS_MAX, KeyholderError, OpenRequest};

/// Set budgets a little above the real traffic: they are what stands between a stolen edge and the secret key.
pub const DEFAULT_BUDGETS: Budgets = Budgets { per_subject: 500, per_tenant: 200_000, per_day: 1_000_000 };

/// The secret keys and the journal that meters their use.
pub struct LocalKeyholder {
    secret: SecretKeys,
    /// While keys are changed: the secret before, for edges that were not started anew yet.
    retiring: Option<SecretKeys>,
    journal: KeyholderJournal,
    budgets: Budgets,
    clock: Arc<dyn Clock>,
}

impl LocalKeyholder {
    /// Writes the first audit line of this process, so that a journal which cannot be written stops the start.
    pub async fn start(
        secret: SecretKeys,
        journal: KeyholderJournal,
        budgets: Budgets,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, KeyholderError> {
        let keyholder = Self { secret, retiring: None, journal, budgets, clock };
        keyholder.note(AuditEvent { event: "keyholder_started", ..AuditEvent::default() }).await?;
        Ok(keyholder)
    }

    /// The same, with the secret that its own is about to follow.
    pub fn also_holding(self, retiring: Option<SecretKeys>) -> Self {
        Self { retiring, ..self }
    }

    pub fn key_id(&self) -> KeyId {
        self.secret.key_id()
    }

    pub fn retiring_key_id(&self) -> Option<KeyId> {
        self.retiring.as_ref().map(SecretKeys::key_id)
    }

    pub fn holds(&self, key: KeyId) -> bool {
        self.secret_of(key).is_some()
    }

    fn secret_of(&self, key: KeyId) -> Option<&SecretKeys> {
        [Some(&self.secret), self.retiring.as_ref()].into_iter().flatten().find(|secret| secret.key_id() == key)
    }

    /// Whether what is encrypted under `public` can be opened here.
    pub fn holds_the_key_of(&self, public: &PublicKey) -> bool {
        self.secret.belong_to(public)
    }

    pub async fn open(&self, request: OpenRequest, caller: Caller) -> Result<Decision, KeyholderError> {
        let OpenRequest { verification, tenant, subject, decisions } = request;
        let opening = Opening { verification, tenant, subject, caller: caller.to_string() };
        let outcome = self.open_metered(opening, &decisions).await;
        measure::opening(outcome.as_ref().map_or_else(KeyholderError::code, |_| "opened"));
        match &outcome {
            Ok(_) => {
                tracing::info!(event = "decision_opened", %verification, %tenant, %caller, "a decision was opened")
            }
            Err(refusal) => {
                tracing::warn!(event = "opening_refused", %verification, %tenant, %caller, code = refusal.code(), "an opening was refused");
            }
        }
        outcome
    }

    /// Writes down a request that was refused before it could be read. What cannot be written down is not answered with its
    /// reason either: without its journal the keyholder is away.
    pub(super) async fn note_refusal(&self, refusal: KeyholderError, caller: Caller) -> KeyholderError {
        measure::opening(refusal.code());
        tracing::warn!(event = "request_refused", %caller, code = refusal.code(), "a request was refused at the door");
        let event = AuditEvent {
            event: "request_refused",
            reason: refusal.code(),
            caller: caller.to_string(),
            ..AuditEvent::default()
        };
        self.note(event).await.err().unwrap_or(refusal)
    }

    pub async fn forget(
        &self,
        tenant: TenantId,
        subject: SubjectId,
        caller: Caller,
    ) -> Result<Option<u64>, KeyholderError> {
        let forgotten = self.journal.forget(tenant, subject, caller.to_string(), self.clock.now()).await;
        let counters = forgotten.map_err(journal_failed)?;
        tracing::info!(event = "subject_forgotten", %tenant, %caller, "a subject was forgotten");
        Ok(counters)
    }

    /// Whether an opening could be written down now: what cannot be written down is not opened.
    pub async fn ready(&self) -> Result<(), KeyholderError> {
        self.journal.ready(self.clock.now()).await.map_err(journal_failed)
    }

    /// Tells [`measure`] how much of the day's budget is spent.
    pub async fn measure(&self) {
        if let Ok(opened) = self.journal.opened_today(self.clock.now()).await {
            measure::keyholder_budget_used(opened as f64 / f64::from(self.budgets.per_day.max(1)));
        }
    }

    /// Invariant: nothing is opened before the journal has admitted it. Every outcome leaves one audit line, and a ciphertext
    /// that turns out not to be a decision leaves a second one.
    async fn open_metered(
        &self,
        opening: Opening,
        decisions: &[EncryptedDecision],
    ) -> Result<Decision, KeyholderError> {
        let about = AuditEvent::about(&opening);
        if let Err(refusal) = self.check(decisions) {
            self.note(AuditEvent { event: "opening_refused", reason: refusal.code(), ..about }).await?;
            return Err(refusal);
        }
        self.journal.admit(opening, self.budgets, self.clock.now()).await.map_err(not_admitted)?;
        match self.any_match(decisions) {
            Err(failure) => {
                self.note(AuditEvent { event: "opening_failed", reason: failure.code(), ..about }).await?;
                Err(failure)
            }
            answer => answer,
        }
    }

    /// What can be refused without touching a budget, because the refusal tells nothing about the key.
    fn check(&self, decisions: &[EncryptedDecision]) -> Result<(), KeyholderError> {
        if decisions.is_empty() || decisions.len() > DECISIONS_MAX {
            return Err(KeyholderError::Malformed);
        }
        if decisions.iter().any(|decision| !self.holds(decision.key_id())) {
            return Err(KeyholderError::WrongKey);
        }
        Ok(())
    }

    /// Opens every decision, also after a match was found, so that the time taken does not tell which one matched.
    /// A few microseconds each: not worth a thread of its own.
    fn any_match(&self, decisions: &[EncryptedDecision]) -> Result<Decision, KeyholderError> {
        let open = |decision: &EncryptedDecision| {
            let secret = self.secret_of(decision.key_id()).unwrap_or(&self.secret);
            secret.open(decision)
        };
        let opened: Vec<_> = decisions.iter().map(open).collect();
        let mut answer = Decision::NoMatch;
        for decision in opened {
            match decision {
                Ok(Decision::Match) => answer = Decision::Match,
                Ok(Decision::NoMatch) => {}
                Err(OpenError::WrongKey { .. }) => return Err(KeyholderError::WrongKey),
                Err(OpenError::NotADecision) => return Err(KeyholderError::Malformed),
            }
        }
        Ok(answer)
    }

    async fn note(&self, event: AuditEvent) -> Result<(), KeyholderError> {
        self.journal.note(event, self.clock.now()).await.map_err(journal_failed)
    }
}

fn not_admitted(refusal: JournalError) -> KeyholderError {
    match refusal {
        JournalError::AlreadyOpened => KeyholderError::AlreadyOpened,
        JournalError::Untimely => KeyholderError::Untimely,
        JournalError::Forgotten => KeyholderError::Forgotten,
        JournalError::BudgetSpent { scope, retry_after_s } => KeyholderError::BudgetSpent { scope, retry_after_s },
        JournalError::Store(error) => journal_failed(error),
    }
}

/// Fails closed: without its journal the keyholder opens nothing.
fn journal_failed(error: StoreError) -> KeyholderError {
    tracing::error!(
        event = "journal_failed",
        error = &error as &dyn std::error::Error,
        "the keyholder's journal failed"
    );
    KeyholderError::unavailable()
}
