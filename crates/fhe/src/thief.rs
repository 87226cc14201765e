//! What a thief sees of a ciphertext who has everything but the keyholder's secret, and what he would see with it. For
//! measuring how well templates are protected; the service asks for none of this.
//!
//! Coefficients are shares of a turn, in \[-1/2, 1/2\].

use tfhe::core_crypto::prelude::*;

use super::{
    decide::EncryptedDecision, encode::QuantizedTemplate, encrypt::EncryptedTemplate, keys::SecretKeys,
    params::POLYNOMIAL_SIZE,
};

impl EncryptedTemplate {
    /// All that is stored of a face: the mask, then the body's coefficients that count.
    pub fn stolen(&self) -> Vec<f32> {
        let stored = POLYNOMIAL_SIZE.0 + self.encoding.template_coefficients();
        self.glwe.as_ref().iter().take(stored).map(turns).collect()
    }
}

impl EncryptedDecision {
    /// The mask, then the body.
    pub fn stolen(&self) -> Vec<f32> {
        self.lwe.as_ref().iter().map(turns).collect()
    }
}

impl QuantizedTemplate {
    /// Δ·T(X): what would be stored without encryption.
    pub fn unprotected(&self) -> Vec<f32> {
        let mut coefficients = vec![0; POLYNOMIAL_SIZE.0];
        let mut target = Polynomial::from_container(coefficients.as_mut_slice());
        self.polynomial().add_scaled_to(self.delta, &mut target);
        coefficients.iter().take(self.encoding.template_coefficients()).map(turns).collect()
    }
}

impl SecretKeys {
    /// Δ·T(X) and noise: what the thief of both hosts reads. The control of a measurement, which shows that it can fail.
    pub fn read_stolen(&self, template: &EncryptedTemplate) -> Vec<f32> {
        let mut phase = PlaintextList::new(0, PlaintextCount(POLYNOMIAL_SIZE.0));
        decrypt_glwe_ciphertext(&self.glwe, &template.glwe, &mut phase);
        phase.as_ref().iter().take(template.encoding.template_coefficients()).map(turns).collect()
    }
}

fn turns(word: &u64) -> f32 {
    (*word as i64 as f64 / 2f64.powi(64)) as f32
}
