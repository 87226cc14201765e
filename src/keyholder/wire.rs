//! What travels between edge and keyholder. Version 1:
//!
//! ```text
//! POST /v1/open     headers velum-key, velum-verification, velum-tenant, velum-subject
//!                   body: for each decision its length (u32, little-endian) and its bytes
//!                   -> 200 {"match":0} or {"match":1}
//! POST /v1/forget   headers velum-tenant, velum-subject
//!                   -> 200 {"counters":1}: as many were removed; 204 of a keyholder that did not say so yet
//! GET  /v1/ready    -> 200 {"key":"<key id>"}, while keys are changed with "retiring":"<key id>"
//! otherwise         problem+json with `code`, `retry_after_s` and, for a spent budget, `scope`
//! ```
//! Both answers to `open` have the same length, so that the size of an encrypted record does not tell them apart.

use serde::{Deserialize, Serialize};

use crate::{
    domain::decision::Decision,
    fhe::{decide::EncryptedDecision, keys::KeyId, wire::WireError},
};

use super::{BudgetScope, DECISIONS_MAX, KeyholderError};

pub(super) const OPEN: &str = "/v1/open";
pub(super) const FORGET: &str = "/v1/forget";
pub(super) const READY: &str = "/v1/ready";

pub(super) const KEY: &str = "velum-key";
pub(super) const VERIFICATION: &str = "velum-verification";
pub(super) const TENANT: &str = "velum-tenant";
pub(super) const SUBJECT: &str = "velum-subject";

/// Largest accepted decision, in bytes; an honest one has about 16,500.
const DECISION_BYTES_MAX: usize = 20_000;
const LENGTH_BYTES: usize = 4;
pub(super) const BODY_BYTES_MAX: usize = DECISIONS_MAX * (LENGTH_BYTES + DECISION_BYTES_MAX);

pub(super) fn write_decisions(decisions: &[EncryptedDecision]) -> Vec<u8> {
    let mut body = Vec::new();
    for decision in decisions {
        let bytes = decision.to_bytes();
        body.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        body.extend_from_slice(&bytes);
    }
    body
}

pub(super) fn read_decisions(mut body: &[u8], key: KeyId) -> Result<Vec<EncryptedDecision>, KeyholderError> {
    let mut decisions = Vec::new();
    while !body.is_empty() {
        let (length, rest) = body.split_first_chunk::<LENGTH_BYTES>().ok_or(KeyholderError::Malformed)?;
        let length = u32::from_le_bytes(*length) as usize;
        if length > DECISION_BYTES_MAX || length > rest.len() || decisions.len() == DECISIONS_MAX {
            return Err(KeyholderError::Malformed);
        }
        let (decision, rest) = rest.split_at(length);
        decisions.push(EncryptedDecision::from_bytes(decision, key).map_err(|error| match error {
            WireError::WrongKey { .. } => KeyholderError::WrongKey,
            _ => KeyholderError::Malformed,
        })?);
        body = rest;
    }
    Ok(decisions)
}

#[derive(Serialize, Deserialize)]
pub(super) struct Answer {
    #[serde(rename = "match")]
    any_match: u8,
}

impl From<Decision> for Answer {
    fn from(decision: Decision) -> Self {
        Self { any_match: u8::from(decision.is_match()) }
    }
}

impl Answer {
    pub(super) fn decision(&self) -> Option<Decision> {
        match self.any_match {
            0 => Some(Decision::NoMatch),
            1 => Some(Decision::Match),
            _ => None,
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct Forgotten {
    pub(super) counters: Option<u64>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Readiness {
    pub(super) key: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) retiring: Option<String>,
}

/// A refusal as RFC 9457 problem+json.
#[derive(Serialize, Deserialize)]
pub(super) struct Problem {
    pub(super) title: String,
    pub(super) status: u16,
    pub(super) code: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) scope: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) retry_after_s: Option<u64>,
}

impl From<&KeyholderError> for Problem {
    fn from(error: &KeyholderError) -> Self {
        let scope = match error {
            KeyholderError::BudgetSpent { scope, .. } => Some(scope.as_str().to_owned()),
            _ => None,
        };
        let status = match error {
            KeyholderError::Malformed => 400,
            KeyholderError::Forbidden => 403,
            KeyholderError::AlreadyOpened => 409,
            KeyholderError::Forgotten => 410,
            KeyholderError::WrongKey | KeyholderError::Untimely => 422,
            KeyholderError::BudgetSpent { .. } => 429,
            KeyholderError::Unavailable { .. } => 503,
        };
        let (title, code) = (error.to_string(), error.code().to_owned());
        Self { title, status, code, scope, retry_after_s: error.retry_after_s() }
    }
}

impl Problem {
    /// What the keyholder meant; a problem that this program does not know leaves only that it did not answer.
    pub(super) fn meaning(&self) -> KeyholderError {
        let retry_after_s = self.retry_after_s.unwrap_or(KeyholderError::RETRY_AFTER_S);
        let unavailable = KeyholderError::Unavailable { retry_after_s };
        let scopes = [BudgetScope::Subject, BudgetScope::Tenant, BudgetScope::Day];
        let scope = scopes.into_iter().find(|scope| self.scope.as_deref() == Some(scope.as_str()));
        let spent = scope.map(|scope| KeyholderError::BudgetSpent { scope, retry_after_s });
        let known = [
            KeyholderError::Malformed,
            KeyholderError::Forbidden,
            KeyholderError::AlreadyOpened,
            KeyholderError::Untimely,
            KeyholderError::Forgotten,
            KeyholderError::WrongKey,
        ];
        known.into_iter().chain(spent).find(|error| error.code() == self.code).unwrap_or(unavailable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_keeps_its_meaning_on_the_wire() {
        for error in [
            KeyholderError::Unavailable { retry_after_s: 7 },
            KeyholderError::AlreadyOpened,
            KeyholderError::Untimely,
            KeyholderError::Forgotten,
            KeyholderError::BudgetSpent { scope: BudgetScope::Subject, retry_after_s: 1 },
            KeyholderError::BudgetSpent { scope: BudgetScope::Tenant, retry_after_s: 2 },
            KeyholderError::BudgetSpent { scope: BudgetScope::Day, retry_after_s: 3 },
            KeyholderError::WrongKey,
            KeyholderError::Malformed,
            KeyholderError::Forbidden,
        ] {
            let json = serde_json::to_vec(&Problem::from(&error)).unwrap();
            assert_eq!(serde_json::from_slice::<Problem>(&json).unwrap().meaning(), error);
        }
    }

    #[test]
    fn both_answers_have_the_same_length() {
        let [yes, no] =
            [Decision::Match, Decision::NoMatch].map(|decision| serde_json::to_vec(&Answer::from(decision)).unwrap());
        assert_eq!(yes.len(), no.len());
        assert_ne!(yes, no);
    }
}
