//! The only place where a ciphertext is opened. Called by the keyholder, never by the edge.

use tfhe::core_crypto::prelude::*;

use velum_domain::decision::Decision;

use super::{
    decide::{EncryptedDecision, QUARTER},
    keys::{KeyId, SecretKeys},
};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error("the decision belongs to key {found}, not to {expected}")]
    WrongKey { expected: KeyId, found: KeyId },
    /// Its phase is not near ±1/4: no bootstrap under this key made it.
    #[error("the ciphertext is not a decision of this key")]
    NotADecision,
}

impl SecretKeys {
    /// The sign of the phase. Reads one bit and refuses anything that is not clearly one of the two values a
    /// bootstrap gives (an honest decision is off by less than 2^-20 of a turn; one eighth is allowed).
    pub fn open(&self, decision: &EncryptedDecision) -> Result<Decision, OpenError> {
        if decision.key != self.key {
            return Err(OpenError::WrongKey { expected: self.key, found: decision.key });
        }
        let wide = LweSecretKey::from_container(self.glwe.as_ref());
        let phase = decrypt_lwe_ciphertext(&wide, &decision.lwe).0;
        let near = |value: u64| (phase.wrapping_sub(value) as i64).unsigned_abs() < QUARTER / 2;
        if near(QUARTER) {
            Ok(Decision::Match)
        } else if near(QUARTER.wrapping_neg()) {
            Ok(Decision::NoMatch)
        } else {
            Err(OpenError::NotADecision)
        }
    }
}
