//! Public-key encryption of templates and probes. The edge can encrypt and cannot decrypt.
//!
//! The public key is pk = (a, b = a·S + e). A *zero row* is (a·u + e1, b·u + e2) with u uniform binary and e1, e2 from
//! the GLWE noise distribution: a fresh encryption of zero. A template is a zero row plus (0, Δ·T). A probe's GGSW
//! ciphertext has one zero row for each GLWE component; P times the gadget factor g = 2^(64-23) is added to component
//! `row` of row `row` (a mask polynomial in the mask row, the body in the last).
//!
//! u, e1 and e2 would reveal the plaintext; they are wiped. Products are exact (number-theoretic transform), so the
//! noise is what [`super::noise`] says and nothing more.

use std::sync::OnceLock;

use aligned_vec::ABox;
use tfhe::core_crypto::{
    algorithms::slice_algorithms::slice_wrapping_add_assign,
    commons::math::random::{DefaultRandomGenerator, RandomGenerator},
    fft_impl::fft64::c64,
    prelude::*,
};
use tfhe_ntt::native_binary64::Plan32;
use zeroize::Zeroizing;

use super::{
    encode::{Encoding, QuantizedProbe, QuantizedTemplate},
    keys::{KeyId, PublicKey, fresh_generator},
    params::*,
};

/// An enrolled face: GLWE encryption of Δ·T(X), of which the score needs the mask and d or d + 1 body coefficients.
pub struct EncryptedTemplate {
    pub(super) key: KeyId,
    pub(super) encoding: Encoding,
    pub(super) delta: u64,
    pub(super) glwe: GlweCiphertextOwned<u64>,
}

/// A fresh face: GGSW encryption of P(X) in the Fourier domain. Lives as long as its request.
pub struct EncryptedProbe {
    pub(super) key: KeyId,
    pub(super) encoding: Encoding,
    /// -|w|² or 0: what the edge, which saw w, adds in the clear.
    pub(super) clear_term: Zeroizing<i64>,
    pub(super) ggsw: FourierGgswCiphertext<ABox<[c64]>>,
}

impl PublicKey {
    pub fn encrypt_template(&self, template: QuantizedTemplate) -> EncryptedTemplate {
        let mut glwe = GlweCiphertext::new(0, GLWE_SIZE, POLYNOMIAL_SIZE, MODULUS);
        self.add_zero_row(&mut glwe, &mut fresh_generator());
        template.polynomial().add_scaled_to(template.delta, &mut glwe.get_mut_body().as_mut_polynomial());
        // Body coefficients beyond the score's play no part in it; dropping them leaves less noise and fewer samples.
        glwe.get_mut_body().as_mut()[template.encoding.template_coefficients()..].fill(0);
        EncryptedTemplate { key: self.key, encoding: template.encoding.clone(), delta: template.delta, glwe }
    }

    pub fn encrypt_probe(&self, probe: QuantizedProbe) -> EncryptedProbe {
        let message = probe.polynomial();
        let gadget = 1u64 << (u64::BITS as usize - PROBE_BASE_LOG.0);
        let mut generator = fresh_generator();
        let mut standard = GgswCiphertext::new(0, GLWE_SIZE, POLYNOMIAL_SIZE, PROBE_BASE_LOG, PROBE_LEVELS, MODULUS);
        for mut level in standard.iter_mut() {
            for (component, mut row) in level.as_mut_glwe_list().iter_mut().enumerate() {
                self.add_zero_row(&mut row, &mut generator);
                message.add_scaled_to(gadget, &mut row.as_mut_polynomial_list().get_mut(component));
            }
        }
        let mut ggsw = FourierGgswCiphertext::new(GLWE_SIZE, POLYNOMIAL_SIZE, PROBE_BASE_LOG, PROBE_LEVELS);
        convert_standard_ggsw_ciphertext_to_fourier(&standard, &mut ggsw);
        let clear_term = Zeroizing::new(probe.clear_term());
        EncryptedProbe { key: self.key, encoding: probe.encoding.clone(), clear_term, ggsw }
    }

    /// Adds (a·u + e1, b·u + e2) to `target`.
    pub(super) fn add_zero_row(
        &self,
        target: &mut GlweCiphertext<impl ContainerMut<Element = u64>>,
        generator: &mut RandomGenerator<DefaultRandomGenerator>,
    ) {
        let mut u = Zeroizing::new(vec![0u64; POLYNOMIAL_SIZE.0]);
        generator.fill_slice_with_random_uniform_binary(&mut u);
        let mut product = Zeroizing::new(vec![0u64; POLYNOMIAL_SIZE.0]);
        let key = self.zero.as_polynomial_list();
        for (mut out, key) in target.as_mut_polynomial_list().iter_mut().zip(key.iter()) {
            exact_product().negacyclic_polymul(&mut product, key.as_ref(), &u);
            generator.unsigned_integer_slice_wrapping_add_random_from_distribution_assign(&mut product, GLWE_NOISE);
            slice_wrapping_add_assign(out.as_mut(), &product);
        }
    }
}

/// Exact products in Z_(2^64)[X]/(X^N + 1) of any polynomial with a binary one; the same steps for every u.
fn exact_product() -> &'static Plan32 {
    static PLAN: OnceLock<Plan32> = OnceLock::new();
    #[expect(clippy::expect_used, reason = "the ring size is a constant for which the three primes have roots")]
    PLAN.get_or_init(|| Plan32::try_new(POLYNOMIAL_SIZE.0).expect("N = 2048 has a transform"))
}

impl EncryptedTemplate {
    pub fn key_id(&self) -> KeyId {
        self.key
    }
}
