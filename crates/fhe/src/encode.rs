//! Embedding → integers → polynomials, arranged so that one coefficient of the product P·T is the score.
//!
//! Preparation: c = e/|e| - mean. Quantisation: v_i = round(scale · c_i), clamped to `component_max`. A vector with
//! |v|² > (R·scale)² is refused, so that no score can wrap around the torus, whoever chose the image.
//!
//! * Squared Euclid: T(X) = Σ v_i X^i - |v|² X^d and P(X) = 1 + Σ 2 w_i X^(d-i). Coefficient d of P·T is
//!   2⟨w,v⟩ - |v|² = |w|² - dist². The edge knows |w|² and adds the rest in the clear:
//!   score = coefficient - |w|² + θ = θ - dist².
//! * Cosine: T(X) = Σ v_i X^i and P(X) = Σ w_i X^(d-1-i). Coefficient d-1 is ⟨w,v⟩; score = coefficient - τ.
//!
//! Either way it is a match if and only if score ≥ 0, in integer steps of 1/scale².

use tfhe::core_crypto::prelude::{MonomialDegree, Polynomial};
use zeroize::Zeroizing;

use velum_domain::{
    face::Embedding,
    matching::{MatchSpec, Metric, ModelId, Threshold},
};

use super::params::POLYNOMIAL_SIZE;

/// Longest embedding: its polynomial, with the norm term, must fit the ring with room to spare.
pub const DIMENSION_MAX: usize = 1024;
/// Largest quantised component: probe coefficients (twice this) stay far below the GGSW message space of 2^22.
pub const COMPONENT_MAX: i64 = 1 << 15;
/// Share of the torus that the widest negative score fills; the rest up to 1/2 is ten standard deviations of noise.
const TORUS_SHARE: f64 = 0.49;

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EncodeError {
    #[error("the embedding is of model {found}, the model card of {expected}")]
    OtherModel { expected: ModelId, found: ModelId },
    #[error("the embedding has {found} components, the model card says {expected}")]
    WrongDimension { expected: usize, found: usize },
    #[error("the prepared vector is longer than the norm bound of its model card")]
    NormBoundExceeded,
    #[error("the model card cannot be used for encrypted matching: {0}")]
    UnusableCard(&'static str),
}

impl EncodeError {
    pub fn code(&self) -> &'static str {
        match self {
            Self::NormBoundExceeded => "embedding_out_of_bounds",
            Self::OtherModel { .. } | Self::WrongDimension { .. } | Self::UnusableCard(_) => "model_card_mismatch",
        }
    }
}

/// What two vectors must share to be comparable; public.
#[derive(Debug, Clone, PartialEq)]
pub struct Encoding {
    pub(super) model: ModelId,
    pub(super) metric: Metric,
    pub(super) dimension: usize,
    pub(super) scale: f64,
    /// Largest |v|², in steps.
    pub(super) norm_squared_max: i64,
}

impl Encoding {
    pub fn of(spec: &MatchSpec) -> Result<Self, EncodeError> {
        let unusable = |reason| Err(EncodeError::UnusableCard(reason));
        if spec.dimension < 2 || spec.dimension > DIMENSION_MAX {
            return unusable("the dimension is not between 2 and 1024");
        }
        if spec.mean.as_ref().is_some_and(|mean| mean.len() != spec.dimension) {
            return unusable("the mean vector has another length than the embedding");
        }
        if !(1..=COMPONENT_MAX).contains(&spec.component_max) {
            return unusable("component_max is not between 1 and 32768");
        }
        let norm_max = spec.norm_bound * spec.scale;
        if !(spec.scale.is_finite() && spec.scale >= 1.0 && norm_max.is_finite() && norm_max >= 1.0) {
            return unusable("scale and norm bound do not give a usable range");
        }
        let norm_squared_max = (norm_max * norm_max).floor();
        if norm_squared_max > f64::from(1 << 20) {
            return unusable("scale times norm bound exceeds 1024 steps");
        }
        let encoding = Self {
            model: spec.model.clone(),
            metric: spec.metric,
            dimension: spec.dimension,
            scale: spec.scale,
            norm_squared_max: norm_squared_max as i64,
        };
        let in_range =
            |threshold: &Threshold| (0..encoding.widest_gap()).contains(&encoding.threshold_steps(*threshold));
        if spec.thresholds.is_empty() || !spec.thresholds.values().all(in_range) {
            return unusable("a threshold is missing or outside the range of scores");
        }
        Ok(encoding)
    }

    /// The decision boundary as the last integer that still matches: dist² ≤ θ, or ⟨w,v⟩ ≥ τ.
    pub(super) fn threshold_steps(&self, threshold: Threshold) -> i64 {
        // Far outside any card's range; keeps the sums of steps below from overflowing.
        let steps = (threshold.0 * self.scale * self.scale).clamp(-1e12, 1e12);
        match self.metric {
            Metric::SquaredEuclid => steps.floor() as i64,
            Metric::Cosine => steps.ceil() as i64,
        }
    }

    /// |smallest score| that two vectors within the norm bound can reach at this threshold, in steps.
    pub(super) fn score_depth(&self, threshold: Threshold) -> i64 {
        match self.metric {
            Metric::SquaredEuclid => 4 * self.norm_squared_max - self.threshold_steps(threshold),
            Metric::Cosine => self.norm_squared_max + self.threshold_steps(threshold),
        }
    }

    /// Largest squared distance, or largest inner product, within the norm bound.
    fn widest_gap(&self) -> i64 {
        match self.metric {
            Metric::SquaredEuclid => 4 * self.norm_squared_max,
            Metric::Cosine => self.norm_squared_max,
        }
    }

    /// Where in P·T the score stands.
    pub(super) fn score_degree(&self) -> MonomialDegree {
        match self.metric {
            Metric::SquaredEuclid => MonomialDegree(self.dimension),
            Metric::Cosine => MonomialDegree(self.dimension - 1),
        }
    }

    /// Number of leading body coefficients of a template that the score depends on.
    pub(super) fn template_coefficients(&self) -> usize {
        self.score_degree().0 + 1
    }

    /// Δ: as many torus units for one step as the deepest of the card's thresholds allows.
    fn delta(&self, spec: &MatchSpec) -> u64 {
        let depth = spec.thresholds.values().map(|&threshold| self.score_depth(threshold)).max().unwrap_or(1);
        (TORUS_SHARE * 2f64.powi(64) / (depth + 1) as f64) as u64
    }
}

/// An embedding as integers, ready to become a template. Wiped when dropped.
pub struct QuantizedTemplate {
    pub(super) encoding: Encoding,
    pub(super) delta: u64,
    pub(super) components: Zeroizing<Vec<i64>>,
}

/// An embedding as integers, ready to become a probe. Wiped when dropped.
pub struct QuantizedProbe {
    pub(super) encoding: Encoding,
    pub(super) components: Zeroizing<Vec<i64>>,
}

impl QuantizedTemplate {
    pub fn encode(spec: &MatchSpec, embedding: &Embedding) -> Result<Self, EncodeError> {
        let (encoding, delta) = Self::scaling(spec)?;
        let components = quantise(spec, &encoding, embedding)?;
        Ok(Self { encoding, delta, components })
    }

    /// What a card fixes before any face is seen: the encoding and Δ.
    pub(super) fn scaling(spec: &MatchSpec) -> Result<(Encoding, u64), EncodeError> {
        let encoding = Encoding::of(spec)?;
        let delta = encoding.delta(spec);
        Ok((encoding, delta))
    }

    /// T(X), coefficients in steps.
    pub(super) fn polynomial(&self) -> SmallPolynomial {
        let mut coefficients = SmallPolynomial::zero();
        coefficients.0[..self.encoding.dimension].copy_from_slice(&self.components);
        if self.encoding.metric == Metric::SquaredEuclid {
            coefficients.0[self.encoding.dimension] = -norm_squared(&self.components);
        }
        coefficients
    }
}

impl QuantizedProbe {
    pub fn encode(spec: &MatchSpec, embedding: &Embedding) -> Result<Self, EncodeError> {
        let encoding = Encoding::of(spec)?;
        let components = quantise(spec, &encoding, embedding)?;
        Ok(Self { encoding, components })
    }

    /// P(X), coefficients in steps.
    pub(super) fn polynomial(&self) -> SmallPolynomial {
        let mut coefficients = SmallPolynomial::zero();
        let degree = self.encoding.score_degree().0;
        let factor = match self.encoding.metric {
            Metric::SquaredEuclid => {
                coefficients.0[0] = 1;
                2
            }
            Metric::Cosine => 1,
        };
        for (index, component) in self.components.iter().enumerate() {
            coefficients.0[degree - index] += factor * component;
        }
        coefficients
    }

    /// What the edge adds to coefficient d in the clear, before the threshold: -|w|² (Euclid) or nothing (cosine).
    pub(super) fn clear_term(&self) -> i64 {
        match self.encoding.metric {
            Metric::SquaredEuclid => -norm_squared(&self.components),
            Metric::Cosine => 0,
        }
    }
}

/// N small integers; wiped when dropped.
pub(super) struct SmallPolynomial(Zeroizing<Vec<i64>>);

impl SmallPolynomial {
    fn zero() -> Self {
        Self(Zeroizing::new(vec![0; POLYNOMIAL_SIZE.0]))
    }

    /// The polynomial times a torus constant, added to `target`.
    pub(super) fn add_scaled_to(
        &self,
        unit: u64,
        target: &mut Polynomial<impl tfhe::core_crypto::prelude::ContainerMut<Element = u64>>,
    ) {
        for (out, &coefficient) in target.as_mut().iter_mut().zip(self.0.iter()) {
            *out = out.wrapping_add((coefficient as u64).wrapping_mul(unit));
        }
    }
}

pub(super) fn norm_squared(components: &[i64]) -> i64 {
    components.iter().map(|component| component * component).sum()
}

fn quantise(spec: &MatchSpec, encoding: &Encoding, embedding: &Embedding) -> Result<Zeroizing<Vec<i64>>, EncodeError> {
    if *embedding.model() != spec.model {
        return Err(EncodeError::OtherModel { expected: spec.model.clone(), found: embedding.model().clone() });
    }
    if embedding.dimension() != spec.dimension {
        return Err(EncodeError::WrongDimension { expected: spec.dimension, found: embedding.dimension() });
    }
    let mean = |index: usize| spec.mean.as_ref().map_or(0.0, |mean| mean[index]);
    let quantised = embedding.expose_components().iter().enumerate().map(|(index, &component)| {
        let steps = (f64::from(component - mean(index)) * spec.scale).round() as i64;
        steps.clamp(-spec.component_max, spec.component_max)
    });
    let components = Zeroizing::new(quantised.collect::<Vec<_>>());
    if norm_squared(&components) > encoding.norm_squared_max {
        return Err(EncodeError::NormBoundExceeded);
    }
    Ok(components)
}
