//! The one parameter set in use. Nothing here is invented: the numbers are the library's own constant.

use tfhe::{
    core_crypto::{
        fft_impl::fft64::crypto::bootstrap::LweBootstrapKeyConformanceParams,
        prelude::{
            CiphertextModulus, CiphertextModulusLog, DecompositionBaseLog, DecompositionLevelCount,
            DynamicDistribution, GlweCiphertextConformanceParams, GlweDimension, GlweKeyswitchKeyConformanceParams,
            GlweSize, LweCiphertextConformanceParams, LweDimension, LweKeyswitchKeyConformanceParams, PolynomialSize,
        },
    },
    shortint::parameters::{KeySwitch32PBSParameters, v1_8::V1_8_PARAM_MESSAGE_2_CARRY_2_KS32_PBS_TUNIFORM_2M128},
};

/// `V1_8_PARAM_MESSAGE_2_CARRY_2_KS32_PBS_TUNIFORM_2M128` of crate `tfhe` 1.8.2: 128-bit security and a failure
/// probability of 2^-128 for its own four-bit bootstraps, both by the library's estimate. LWE n = 918, TUniform(13) of
/// 2^32; GLWE k = 1, N = 2048, TUniform(17) of 2^64; bootstrap base 2^23, one level; key switch base 2^4, four levels.
/// It differs from the library's 64-bit set in the words of the small ciphertext only: the same noise for its modulus,
/// half the key-switch key to read.
///
/// We bootstrap to one bit instead of four. What a wrong decision near the threshold means for us is derived in
/// [`super::noise`].
const LIBRARY_SET: KeySwitch32PBSParameters = V1_8_PARAM_MESSAGE_2_CARRY_2_KS32_PBS_TUNIFORM_2M128;

/// Name of the set, stored with every template: ciphertexts of another set are refused, never guessed at.
pub const PARAMETER_ID: &str = "tfhe-1.8-m2c2-ks32-tuniform-2m128";

/// [`PARAMETER_ID`] as it stands in binary frames.
pub(super) const PARAMETER_NUMBER: u16 = 1;

pub(super) const LWE_DIMENSION: LweDimension = LIBRARY_SET.lwe_dimension;
pub(super) const GLWE_DIMENSION: GlweDimension = LIBRARY_SET.glwe_dimension;
pub(super) const GLWE_SIZE: GlweSize = GlweSize(GLWE_DIMENSION.0 + 1);
pub(super) const POLYNOMIAL_SIZE: PolynomialSize = LIBRARY_SET.polynomial_size;
/// Dimension of the LWE ciphertexts that live under the flattened GLWE secret: k·N.
pub(super) const WIDE_LWE_DIMENSION: LweDimension = LweDimension(GLWE_DIMENSION.0 * POLYNOMIAL_SIZE.0);
pub(super) const LWE_NOISE: DynamicDistribution<u32> = LIBRARY_SET.lwe_noise_distribution;
pub(super) const GLWE_NOISE: DynamicDistribution<u64> = LIBRARY_SET.glwe_noise_distribution;
pub(super) const BOOTSTRAP_BASE_LOG: DecompositionBaseLog = LIBRARY_SET.pbs_base_log;
pub(super) const BOOTSTRAP_LEVELS: DecompositionLevelCount = LIBRARY_SET.pbs_level;
pub(super) const KEY_SWITCH_BASE_LOG: DecompositionBaseLog = LIBRARY_SET.ks_base_log;
pub(super) const KEY_SWITCH_LEVELS: DecompositionLevelCount = LIBRARY_SET.ks_level;
/// q = 2^64, of everything under the GLWE secret.
pub(super) const MODULUS: CiphertextModulus<u64> = LIBRARY_SET.ciphertext_modulus;
/// 2^32, of what lies between key switch and bootstrap.
pub(super) const SMALL_MODULUS: CiphertextModulus<u32> = LIBRARY_SET.post_keyswitch_ciphertext_modulus;

/// Decomposition of the probe's GGSW ciphertext: the bootstrap's own. A second level would double the cost of the
/// external product to lower a noise that is already a sixth of the modulus switch's.
pub(super) const PROBE_BASE_LOG: DecompositionBaseLog = DecompositionBaseLog(23);
pub(super) const PROBE_LEVELS: DecompositionLevelCount = DecompositionLevelCount(1);

/// Bits kept of each template coefficient at rest. The external product looks at the top 23 only; the other nine keep
/// a later homomorphic key switch ([`super::rekey`]) from adding to the noise.
pub(super) const TEMPLATE_MODULUS_LOG: CiphertextModulusLog = CiphertextModulusLog(32);

/// Decomposition of a re-key. Security rests on dimension and noise alone, which are the set's; base and levels decide how much
/// noise a template gains. Three levels of 2^11 take all 32 bits that a template keeps, so nothing is rounded on the way in,
/// and add a tenth of the deviation that rounding the new template to 32 bits adds ([`super::noise`]): a fourth level would
/// cost time for nothing, two of 2^16 would add twice what the rounding does.
pub(super) const REKEY_BASE_LOG: DecompositionBaseLog = DecompositionBaseLog(11);
pub(super) const REKEY_LEVELS: DecompositionLevelCount = DecompositionLevelCount(3);

// The protocol's arithmetic below is written for these shapes.
const _: () = {
    assert!(GLWE_DIMENSION.0 == 1);
    assert!(POLYNOMIAL_SIZE.0 == 2048);
    assert!(PROBE_LEVELS.0 == 1 && PROBE_BASE_LOG.0 == BOOTSTRAP_BASE_LOG.0);
    assert!(TEMPLATE_MODULUS_LOG.0 > PROBE_BASE_LOG.0);
    assert!(REKEY_BASE_LOG.0 * REKEY_LEVELS.0 >= TEMPLATE_MODULUS_LOG.0);
};

pub(super) fn glwe_shape() -> GlweCiphertextConformanceParams<u64> {
    GlweCiphertextConformanceParams { glwe_dim: GLWE_DIMENSION, polynomial_size: POLYNOMIAL_SIZE, ct_modulus: MODULUS }
}

pub(super) fn wide_lwe_shape() -> LweCiphertextConformanceParams<u64> {
    LweCiphertextConformanceParams { lwe_dim: WIDE_LWE_DIMENSION, ct_modulus: MODULUS }
}

pub(super) fn bootstrap_key_shape() -> LweBootstrapKeyConformanceParams<u64> {
    LweBootstrapKeyConformanceParams {
        decomp_base_log: BOOTSTRAP_BASE_LOG,
        decomp_level_count: BOOTSTRAP_LEVELS,
        input_lwe_dimension: LWE_DIMENSION,
        output_glwe_size: GLWE_SIZE,
        polynomial_size: POLYNOMIAL_SIZE,
        ciphertext_modulus: MODULUS,
    }
}

pub(super) fn key_switch_key_shape() -> LweKeyswitchKeyConformanceParams<u32> {
    LweKeyswitchKeyConformanceParams {
        decomp_base_log: KEY_SWITCH_BASE_LOG,
        decomp_level_count: KEY_SWITCH_LEVELS,
        output_lwe_size: LWE_DIMENSION.to_lwe_size(),
        input_lwe_dimension: WIDE_LWE_DIMENSION,
        ciphertext_modulus: SMALL_MODULUS,
    }
}

pub(super) fn rekey_shape() -> GlweKeyswitchKeyConformanceParams {
    GlweKeyswitchKeyConformanceParams {
        decomp_base_log: REKEY_BASE_LOG,
        decomp_level_count: REKEY_LEVELS,
        output_glwe_size: GLWE_SIZE,
        input_glwe_dimension: GLWE_DIMENSION,
        polynomial_size: POLYNOMIAL_SIZE,
        ciphertext_modulus: MODULUS,
    }
}
