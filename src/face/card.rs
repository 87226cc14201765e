//! A model card: how one embedder is fed, compared and trusted, as the manifest states it.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, de};

use super::manifest::ModelFile;
use crate::domain::{
    decision::FalseMatchRate,
    matching::{MatchSpec, Metric, ModelId, Threshold},
};

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelCard {
    #[serde(deserialize_with = "parsed")]
    pub id: ModelId,
    /// What it is and what it is not good for, in a sentence or two.
    pub summary: String,
    pub model: ModelFile,
    pub input: InputSpec,
    pub output: OutputSpec,
    pub matching: Matching,
    pub quality: QualityThresholds,
}

/// How pixels of the aligned face become the input tensor: `(pixel / divisor - mean[c]) / std[c]`, pixel in 0..=255.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputSpec {
    /// Name of the graph's input.
    pub name: String,
    /// Without the batch dimension, in the order of `layout`.
    pub shape: [usize; 3],
    pub layout: Layout,
    pub colour: ColourOrder,
    pub divisor: f32,
    /// Per channel, in the order of `colour`.
    pub mean: [f32; 3],
    /// Per channel, in the order of `colour`.
    pub std: [f32; 3],
    pub alignment: Alignment,
    /// Whether the embedding is the mean over the face and its mirror image.
    pub mirrored: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// Channels, rows, columns.
    Chw,
    /// Rows, columns, channels.
    Hwc,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColourOrder {
    Rgb,
    Bgr,
}

/// Where the five landmarks are moved to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Alignment {
    /// 150x150, the frame of dlib's own face chips.
    #[serde(rename = "dlib_150")]
    Dlib150,
    /// 112x112, the frame of ArcFace and its relatives.
    #[serde(rename = "arcface_112")]
    Arcface112,
}

impl Alignment {
    /// Side of the square face chip, in pixels.
    pub fn side_px(self) -> usize {
        match self {
            Self::Dlib150 => 150,
            Self::Arcface112 => 112,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputSpec {
    /// Name of the graph's output.
    pub name: String,
    pub dimension: usize,
}

/// How two embeddings are compared; see [`MatchSpec`] for the arithmetic.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Matching {
    #[serde(deserialize_with = "metric")]
    pub metric: Metric,
    /// Subtracted after normalisation; squared Euclid only.
    #[serde(default)]
    pub mean: Option<Vec<f32>>,
    /// Quantisation steps per unit.
    pub scale: f64,
    /// Largest absolute value of a quantised component.
    pub component_max: i64,
    /// R^2: the largest squared norm of a prepared vector that is accepted.
    pub norm_bound_squared: f64,
    pub thresholds: Vec<StatedThreshold>,
}

/// A threshold is worth as much as the data it was measured on, so the two stand together.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatedThreshold {
    #[serde(deserialize_with = "parsed")]
    pub false_match_rate: FalseMatchRate,
    /// Squared distance (match at or below) or cosine (match at or above), by the metric.
    pub threshold: f64,
    /// The pairs it was measured on, or the plain words "not measured".
    pub data: String,
}

/// What a face must be like to be embedded. Each has its reason in [`super::quality::QualityReason`].
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QualityThresholds {
    /// Smallest distance between the eyes, in source pixels.
    pub eye_distance_px_min: f64,
    /// Smallest sharpness of the aligned face; see [`super::quality`] for the measure.
    pub sharpness_min: f64,
    /// Mean luma of the aligned face, 0..=255.
    pub brightness_min: f64,
    pub brightness_max: f64,
    /// Smallest standard deviation of luma over the aligned face.
    pub contrast_min: f64,
    /// Largest turn to a side, estimated from the landmarks, in degrees.
    pub yaw_degrees_max: f64,
    /// Largest nod, estimated from the landmarks, in degrees.
    pub pitch_degrees_max: f64,
    /// Largest tilt of the line between the eyes, in degrees.
    pub roll_degrees_max: f64,
}

impl ModelCard {
    /// The part of the card that the encrypted match needs.
    pub fn match_spec(&self) -> MatchSpec {
        let matching = &self.matching;
        MatchSpec {
            model: self.id.clone(),
            metric: matching.metric,
            dimension: self.output.dimension,
            mean: matching.mean.clone(),
            scale: matching.scale,
            component_max: matching.component_max,
            norm_bound: matching.norm_bound_squared.sqrt(),
            thresholds: self.thresholds(),
        }
    }

    fn thresholds(&self) -> BTreeMap<FalseMatchRate, Threshold> {
        let stated = &self.matching.thresholds;
        stated.iter().map(|stated| (stated.false_match_rate, Threshold(stated.threshold))).collect()
    }

    /// What the types alone cannot say; the error is the end of a sentence about this card.
    pub(super) fn check(&self) -> Result<(), String> {
        self.check_input()?;
        self.check_matching()
    }

    fn check_input(&self) -> Result<(), String> {
        let side = self.input.alignment.side_px();
        let expected = match self.input.layout {
            Layout::Chw => [3, side, side],
            Layout::Hwc => [side, side, 3],
        };
        if self.input.shape != expected {
            return Err(format!("input shape {:?} does not fit its alignment, {expected:?} does", self.input.shape));
        }
        let positive = |value: f32| value.is_finite() && value > 0.0;
        if !positive(self.input.divisor) || !self.input.std.into_iter().all(positive) {
            return Err("divisor and std must be above zero".to_owned());
        }
        if !self.input.mean.into_iter().all(f32::is_finite) {
            return Err("the input mean is not a number".to_owned());
        }
        Ok(())
    }

    fn check_matching(&self) -> Result<(), String> {
        let matching = &self.matching;
        let dimension = self.output.dimension;
        if !(1..=1024).contains(&dimension) {
            return Err(format!("output dimension {dimension} is outside 1..=1024"));
        }
        if let Some(mean) = &matching.mean {
            if matching.metric == Metric::Cosine {
                return Err("a mean is subtracted for squared_euclid only".to_owned());
            }
            if mean.len() != dimension || !mean.iter().all(|value| value.is_finite()) {
                return Err(format!("the matching mean must be {dimension} numbers"));
            }
        }
        let positive = |value: f64| value.is_finite() && value > 0.0;
        if !positive(matching.scale) || !positive(matching.norm_bound_squared) || matching.component_max < 1 {
            return Err("scale, component_max and norm_bound_squared must be above zero".to_owned());
        }
        self.check_thresholds()
    }

    /// One threshold for each rate, and a rarer false match never has the laxer threshold.
    fn check_thresholds(&self) -> Result<(), String> {
        let stated = &self.matching.thresholds;
        if stated.iter().any(|stated| stated.data.trim().is_empty()) {
            return Err("a threshold does not say which data it was measured on".to_owned());
        }
        let thresholds = self.thresholds();
        if stated.len() != FalseMatchRate::ALL.len() || thresholds.len() != stated.len() {
            return Err("exactly one threshold for each of 1e-2, 1e-3 and 1e-4 is needed".to_owned());
        }
        // BTreeMap order: from the most to the least frequent false match.
        let ordered: Vec<f64> = thresholds.values().map(|threshold| threshold.0).collect();
        let stricter = |pair: &[f64]| match self.matching.metric {
            Metric::SquaredEuclid => pair[0] > pair[1] && pair[1] > 0.0 && pair[0] < 4.0,
            Metric::Cosine => pair[0] < pair[1] && pair[1] < 1.0 && pair[0] > -1.0,
        };
        if ordered.windows(2).all(stricter) {
            Ok(())
        } else {
            Err("the thresholds are out of range or do not get stricter from 1e-2 to 1e-4".to_owned())
        }
    }
}

pub(super) fn parsed<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
}

fn metric<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Metric, D::Error> {
    let text = String::deserialize(deserializer)?;
    [Metric::SquaredEuclid, Metric::Cosine]
        .into_iter()
        .find(|metric| metric.as_str() == text)
        .ok_or_else(|| de::Error::unknown_variant(&text, &["squared_euclid", "cosine"]))
}
