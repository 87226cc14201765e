//! The encrypted score: one external product and one coefficient taken out. No key is involved that could open anything.

use tfhe::core_crypto::prelude::*;
use zeroize::Zeroizing;

use super::{
    MatchError,
    encode::Encoding,
    encrypt::{EncryptedProbe, EncryptedTemplate},
    keys::{EvaluationKey, KeyId},
    params::*,
};

/// Δ·(score - threshold term) as an LWE ciphertext under the flattened GLWE secret. Never leaves the process.
pub struct EncryptedScore {
    pub(super) key: KeyId,
    pub(super) encoding: Encoding,
    pub(super) delta: u64,
    /// Still to be added in the clear, in steps.
    pub(super) clear_term: Zeroizing<i64>,
    pub(super) lwe: LweCiphertextOwned<u64>,
}

impl EvaluationKey {
    /// P·T by the external product GGSW × GLWE; the score is one coefficient of it.
    pub fn score(&self, probe: &EncryptedProbe, template: &EncryptedTemplate) -> Result<EncryptedScore, MatchError> {
        for found in [probe.key, template.key] {
            if found != self.key {
                return Err(MatchError::WrongKey { expected: self.key, found });
            }
        }
        if probe.encoding != template.encoding {
            return Err(MatchError::DifferentEncoding);
        }
        let mut product = GlweCiphertext::new(0, GLWE_SIZE, POLYNOMIAL_SIZE, MODULUS);
        add_external_product_assign(&mut product, &probe.ggsw, &template.glwe);
        let mut lwe = LweCiphertext::new(0, WIDE_LWE_DIMENSION.to_lwe_size(), MODULUS);
        extract_lwe_sample_from_glwe_ciphertext(&product, &mut lwe, template.encoding.score_degree());
        Ok(EncryptedScore {
            key: self.key,
            encoding: template.encoding.clone(),
            delta: template.delta,
            clear_term: probe.clear_term.clone(),
            lwe,
        })
    }
}
