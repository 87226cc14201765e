//! How far an encrypted decision can be from the exact one: variances of every step, and the grey zone they add up to.
//!
//! All variances are in turns² (q = 2^64 is one turn) of the coefficient that holds the score, for secrets and digits as
//! their distributions say; independence between steps is assumed, as in the literature (a heuristic, tested against
//! measurements in this file's tests and in `tests/fhe.rs`). With σ² the variance of TUniform(b), (2^(2b+1) + 1)/6:
//!
//! * zero row under the public key: e·u + e2 - e1·S, so σ_row² = σ²·(N/2 + 1 + N/2);
//! * probe: the N mask digits and the B body digits (uniform, base 2^23) meet row noise: (N + B)·2^46/12·σ_row²;
//! * template: its own row noise times P: |P|²·σ_row²;
//! * rounding the template to 23 bits: ε uniform of width 2^41 meets S·P: 2^82/12·N·(|P|²/4 + (ΣP)²/4), with (ΣP)² taken
//!   as |P|², its mean for components of random sign (a vector of one sign reaches d·|P|², about eight times this
//!   step's deviation, still under the modulus switch's);
//! * re-keying (each one, of the template, so |P|² of it reaches the score): N·3 digits of base 2^11 meet the re-key's noise,
//!   N·3·2^22/12·σ²; a fresh zero row, σ_row²; the template is rounded to 32 bits again, 2^64/12·(1 + N/2). The rounding is a
//!   hundred times the others, and |P|² of it a two-millionth of the modulus switch's variance: re-keyings add up, and
//!   [`rekeyings_max`] says how many it takes until they could be noticed;
//! * key switch (to words of 32 bits): rounding to 16 bits, N/2·2^96/12, and N·4 digits of base 2^4 meet the key's noise;
//! * modulus switch to 2N = 4096 steps of width 2^52, centred: 2^104/12·(1 + n/4). The largest term by far.

use tfhe::core_crypto::prelude::{DynamicDistribution, UnsignedInteger};

use velum_domain::matching::{MatchSpec, Metric, Threshold};

use super::{
    encode::{EncodeError, QuantizedTemplate},
    params::*,
};

/// Half-width of the grey zone in standard deviations. An encrypted decision farther from its threshold than this
/// differs from the unencrypted one with probability below 2^-20.
const GREY_ZONE_DEVIATIONS: f64 = 5.0;

/// Standard deviations, in units of the metric (squared distance or cosine).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Deviation {
    /// After the external product.
    pub product: f64,
    /// After the key switch as well.
    pub key_switch: f64,
    /// After the modulus switch as well: what the decision sees.
    pub decision: f64,
}

/// How far the deviation of a decision may grow by re-keyings before they count as noticeable: one in a hundred.
const REKEYED_GROWTH_MAX: f64 = 0.01;

/// Noise of the encrypted score for a model card.
pub fn deviation(spec: &MatchSpec) -> Result<Deviation, EncodeError> {
    deviation_after(spec, 0)
}

/// Most re-keyings of one template after which the deviation of a decision is still within a hundredth of a fresh template's.
pub fn rekeyings_max(spec: &MatchSpec) -> Result<u32, EncodeError> {
    let variance = |rekeyings| Ok(deviation_after(spec, rekeyings)?.decision.powi(2));
    let (fresh, once) = (variance(0)?, variance(1)?);
    let allowed = (1.0 + REKEYED_GROWTH_MAX).powi(2) - 1.0;
    Ok((fresh * allowed / (once - fresh)) as u32)
}

/// Variance, in turns², that one re-keying adds to each coefficient of a template.
fn rekeying() -> f64 {
    let ring = POLYNOMIAL_SIZE.0 as f64;
    let digits = ring * REKEY_LEVELS.0 as f64 * exp2(2 * REKEY_BASE_LOG.0 as i32) / 12.0;
    let at_rest = uniform(TEMPLATE_MODULUS_LOG.0) * (1.0 + ring / 2.0);
    digits * variance(GLWE_NOISE, 64) + zero_row() + at_rest
}

/// Variance, in turns², of a zero row under the public key.
fn zero_row() -> f64 {
    variance(GLWE_NOISE, 64) * (POLYNOMIAL_SIZE.0 as f64 + 1.0)
}

/// Noise of the encrypted score with a template that was brought under another key so many times.
pub fn deviation_after(spec: &MatchSpec, rekeyings: u32) -> Result<Deviation, EncodeError> {
    let (encoding, delta) = QuantizedTemplate::scaling(spec)?;
    let ring = POLYNOMIAL_SIZE.0 as f64;
    let probe_norm = match encoding.metric {
        Metric::SquaredEuclid => 1.0 + 4.0 * encoding.norm_squared_max as f64,
        Metric::Cosine => encoding.norm_squared_max as f64,
    };
    let row = zero_row();
    let digits = ring + encoding.template_coefficients() as f64;
    let probe = digits * exp2(2 * PROBE_BASE_LOG.0 as i32) / 12.0 * row;
    let template = probe_norm * (row + f64::from(rekeyings) * rekeying());
    let rounding = uniform(PROBE_BASE_LOG.0) * ring * probe_norm / 2.0;
    let product = probe + template + rounding;

    let kept_bits = KEY_SWITCH_BASE_LOG.0 * KEY_SWITCH_LEVELS.0;
    let key_digits = ring * KEY_SWITCH_LEVELS.0 as f64 * exp2(2 * KEY_SWITCH_BASE_LOG.0 as i32) / 12.0;
    let key_switch = ring / 2.0 * uniform(kept_bits) + key_digits * variance(LWE_NOISE, 32);

    let turns_log = POLYNOMIAL_SIZE.0.ilog2() as usize + 1;
    let modulus_switch = uniform(turns_log) * (1.0 + LWE_DIMENSION.0 as f64 / 4.0);

    let unit = exp2(64) / (delta as f64 * spec.scale * spec.scale);
    let in_metric = |variance: f64| variance.sqrt() * unit;
    Ok(Deviation {
        product: in_metric(product),
        key_switch: in_metric(product + key_switch),
        decision: in_metric(product + key_switch + modulus_switch),
    })
}

/// Half-width of the grey zone around `threshold` in units of the metric: within it an encrypted decision may differ
/// from the comparison of the unquantised, unencrypted vectors. Five standard deviations of noise and quantisation.
pub fn grey_zone(spec: &MatchSpec, threshold: Threshold) -> Result<f64, EncodeError> {
    let noise = deviation(spec)?.decision;
    let (quantisation, bias) = quantisation(spec, threshold);
    Ok(GREY_ZONE_DEVIATIONS * noise.hypot(quantisation) + bias)
}

/// Deviation and bias of the metric by rounding each component to a step of 1/scale, near the threshold.
fn quantisation(spec: &MatchSpec, threshold: Threshold) -> (f64, f64) {
    let step = 1.0 / spec.scale;
    match spec.metric {
        // dist² = Σ(D_i + δ_i)², δ the difference of two roundings, variance step²/6.
        Metric::SquaredEuclid => ((4.0 * threshold.0 / 6.0).sqrt() * step, spec.dimension as f64 * step * step / 6.0),
        // ⟨w + δ, v + δ'⟩ with |v| and |w| near 1, variance of a rounding step²/12.
        Metric::Cosine => ((2.0f64 / 12.0).sqrt() * step, 0.0),
    }
}

/// Variance, in turns², of a rounding that keeps the top `bits` bits.
fn uniform(bits: usize) -> f64 {
    exp2(-2 * bits as i32) / 12.0
}

/// Variance, in turns², of an encryption noise under a modulus of 2^`modulus_log`.
fn variance<Word: UnsignedInteger>(noise: DynamicDistribution<Word>, modulus_log: i32) -> f64 {
    match noise {
        DynamicDistribution::TUniform(noise) => noise.variance(exp2(modulus_log)).0,
        DynamicDistribution::Gaussian(noise) => noise.std * noise.std,
    }
}

fn exp2(exponent: i32) -> f64 {
    2f64.powi(exponent)
}

#[cfg(test)]
mod tests {
    use std::f64::consts::TAU;

    use tfhe::core_crypto::prelude::*;
    use zeroize::Zeroizing;

    use super::*;
    use velum_domain::{decision::FalseMatchRate, face::Embedding};

    use crate::{
        decide::shift,
        encode::QuantizedProbe,
        encrypt::EncryptedTemplate,
        keys::{KeySet, generate_pair},
        twin::PlaintextTwin,
    };

    fn spec(metric: Metric, dimension: usize) -> MatchSpec {
        let (threshold, norm_bound) = match metric {
            Metric::SquaredEuclid => (0.6, 1.02),
            Metric::Cosine => (0.4, 1.02),
        };
        MatchSpec {
            model: "noise-test".parse().unwrap(),
            metric,
            dimension,
            mean: None,
            scale: 13.0 * (dimension as f64).sqrt(),
            component_max: 63,
            norm_bound,
            thresholds: [(FalseMatchRate::E3, Threshold(threshold))].into(),
        }
    }

    fn random_embedding(seed: u64, dimension: usize) -> Embedding {
        let uniform = |n: u64| {
            let mut x = (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_add(n.wrapping_mul(0xbf58_476d_1ce4_e5b9));
            x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((x ^ (x >> 31)) >> 11) as f64 / 2f64.powi(53)
        };
        let gauss =
            |i: usize| (-2.0 * uniform(2 * i as u64).max(1e-12).ln()).sqrt() * (TAU * uniform(2 * i as u64 + 1)).cos();
        let components = (0..dimension).map(|i| gauss(i) as f32).collect();
        Embedding::normalised("noise-test".parse().unwrap(), Zeroizing::new(components)).unwrap()
    }

    /// Root mean square of errors given in turns, in units of the metric.
    fn deviation_of(errors: &[f64], spec: &MatchSpec, delta: u64) -> f64 {
        let mean_square = errors.iter().map(|error| error * error).sum::<f64>() / errors.len() as f64;
        mean_square.sqrt() * exp2(64) / (delta as f64 * spec.scale * spec.scale)
    }

    fn turns(difference: u64) -> f64 {
        difference as i64 as f64 / exp2(64)
    }

    #[test]
    fn measured_noise_is_what_the_formula_says() {
        let (keys, small) = KeySet::with_small_secret();
        let wide = keys.secret.glwe.clone().into_lwe_secret_key();
        let evaluation = keys.evaluation.expand();
        for (metric, dimension) in [(Metric::SquaredEuclid, 128), (Metric::Cosine, 128), (Metric::Cosine, 512)] {
            let spec = spec(metric, dimension);
            let threshold = spec.thresholds[&FalseMatchRate::E3];
            let (mut product, mut key_switch, mut decision) = (vec![], vec![], vec![]);
            let mut delta = 0;
            for trial in 0..300 {
                let template = QuantizedTemplate::encode(&spec, &random_embedding(2 * trial, dimension)).unwrap();
                let probe = QuantizedProbe::encode(&spec, &random_embedding(2 * trial + 1, dimension)).unwrap();
                delta = template.delta;
                let steps = PlaintextTwin.score(&probe, &template, threshold);
                let exact = (steps as u64).wrapping_mul(delta).wrapping_add(delta / 2);
                let (probe, template) = (keys.public.encrypt_probe(probe), keys.public.encrypt_template(template));
                let score = evaluation.score(&probe, &template).unwrap();
                let shifted = shift(&score, threshold).unwrap();
                product.push(turns(decrypt_lwe_ciphertext(&wide, &shifted).0.wrapping_sub(exact)));
                let switched = evaluation.switch_key(&shifted);
                let phase = u64::from(decrypt_lwe_ciphertext(&small, &switched).0) << 32;
                key_switch.push(turns(phase.wrapping_sub(exact)));
                decision.push(turns(after_modulus_switch(&small, &switched).wrapping_sub(exact)));
            }
            let formula = deviation(&spec).unwrap();
            for (name, measured, stated) in [
                ("external product", deviation_of(&product, &spec, delta), formula.product),
                ("key switch", deviation_of(&key_switch, &spec, delta), formula.key_switch),
                ("modulus switch", deviation_of(&decision, &spec, delta), formula.decision),
            ] {
                eprintln!(
                    "{} d={dimension} after the {name}: measured {measured:.6}, stated {stated:.6}",
                    metric.as_str()
                );
                assert!((0.7..1.3).contains(&(measured / stated)), "{name}: {measured} against {stated}");
            }
        }
    }

    /// Through as many keys as `REKEYINGS`, and through its bytes each time, as in a database.
    #[test]
    fn rekeying_adds_the_noise_that_the_formula_says_and_keeps_the_template() {
        const REKEYINGS: u32 = 6;
        // Under one public key the errors of neighbouring coefficients hang together (the randomness of an encryption is
        // 0 or 1, so its mean is not zero): only many keys make a sample.
        const CHAINS: u32 = 60;
        let spec = spec(Metric::Cosine, 512);
        let errors: Vec<f64> = (0..CHAINS).flat_map(|_| errors_after(REKEYINGS, &spec)).collect();
        let measured = (errors.iter().map(|error| error * error).sum::<f64>() / errors.len() as f64).sqrt();
        let stated = (zero_row() + f64::from(REKEYINGS) * rekeying()).sqrt();
        eprintln!(
            "after {REKEYINGS} re-keyings: 2^{:.2} of 2^64, stated 2^{:.2}",
            64.0 + measured.log2(),
            64.0 + stated.log2()
        );
        assert!((0.9..1.1).contains(&(measured / stated)), "{measured} against {stated}");
        assert!(rekeyings_max(&spec).unwrap() > 10_000, "{}", rekeyings_max(&spec).unwrap());
        eprintln!("{} re-keyings add a hundredth to the deviation of a decision", rekeyings_max(&spec).unwrap());
    }

    /// Of every coefficient of some templates, in turns, after so many keys.
    fn errors_after(rekeyings: u32, spec: &MatchSpec) -> Vec<f64> {
        let (mut secret, public) = generate_pair();
        let encode = |seed| QuantizedTemplate::encode(spec, &random_embedding(seed, 512)).unwrap();
        let mut templates: Vec<_> = (0..4).map(|seed| public.encrypt_template(encode(seed))).collect();
        for _ in 0..rekeyings {
            let (next_secret, next_public) = generate_pair();
            let rekey = secret.rekey_to(&next_secret);
            for template in &mut templates {
                let renewed = rekey.apply(template, &next_public).unwrap();
                *template = EncryptedTemplate::from_bytes(&renewed.to_bytes(), next_public.key_id()).unwrap();
            }
            secret = next_secret;
        }
        let mut errors = Vec::new();
        for (template, plain) in templates.iter().zip((0..4).map(encode)) {
            let mut exact = vec![0u64; POLYNOMIAL_SIZE.0];
            let mut exact = Polynomial::from_container(exact.as_mut_slice());
            plain.polynomial().add_scaled_to(plain.delta, &mut exact);
            let mut phase = PlaintextList::new(0, PlaintextCount(POLYNOMIAL_SIZE.0));
            decrypt_glwe_ciphertext(&secret.glwe, &template.glwe, &mut phase);
            let pairs = phase.as_ref().iter().zip(exact.as_ref()).take(512);
            errors.extend(pairs.map(|(phase, exact)| turns(phase.wrapping_sub(*exact))));
        }
        errors
    }

    /// The phase that the blind rotation turns by.
    fn after_modulus_switch(small: &LweSecretKeyOwned<u32>, lwe: &LweCiphertextOwned<u32>) -> u64 {
        let log = POLYNOMIAL_SIZE.to_blind_rotation_input_modulus_log();
        let switched = lwe_ciphertext_centered_binary_modulus_switch::<u32, u64, _>(lwe.as_view(), log);
        let mask = switched.mask().zip(small.as_ref()).map(|(a, &s)| a.wrapping_mul(u64::from(s)));
        let mask = mask.fold(0, u64::wrapping_add);
        switched.body().wrapping_sub(mask) << (64 - log.0)
    }

    #[test]
    fn the_grey_zone_is_narrow_against_the_thresholds() {
        let spec = spec(Metric::Cosine, 128);
        let zone = grey_zone(&spec, spec.thresholds[&FalseMatchRate::E3]).unwrap();
        assert!(zone > 0.005 && zone < 0.05, "{zone}");
    }
}
