//! The encrypted decision: threshold, key switch, one bootstrap.

use tfhe::core_crypto::prelude::*;

use velum_domain::matching::{Metric, Threshold};

use super::{
    MatchError,
    keys::{EvaluationKey, KeyId},
    params::*,
    score::EncryptedScore,
};

/// An LWE encryption of +1/4 (match) or -1/4 (no match) under the flattened GLWE secret: one bit, for the keyholder.
pub struct EncryptedDecision {
    pub(super) key: KeyId,
    pub(super) lwe: LweCiphertextOwned<u64>,
}

/// A quarter of the torus.
pub(super) const QUARTER: u64 = 1 << 62;

impl EncryptedDecision {
    pub fn key_id(&self) -> KeyId {
        self.key
    }
}

impl EvaluationKey {
    pub fn decide(&self, score: EncryptedScore, threshold: Threshold) -> Result<EncryptedDecision, MatchError> {
        if score.key != self.key {
            return Err(MatchError::WrongKey { expected: self.key, found: score.key });
        }
        let shifted = shift(&score, threshold)?;
        Ok(self.bootstrap(&self.switch_key(&shifted)))
    }

    /// From the flattened GLWE secret and 64-bit words to the small LWE secret and 32-bit words.
    pub fn switch_key(&self, lwe: &LweCiphertextOwned<u64>) -> LweCiphertextOwned<u32> {
        let mut small = LweCiphertext::new(0, LWE_DIMENSION.to_lwe_size(), SMALL_MODULUS);
        keyswitch_lwe_ciphertext_with_scalar_change(&self.key_switch, lwe, &mut small);
        small
    }

    /// The constant accumulator 1/4: rotated by a phase in [0, 1/2) it reads +1/4, by one in [1/2, 1) it reads -1/4.
    pub fn bootstrap(&self, small: &LweCiphertextOwned<u32>) -> EncryptedDecision {
        let mut accumulator = GlweCiphertext::new(0, GLWE_SIZE, POLYNOMIAL_SIZE, MODULUS);
        accumulator.get_mut_body().as_mut().fill(QUARTER);
        let turns = POLYNOMIAL_SIZE.to_blind_rotation_input_modulus_log();
        let switched = lwe_ciphertext_centered_binary_modulus_switch::<u32, usize, _>(small.as_view(), turns);
        blind_rotate_assign(&switched, &mut accumulator, &self.bootstrap);
        let mut lwe = LweCiphertext::new(0, WIDE_LWE_DIMENSION.to_lwe_size(), MODULUS);
        extract_lwe_sample_from_glwe_ciphertext(&accumulator, &mut lwe, MonomialDegree(0));
        EncryptedDecision { key: self.key, lwe }
    }
}

/// The score with its clear terms and the threshold: its phase is in [0, 1/2) if and only if it is a match.
pub fn shift(score: &EncryptedScore, threshold: Threshold) -> Result<LweCiphertextOwned<u64>, MatchError> {
    let mut lwe = score.lwe.clone();
    lwe_ciphertext_plaintext_add_assign(&mut lwe, Plaintext(clear_part(score, threshold)?));
    Ok(lwe)
}

/// Δ·(clear term ± threshold) + Δ/2. The half step puts the sign change midway between the last integer that matches
/// and the first that does not.
fn clear_part(score: &EncryptedScore, threshold: Threshold) -> Result<u64, MatchError> {
    let out_of_range = || MatchError::ThresholdOutOfRange(threshold.0);
    if !threshold.0.is_finite() {
        return Err(out_of_range());
    }
    let depth = u64::try_from(score.encoding.score_depth(threshold)).map_err(|_| out_of_range())?;
    // The deepest score must not reach half a turn, or it would wrap into a match.
    if score.delta.checked_mul(depth + 1).is_none_or(|widest| widest >= 1 << 63) {
        return Err(out_of_range());
    }
    let boundary = match score.encoding.metric {
        Metric::SquaredEuclid => score.encoding.threshold_steps(threshold),
        Metric::Cosine => -score.encoding.threshold_steps(threshold),
    };
    let steps = *score.clear_term + boundary;
    Ok((steps as u64).wrapping_mul(score.delta).wrapping_add(score.delta / 2))
}
