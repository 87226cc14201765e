//! How embeddings of one model are compared: the part of a model card that the encrypted match needs.

use std::{collections::BTreeMap, fmt, str::FromStr};

use super::{decision::FalseMatchRate, face::Embedding};

/// Name of a model card, e.g. `dlib-resnet29-v1`. 1 to 64 bytes of a-z, 0-9, `-`, `_` and `.`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CardId(String);

impl CardId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the id of a model card is 1 to 64 characters of a-z, 0-9, '-', '_' and '.'")]
pub struct InvalidCardId;

impl FromStr for CardId {
    type Err = InvalidCardId;

    fn from_str(text: &str) -> Result<Self, InvalidCardId> {
        if is_card_id(text) { Ok(Self(text.to_owned())) } else { Err(InvalidCardId) }
    }
}

fn is_card_id(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    text.bytes().all(plain) && (1..=64).contains(&text.len())
}

/// What templates are made under and told apart by, e.g. `dlib-resnet29-v1+0a1b2c3d`: the card's id, and behind the `+` eight
/// hexadecimal digits that change with whatever in the card changes a template. Templates of two ids are never compared.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelId(String);

impl ModelId {
    pub fn of_card(card: &CardId, fingerprint: u32) -> Self {
        Self(format!("{card}+{fingerprint:08x}"))
    }

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
#[error("a model id is 1 to 64 characters of a-z, 0-9, '-', '_' and '.', and perhaps '+' and 8 hexadecimal digits")]
pub struct InvalidModelId;

impl FromStr for ModelId {
    type Err = InvalidModelId;

    fn from_str(text: &str) -> Result<Self, InvalidModelId> {
        let (card, fingerprint) = text.split_once('+').unwrap_or((text, "00000000"));
        let hexadecimal = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let whole = fingerprint.len() == 8 && fingerprint.bytes().all(hexadecimal);
        if is_card_id(card) && whole { Ok(Self(text.to_owned())) } else { Err(InvalidModelId) }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_id_is_the_id_of_a_card_with_at_most_one_fingerprint() {
        let card: CardId = "dlib-resnet29-v1".parse().unwrap();
        let model = ModelId::of_card(&card, 0xA1B2);
        assert_eq!(model.as_str(), "dlib-resnet29-v1+0000a1b2");
        assert_eq!(model.as_str().parse(), Ok(model));
        assert!("dlib-resnet29-v1".parse::<ModelId>().is_ok());
        for text in ["", "+0000a1b2", "a+", "a+0000a1b", "a+0000A1B2", "a+0000a1b2+0000a1b2", "A", "a b"] {
            assert_eq!(text.parse::<ModelId>(), Err(InvalidModelId), "{text:?}");
        }
    }

    #[test]
    fn the_id_of_a_card_has_no_plus() {
        for text in ["dlib+0000a1b2", "dlib+", "", "../x", "Dlib", &"x".repeat(65)] {
            assert_eq!(text.parse::<CardId>(), Err(InvalidCardId), "{text:?}");
        }
    }
}
