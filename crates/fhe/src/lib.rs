//! The encrypted match: a probe is compared with a template without either being readable, and one bit comes out.
//!
//! # Notation
//!
//! | symbol | identifier | meaning, range |
//! |---|---|---|
//! | q | native `u64` | ciphertext modulus 2^64; the torus is Z_q, one turn = 2^64 |
//! | N, k | `polynomial_size`, `glwe_dimension` | ring R = Z_q\[X\]/(X^N + 1), N = 2048, k = 1 |
//! | S | `SecretKeys` | binary GLWE secret in R; flattened it is the 2048-bit LWE secret |
//! | s | – | binary LWE secret of dimension n = 918; exists only while keys are generated |
//! | v, w | `QuantizedTemplate`, `QuantizedProbe` | integer vectors of length d, norms at most R·scale |
//! | T(X), P(X) | [`encode`] | template and probe polynomials with small integer coefficients |
//! | Δ | `delta` | torus units per score step; the widest negative score fills 0.49 of a turn |
//! | θ, τ | [`Threshold`](velum_domain::matching::Threshold) | public decision boundary: squared distance, or cosine |
//!
//! # Parties and keys
//!
//! | party | holds | does |
//! |---|---|---|
//! | edge | [`keys::PublicKey`], [`keys::EvaluationKey`] | [`encrypt`], [`score`], [`decide`]; cannot open anything |
//! | store | – | keeps template bytes ([`wire`]), sealed once more |
//! | keyholder | [`keys::SecretKeys`] | [`open`]: one bit for each decision |
//!
//! # The walk
//!
//! 1. [`encode`]: embedding → integers → T(X) or P(X), arranged so that one coefficient of P·T is the score.
//! 2. [`encrypt`]: T as a GLWE ciphertext, P as a GGSW ciphertext, both under the public key.
//! 3. [`score`]: external product GGSW × GLWE, then the score's coefficient as an LWE ciphertext.
//! 4. [`decide`]: minus the threshold, key switch 2048 → 918, one bootstrap to ±1/4: the encrypted decision.
//! 5. [`open`]: the keyholder reads the sign.
//!
//! [`rekey`] brings stored templates under another secret, when keys are changed.
//!
//! [`noise`] derives how far the result can be from the exact integer score, and with that the grey zone around a
//! threshold in which an encrypted decision may differ from an unencrypted one. [`twin`] is the same match in the clear,
//! behind the same interface, for tests and evaluations. [`thief`] is the other side's view, for measurements.

pub mod decide;
pub mod encode;
pub mod encrypt;
pub mod keys;
pub mod noise;
pub mod open;
pub mod params;
pub mod rekey;
pub mod score;
pub mod thief;
pub mod twin;
pub mod wire;

use velum_domain::{decision::Decision, matching::Threshold};

use self::{
    encode::{QuantizedProbe, QuantizedTemplate},
    keys::KeyId,
    open::OpenError,
};

/// Why two ciphertexts cannot be compared.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum MatchError {
    #[error("the ciphertexts belong to different keys ({expected} expected, {found} found)")]
    WrongKey { expected: KeyId, found: KeyId },
    #[error("probe and template were encoded differently (model, metric, dimension or scale)")]
    DifferentEncoding,
    #[error("threshold {0} is outside the range that the template was scaled for")]
    ThresholdOutOfRange(f64),
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// One way through the match, whatever protects the vectors on it. [`twin::PlaintextTwin`] and
/// [`twin::EncryptedMatcher`] answer alike outside the grey zone.
pub trait Matcher {
    type Template;
    type Probe;

    fn protect_template(&self, template: QuantizedTemplate) -> Self::Template;
    fn protect_probe(&self, probe: QuantizedProbe) -> Self::Probe;
    fn decide(
        &self,
        probe: &Self::Probe,
        template: &Self::Template,
        threshold: Threshold,
    ) -> Result<Decision, MatchError>;
}
