//! A model card: how one embedder is fed, compared and trusted, as the manifest states it.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, de};
use sha2::{Digest, Sha256};

use super::{feed::Feed, manifest::ModelFile};
use velum_domain::{
    decision::FalseMatchRate,
    matching::{CardId, MatchSpec, Metric, ModelId, Threshold},
};

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelCard {
    #[serde(deserialize_with = "parsed")]
    pub id: CardId,
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

impl InputSpec {
    pub(super) fn feed(&self) -> Feed {
        let &Self { layout, colour, divisor, mean, std, .. } = self;
        Feed { layout, colour, divisor, mean, std }
    }
}

impl Layout {
    fn as_str(self) -> &'static str {
        match self {
            Self::Chw => "chw",
            Self::Hwc => "hwc",
        }
    }
}

impl ColourOrder {
    fn as_str(self) -> &'static str {
        match self {
            Self::Rgb => "rgb",
            Self::Bgr => "bgr",
        }
    }
}

impl Alignment {
    fn as_str(self) -> &'static str {
        match self {
            Self::Dlib150 => "dlib_150",
            Self::Arcface112 => "arcface_112",
        }
    }

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
    /// The card's id and the head of a SHA-256 over whatever changes a template: the file, how it is fed, which output is
    /// taken, and how that is prepared and quantised. Templates of a card that was changed there are stale, not misjudged;
    /// thresholds, the quality gate and words may change without touching a template.
    pub fn model_id(&self) -> ModelId {
        let [a, b, c, d, ..]: [u8; 32] = self.digest().into();
        ModelId::of_card(&self.id, u32::from_be_bytes([a, b, c, d]))
    }

    /// Each part with its name and length before it, so that no two cards are written alike. Changing what is written here
    /// makes every stored template stale.
    fn digest(&self) -> sha2::digest::Output<Sha256> {
        let (input, matching) = (&self.input, &self.matching);
        let single = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let shape: Vec<u8> = input.shape.iter().flat_map(|&side| (side as u64).to_le_bytes()).collect();
        let parts: [(&str, &[u8]); 16] = [
            ("file", self.model.sha256.as_bytes()),
            ("shape", &shape),
            ("layout", input.layout.as_str().as_bytes()),
            ("colour", input.colour.as_str().as_bytes()),
            ("divisor", &input.divisor.to_le_bytes()),
            ("mean", &single(&input.mean)),
            ("std", &single(&input.std)),
            ("alignment", input.alignment.as_str().as_bytes()),
            ("mirrored", &[u8::from(input.mirrored)]),
            ("output", self.output.name.as_bytes()),
            ("dimension", &(self.output.dimension as u64).to_le_bytes()),
            ("metric", matching.metric.as_str().as_bytes()),
            ("matching mean", &single(matching.mean.as_deref().unwrap_or_default())),
            ("scale", &matching.scale.to_le_bytes()),
            ("component_max", &matching.component_max.to_le_bytes()),
            ("norm_bound_squared", &matching.norm_bound_squared.to_le_bytes()),
        ];
        let mut hash = Sha256::new();
        for part in parts.into_iter().flat_map(|(name, value)| [name.as_bytes(), value]) {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.finalize()
    }

    /// The part of the card that the encrypted match needs.
    pub fn match_spec(&self) -> MatchSpec {
        let matching = &self.matching;
        MatchSpec {
            model: self.model_id(),
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
        self.check_matching()?;
        self.quality.check()
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
        self.input.feed().check()
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

impl QualityThresholds {
    /// Each bound is a number within its measure's range: one that is not (TOML knows `nan`) would let every face pass.
    fn check(&self) -> Result<(), String> {
        let within = [
            ("eye_distance_px_min", self.eye_distance_px_min, 0.0..=10_000.0),
            ("sharpness_min", self.sharpness_min, 0.0..=255.0),
            ("brightness_min", self.brightness_min, 0.0..=255.0),
            ("brightness_max", self.brightness_max, 0.0..=255.0),
            ("contrast_min", self.contrast_min, 0.0..=255.0),
            ("yaw_degrees_max", self.yaw_degrees_max, 0.0..=180.0),
            ("pitch_degrees_max", self.pitch_degrees_max, 0.0..=180.0),
            ("roll_degrees_max", self.roll_degrees_max, 0.0..=180.0),
        ];
        for (name, bound, range) in within {
            if !range.contains(&bound) {
                return Err(format!("quality.{name} is {bound}, not within {} to {}", range.start(), range.end()));
            }
        }
        if self.brightness_min >= self.brightness_max {
            return Err("quality.brightness_min is not below quality.brightness_max".to_owned());
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::Manifest;

    fn committed() -> ModelCard {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
        Manifest::read(&folder).unwrap().embedder(None).unwrap().clone()
    }

    fn changed(change: impl FnOnce(&mut ModelCard)) -> ModelId {
        let mut card = committed();
        change(&mut card);
        card.model_id()
    }

    /// The digits stand in every stored template: a program that computes others makes all of them stale.
    #[test]
    fn the_committed_card_has_the_model_id_that_its_templates_carry() {
        assert_eq!(committed().model_id().as_str(), "dlib-resnet29-v1+daddffdb");
        assert_eq!(committed().match_spec().model, committed().model_id());
    }

    #[test]
    fn whatever_changes_a_template_changes_the_model_id() {
        let changes: [fn(&mut ModelCard); 17] = [
            |card| card.id = "dlib-resnet29-v2".parse().unwrap(),
            |card| card.model.sha256.replace_range(..1, "f"),
            |card| card.input.shape = [150, 150, 3],
            |card| card.input.layout = Layout::Hwc,
            |card| card.input.colour = ColourOrder::Bgr,
            |card| card.input.divisor = 255.0,
            |card| card.input.mean[1] = 0.5,
            |card| card.input.std[2] = 0.5,
            |card| card.input.alignment = Alignment::Arcface112,
            |card| card.input.mirrored = false,
            |card| card.output.name = "other".to_owned(),
            |card| card.output.dimension = 127,
            |card| card.matching.metric = Metric::Cosine,
            |card| card.matching.mean.as_mut().unwrap()[0] += 1e-6,
            |card| card.matching.scale = 221.0,
            |card| card.matching.component_max = 30,
            |card| card.matching.norm_bound_squared = 0.31,
        ];
        let ids = changes.map(|change| changed(change));
        for (position, id) in ids.iter().enumerate() {
            assert_ne!(*id, committed().model_id(), "change {position}");
            assert!(!ids[..position].contains(id), "change {position}");
        }
        assert_ne!(changed(|card| card.matching.mean = None), committed().model_id());
    }

    #[test]
    fn what_touches_no_template_leaves_the_model_id_alone() {
        let changes: [fn(&mut ModelCard); 4] = [
            |card| card.summary.clear(),
            |card| card.model.licence = "MIT".to_owned(),
            |card| card.matching.thresholds[0].threshold = 0.2,
            |card| card.quality.sharpness_min = 2.0,
        ];
        for change in changes {
            assert_eq!(changed(change), committed().model_id());
        }
    }
}
