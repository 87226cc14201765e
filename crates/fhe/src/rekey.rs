//! Another key for templates that are there already, without calling anybody back to a camera.
//!
//! The keyholder, who has the old secret S and the new one S', encrypts S under S' level by level: a *re-key*. With it the edge
//! replaces the mask of a template, digit by digit, and comes out with an encryption of the same Δ·T under S' (a GLWE key
//! switch). A fresh zero row of the new public key is added, so that nobody, not even a holder of the old template and of the
//! re-key, can tell which new template came from which old one.
//!
//! A re-key reads nothing by itself: it is an encryption under S', as strong as every other. But it makes a copy of an old
//! template comparable again. So it is as short-lived as the rotation, and goes together with the old secret.

use tfhe::core_crypto::prelude::*;

use super::{
    MatchError,
    encrypt::EncryptedTemplate,
    keys::{KeyId, PublicKey, SecretKeys, fresh_generator},
    params::*,
};

/// Brings templates from one key to the next.
pub struct Rekey {
    pub(super) from: KeyId,
    pub(super) to: KeyId,
    pub(super) switch: GlweKeyswitchKeyOwned<u64>,
}

impl SecretKeys {
    /// The way from this secret to `next`, for the keyholder to make.
    pub fn rekey_to(&self, next: &SecretKeys) -> Rekey {
        let mut seeder = new_seeder();
        let seed = seeder.seed();
        let switch = allocate_and_generate_new_glwe_keyswitch_key(
            &self.glwe,
            &next.glwe,
            REKEY_BASE_LOG,
            REKEY_LEVELS,
            GLWE_NOISE,
            MODULUS,
            &mut EncryptionRandomGenerator::<DefaultRandomGenerator>::new(seed, seeder.as_mut()),
        );
        Rekey { from: self.key, to: next.key, switch }
    }
}

impl Rekey {
    /// Key of the templates that go in.
    pub fn from(&self) -> KeyId {
        self.from
    }

    /// Key of the templates that come out.
    pub fn to(&self) -> KeyId {
        self.to
    }

    /// The same face under the new key, whose public half is `next`.
    pub fn apply(&self, template: &EncryptedTemplate, next: &PublicKey) -> Result<EncryptedTemplate, MatchError> {
        for (expected, found) in [(self.from, template.key), (self.to, next.key)] {
            if expected != found {
                return Err(MatchError::WrongKey { expected, found });
            }
        }
        let mut glwe = GlweCiphertext::new(0, GLWE_SIZE, POLYNOMIAL_SIZE, MODULUS);
        keyswitch_glwe_ciphertext(&self.switch, &template.glwe, &mut glwe);
        next.add_zero_row(&mut glwe, &mut fresh_generator());
        // As in a template that was just encrypted: coefficients beyond the score's play no part.
        glwe.get_mut_body().as_mut()[template.encoding.template_coefficients()..].fill(0);
        Ok(EncryptedTemplate { key: self.to, encoding: template.encoding.clone(), delta: template.delta, glwe })
    }
}
