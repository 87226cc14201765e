//! How embeddings of one model are compared: the part of a model card that the encrypted match needs.

use std::{collections::BTreeMap, fmt, str::FromStr};

use super::{decision::FalseMatchRate, face::Embedding};

/// Name of an embedding model, e.g. `dlib-resnet29-v1`. 1 to 64 bytes of a-z, 0-9, `-`, `_` and `.`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelId(String);

impl ModelId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a model id is 1 to 64 characters of a-z, 0-9, '-', '_' and '.'")]
pub struct InvalidModelId;

impl FromStr for ModelId {
    type Err = InvalidModelId;

    fn from_str(text: &str) -> Result<Self, InvalidModelId> {
        let plain =
            text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte));
        if plain && (1..=64).contains(&text.len()) { Ok(Self(text.to_owned())) } else { Err(InvalidModelId) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// Squared Euclidean distance of the prepared vectors; a match lies at or below its threshold theta.
    SquaredEuclid,
    /// Inner product of unit vectors; a match lies at or above its threshold tau.
    Cosine,
}

impl Metric {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SquaredEuclid => "squared_euclid",
            Self::Cosine => "cosine",
        }
    }
}

/// A decision boundary, in the metric's own unit: squared distance (theta) or cosine (tau).
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Threshold(pub f64);

/// How a model's embeddings are prepared, quantised and compared.
///
/// Preparation: c = e/|e| - mean. Quantisation: v_i = round(scale * c_i), clamped to `component_max` in absolute value.
#[derive(Debug, Clone, PartialEq)]
pub struct MatchSpec {
    pub model: ModelId,
    pub metric: Metric,
    /// Length d of the embedding.
    pub dimension: usize,
    /// Vector of R^d subtracted after normalisation; `None` where the card has none (always so for cosine).
    pub mean: Option<Vec<f32>>,
    /// Scale s of the quantisation, in steps per unit.
    pub scale: f64,
    /// Largest absolute value of a quantised component.
    pub component_max: i64,
    /// Norm bound R: a prepared vector longer than this is refused, so that no score can wrap.
    pub norm_bound: f64,
    pub thresholds: BTreeMap<FalseMatchRate, Threshold>,
}

impl MatchSpec {
    /// The comparison in the clear, without quantisation: squared distance or cosine of two embeddings of this model.
    /// For evaluations; the service itself compares ciphertexts.
    pub fn compare(&self, a: &Embedding, b: &Embedding) -> f64 {
        let pairs = a.expose_components().iter().zip(b.expose_components());
        match self.metric {
            // The mean cancels out of a difference.
            Metric::SquaredEuclid => pairs.map(|(&x, &y)| (f64::from(x) - f64::from(y)).powi(2)).sum(),
            Metric::Cosine => pairs.map(|(&x, &y)| f64::from(x) * f64::from(y)).sum(),
        }
    }

    /// Whether a value of [`MatchSpec::compare`] is a match at `threshold`.
    pub fn accepts(&self, value: f64, threshold: Threshold) -> bool {
        match self.metric {
            Metric::SquaredEuclid => value <= threshold.0,
            Metric::Cosine => value >= threshold.0,
        }
    }
}
