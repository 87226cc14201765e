//! The three keys of a key set, and who holds them. A secret key cannot be printed, cloned or serialised by accident.

use std::{fmt, str::FromStr};

use sha2::{Digest, Sha256};
use tfhe::core_crypto::{commons::math::random::RandomGenerator, prelude::*};
use zeroize::Zeroize;

use super::params::*;

/// Names a key set: the first 128 bits of SHA-256 over its public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId(pub(super) [u8; 16]);

impl KeyId {
    fn of(zero: &GlweCiphertextOwned<u64>) -> Self {
        let mut hash = Sha256::new_with_prefix(b"velum fhe public key v1");
        zero.as_ref().iter().for_each(|word| hash.update(word.to_le_bytes()));
        let mut id = [0; 16];
        id.copy_from_slice(&hash.finalize()[..16]);
        Self(id)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an FHE key id is 32 hexadecimal digits")]
pub struct InvalidKeyId;

impl FromStr for KeyId {
    type Err = InvalidKeyId;

    fn from_str(text: &str) -> Result<Self, InvalidKeyId> {
        let mut id = [0; 16];
        hex::decode_to_slice(text, &mut id).map_err(|_| InvalidKeyId)?;
        Ok(Self(id))
    }
}

/// The GLWE secret S: whoever holds it reads every template under its key id. Lives in the keyholder only.
pub struct SecretKeys {
    pub(super) key: KeyId,
    pub(super) glwe: GlweSecretKeyOwned<u64>,
}

/// One encryption of zero, (a, b = a·S + e): enough to encrypt, useless to decrypt.
pub struct PublicKey {
    pub(super) key: KeyId,
    /// As stored: the mask a is a seed.
    pub(super) seeded: SeededGlweCiphertextOwned<u64>,
    pub(super) zero: GlweCiphertextOwned<u64>,
}

/// Bootstrap key and key-switch key as stored and sent: masks replaced by seeds, about half the size.
pub struct CompressedEvaluationKey {
    pub(super) key: KeyId,
    pub(super) bootstrap: SeededLweBootstrapKeyOwned<u64>,
    pub(super) key_switch: SeededLweKeyswitchKeyOwned<u32>,
}

/// Bootstrap key (Fourier domain) and key-switch key, ready for use: about 90 MB.
pub struct EvaluationKey {
    pub(super) key: KeyId,
    pub(super) bootstrap: FourierLweBootstrapKeyOwned,
    pub(super) key_switch: LweKeyswitchKeyOwned<u32>,
}

/// What one generation makes. The parts go to different parties.
pub struct KeySet {
    pub secret: SecretKeys,
    pub public: PublicKey,
    pub evaluation: CompressedEvaluationKey,
}

/// Makes a key set with the library's own generators, seeded by the machine. Takes about a second.
pub fn generate() -> KeySet {
    let (secret, public) = generate_pair();
    KeySet { evaluation: secret.new_evaluation_key(), secret, public }
}

pub(super) fn generate_pair() -> (SecretKeys, PublicKey) {
    let mut seeder = new_seeder();
    let mut secrets = SecretRandomGenerator::<DefaultRandomGenerator>::new(seeder.seed());
    let glwe = allocate_and_generate_new_binary_glwe_secret_key(GLWE_DIMENSION, POLYNOMIAL_SIZE, &mut secrets);
    let public = PublicKey::from_seeded(encrypt_zero(&glwe, seeder.as_mut()));
    (SecretKeys { key: public.key, glwe }, public)
}

fn encrypt_zero(glwe: &GlweSecretKeyOwned<u64>, seeder: &mut dyn Seeder) -> SeededGlweCiphertextOwned<u64> {
    let mut zero = SeededGlweCiphertext::new(0, GLWE_SIZE, POLYNOMIAL_SIZE, seeder.seed().into(), MODULUS);
    let message = PlaintextList::new(0, PlaintextCount(POLYNOMIAL_SIZE.0));
    encrypt_seeded_glwe_ciphertext(glwe, &mut zero, &message, GLWE_NOISE, seeder);
    zero
}

impl SecretKeys {
    /// Makes an evaluation key for this secret: the first, or another one should the first be lost. The small LWE
    /// secret behind it is not kept; a decision is read under the GLWE secret.
    pub fn new_evaluation_key(&self) -> CompressedEvaluationKey {
        let mut small = new_small_secret();
        let evaluation = self.evaluation_key_through(&small);
        small.as_mut().zeroize();
        evaluation
    }

    fn evaluation_key_through(&self, small: &LweSecretKeyOwned<u32>) -> CompressedEvaluationKey {
        let mut seeder = new_seeder();
        let bootstrap = par_allocate_and_generate_new_seeded_lwe_bootstrap_key(
            small,
            &self.glwe,
            BOOTSTRAP_BASE_LOG,
            BOOTSTRAP_LEVELS,
            GLWE_NOISE,
            MODULUS,
            seeder.as_mut(),
        );
        let key_switch = allocate_and_generate_new_seeded_lwe_keyswitch_key(
            &LweSecretKey::from_container(self.glwe.as_ref()),
            small,
            KEY_SWITCH_BASE_LOG,
            KEY_SWITCH_LEVELS,
            LWE_NOISE,
            SMALL_MODULUS,
            seeder.as_mut(),
        );
        CompressedEvaluationKey { key: self.key, bootstrap, key_switch }
    }

    pub fn key_id(&self) -> KeyId {
        self.key
    }

    /// Whether `public` is the public half of this secret: its phase is then small noise and nothing else.
    pub fn belong_to(&self, public: &PublicKey) -> bool {
        let mut phase = PlaintextList::new(0, PlaintextCount(POLYNOMIAL_SIZE.0));
        decrypt_glwe_ciphertext(&self.glwe, &public.zero, &mut phase);
        let noise_max = 1u64 << 17;
        let belong = phase.as_ref().iter().all(|&x| (x as i64).unsigned_abs() <= noise_max);
        // The noise, with the public key, gives the secret.
        phase.as_mut().zeroize();
        self.key == public.key && belong
    }
}

impl Drop for SecretKeys {
    fn drop(&mut self) {
        self.glwe.as_mut().zeroize();
    }
}

impl PublicKey {
    pub fn key_id(&self) -> KeyId {
        self.key
    }

    pub(super) fn from_seeded(seeded: SeededGlweCiphertextOwned<u64>) -> Self {
        let zero = seeded.clone().decompress_into_glwe_ciphertext();
        Self { key: KeyId::of(&zero), seeded, zero }
    }
}

impl CompressedEvaluationKey {
    pub fn key_id(&self) -> KeyId {
        self.key
    }

    /// Expands the seeds and brings the bootstrap key into the Fourier domain.
    pub fn expand(self) -> EvaluationKey {
        let standard = self.bootstrap.par_decompress_into_lwe_bootstrap_key();
        let mut bootstrap = FourierLweBootstrapKey::new(
            LWE_DIMENSION,
            GLWE_SIZE,
            POLYNOMIAL_SIZE,
            BOOTSTRAP_BASE_LOG,
            BOOTSTRAP_LEVELS,
        );
        par_convert_standard_lwe_bootstrap_key_to_fourier(&standard, &mut bootstrap);
        EvaluationKey { key: self.key, bootstrap, key_switch: self.key_switch.decompress_into_lwe_keyswitch_key() }
    }
}

impl EvaluationKey {
    pub fn key_id(&self) -> KeyId {
        self.key
    }

    /// Bytes of this key in memory.
    pub fn memory_bytes(&self) -> usize {
        size_of_val(self.bootstrap.as_view().data()) + size_of_val(self.key_switch.as_ref())
    }
}

fn new_small_secret() -> LweSecretKeyOwned<u32> {
    let mut secrets = SecretRandomGenerator::<DefaultRandomGenerator>::new(new_seeder().seed());
    allocate_and_generate_new_binary_lwe_secret_key(LWE_DIMENSION, &mut secrets)
}

/// A generator for the randomness of one encryption, seeded afresh by the machine.
pub(super) fn fresh_generator() -> RandomGenerator<DefaultRandomGenerator> {
    RandomGenerator::new(new_seeder().seed())
}

#[cfg(test)]
impl KeySet {
    /// A key set together with the small LWE secret that [`generate`] throws away: to measure noise behind the key switch.
    pub(super) fn with_small_secret() -> (Self, LweSecretKeyOwned<u32>) {
        let mut keys = generate();
        let small = new_small_secret();
        keys.evaluation = keys.secret.evaluation_key_through(&small);
        (keys, small)
    }
}
