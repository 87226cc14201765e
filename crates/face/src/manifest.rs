//! `models/manifest.toml`: every model file with its digest, licence and origin, and how each embedder is used.
//!
//! Invariant: bytes reach a session only through [`ModelFile::read_verified`], so what runs is what the manifest names.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{
    card::{ColourOrder, Layout, ModelCard},
    feed::Feed,
};
use velum_domain::matching::CardId;

/// Why the models cannot be used. Each stops the start; each names the file and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error("cannot read {path}: {source}", path = path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path} is not a valid model manifest: {reason}", path = path.display())]
    Invalid { path: PathBuf, reason: String },
    #[error("model file {file} has no licence in the manifest; state under which terms it may be used")]
    LicenceMissing { file: String },
    #[error("model file {file} was altered: the manifest says sha256 {expected}, the file has {found}")]
    Altered { file: String, expected: String, found: String },
    #[error("the manifest has no embedder {wanted}; it has {known}")]
    UnknownEmbedder { wanted: CardId, known: String },
    #[error("model file {file} does not do what the manifest says: {reason}")]
    Mismatch { file: String, reason: String },
    #[error("the runtime cannot load model file {file}: {reason}")]
    Unloadable { file: String, reason: String },
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this file's own layout.
    pub format: u32,
    /// The embedder that is used when the settings name none.
    #[serde(deserialize_with = "super::card::parsed")]
    pub default_embedder: CardId,
    pub detector: DetectorFiles,
    pub embedders: Vec<ModelCard>,
}

/// The three networks of MTCNN (Zhang et al. 2016), in the order in which they look.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetectorFiles {
    pub id: String,
    pub summary: String,
    /// P-Net: candidates on an image pyramid.
    pub proposal: DetectorNetwork,
    /// R-Net: keeps or drops a 24x24 candidate.
    pub refinement: DetectorNetwork,
    /// O-Net: final box and five landmarks of a 48x48 candidate.
    pub output: DetectorNetwork,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetectorNetwork {
    pub model: ModelFile,
    pub input: DetectorInput,
}

/// How pixels become the input tensor, as in [`InputSpec`](super::card::InputSpec).
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetectorInput {
    /// Name of the graph's input.
    pub name: String,
    /// Without the batch dimension, in the order of `layout`; 0 is a side that the graph leaves open.
    pub shape: [usize; 3],
    pub layout: Layout,
    pub colour: ColourOrder,
    pub divisor: f32,
    pub mean: [f32; 3],
    pub std: [f32; 3],
}

impl DetectorInput {
    pub(super) fn feed(&self) -> Feed {
        let &Self { layout, colour, divisor, mean, std, .. } = self;
        Feed { layout, colour, divisor, mean, std }
    }
}

impl DetectorFiles {
    /// The networks of MTCNN stand in fixed places: each has its own size of input, channels first.
    fn check(&self) -> Result<(), String> {
        for (role, network, side) in
            [("proposal", &self.proposal, 0), ("refinement", &self.refinement, 24), ("output", &self.output, 48)]
        {
            let input = &network.input;
            if input.shape != [3, side, side] || input.layout != Layout::Chw {
                return Err(format!("{role}: the input shape must be {:?} in the layout chw", [3, side, side]));
            }
            input.feed().check().map_err(|reason| format!("{role}: {reason}"))?;
        }
        Ok(())
    }
}

/// One model file: what it is, where it comes from and under which terms.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelFile {
    /// Name inside the models folder; no path.
    pub file: String,
    /// 64 lower-case hexadecimal digits.
    pub sha256: String,
    /// SPDX expression. Optional here only so that its absence gets its own sentence.
    #[serde(default)]
    pub licence: String,
    /// Package and registry, e.g. `PyPI facenet-pytorch`.
    pub package: String,
    pub version: String,
    /// The file inside the package that the weights come from.
    pub member: String,
}

impl Manifest {
    pub const FILE_NAME: &'static str = "manifest.toml";
    const FORMAT: u32 = 1;

    /// Reads and checks the manifest itself; the files it names are checked when they are read.
    pub fn read(models_dir: &Path) -> Result<Self, ModelError> {
        let path = models_dir.join(Self::FILE_NAME);
        let text = fs::read_to_string(&path).map_err(|source| ModelError::Unreadable { path: path.clone(), source })?;
        Self::parse(&text).map_err(|error| match error {
            ModelError::Invalid { reason, .. } => ModelError::Invalid { path, reason },
            other => other,
        })
    }

    fn parse(text: &str) -> Result<Self, ModelError> {
        let manifest: Self = toml::from_str(text).map_err(|error| invalid(error.to_string()))?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Every model file with the role it plays.
    pub fn files(&self) -> impl Iterator<Item = (&'static str, &ModelFile)> {
        let detector = &self.detector;
        [
            ("detector proposal", &detector.proposal.model),
            ("detector refinement", &detector.refinement.model),
            ("detector output", &detector.output.model),
        ]
        .into_iter()
        .chain(self.embedders.iter().map(|card| ("embedder", &card.model)))
    }

    /// The card of `wanted`, or of the default embedder.
    pub fn embedder(&self, wanted: Option<&CardId>) -> Result<&ModelCard, ModelError> {
        let wanted = wanted.unwrap_or(&self.default_embedder);
        self.embedders.iter().find(|card| card.id == *wanted).ok_or_else(|| {
            let known: Vec<_> = self.embedders.iter().map(|card| card.id.as_str()).collect();
            ModelError::UnknownEmbedder { wanted: wanted.clone(), known: known.join(", ") }
        })
    }

    fn check(&self) -> Result<(), ModelError> {
        if self.format != Self::FORMAT {
            return Err(invalid(format!("format is {}, this program reads {}", self.format, Self::FORMAT)));
        }
        for (_, file) in self.files() {
            file.check()?;
        }
        self.detector.check().map_err(|reason| invalid(format!("detector {reason}")))?;
        for (position, card) in self.embedders.iter().enumerate() {
            card.check().map_err(|reason| invalid(format!("embedder {}: {reason}", card.id)))?;
            if self.embedders[..position].iter().any(|earlier| earlier.id == card.id) {
                return Err(invalid(format!("embedder {} is there twice", card.id)));
            }
        }
        self.embedder(None).map(|_| ())
    }
}

impl ModelFile {
    fn check(&self) -> Result<(), ModelError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if self.file.is_empty() || self.file.starts_with('.') || !self.file.bytes().all(plain) {
            return Err(invalid(format!("{:?} is not a plain file name", self.file)));
        }
        if self.sha256.len() != 64 || !self.sha256.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(invalid(format!("sha256 of {} is not 64 lower-case hexadecimal digits", self.file)));
        }
        if self.licence.trim().is_empty() {
            return Err(ModelError::LicenceMissing { file: self.file.clone() });
        }
        Ok(())
    }

    /// The file's bytes, if they are the ones the manifest was written for.
    pub fn read_verified(&self, models_dir: &Path) -> Result<Vec<u8>, ModelError> {
        let path = models_dir.join(&self.file);
        let bytes = fs::read(&path).map_err(|source| ModelError::Unreadable { path, source })?;
        let found = hex::encode(Sha256::digest(&bytes));
        if found == self.sha256 {
            Ok(bytes)
        } else {
            Err(ModelError::Altered { file: self.file.clone(), expected: self.sha256.clone(), found })
        }
    }
}

fn invalid(reason: String) -> ModelError {
    ModelError::Invalid { path: PathBuf::from(Manifest::FILE_NAME), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn committed() -> (PathBuf, String) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
        let text = fs::read_to_string(folder.join(Manifest::FILE_NAME)).unwrap();
        (folder, text)
    }

    /// The sentence with which a changed manifest is refused.
    fn refusal(from: &str, to: &str) -> String {
        let (_, text) = committed();
        assert!(text.contains(from), "{from:?} is not in the manifest");
        Manifest::parse(&text.replacen(from, to, 1)).unwrap_err().to_string()
    }

    #[test]
    fn every_committed_file_is_the_one_the_manifest_names() {
        let (folder, _) = committed();
        let manifest = Manifest::read(&folder).unwrap();
        assert_eq!(manifest.files().count(), 4);
        for (role, file) in manifest.files() {
            file.read_verified(&folder).unwrap_or_else(|error| panic!("{role}: {error}"));
        }
    }

    #[test]
    fn an_altered_file_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let (_, text) = committed();
        let manifest = Manifest::parse(&text).unwrap();
        fs::write(folder.path().join("mtcnn_rnet.onnx"), b"something else").unwrap();
        let sentence = manifest.detector.refinement.model.read_verified(folder.path()).unwrap_err().to_string();
        assert!(sentence.starts_with("model file mtcnn_rnet.onnx was altered"), "{sentence}");
        let sentence = manifest.detector.output.model.read_verified(folder.path()).unwrap_err().to_string();
        assert!(sentence.contains("mtcnn_onet.onnx"), "{sentence}");
    }

    #[test]
    fn a_missing_or_empty_licence_is_refused_by_file() {
        for replacement in ["", "licence = \"  \"\n"] {
            let sentence = refusal("licence = \"CC0-1.0\"\n", replacement);
            assert!(sentence.contains("dlib_resnet_fp16w.onnx has no licence"), "{sentence}");
        }
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let sentence = refusal("mirrored = true", "mirrored = true\nsharpen = 3");
        assert!(sentence.contains("unknown field `sharpen`"), "{sentence}");
    }

    #[test]
    fn a_value_that_cannot_be_right_is_refused_with_its_reason() {
        for (from, to, reason) in [
            ("id = \"dlib-resnet29-v1\"", "id = \"dlib+0a1b2c3d\"", "the id of a model card"),
            ("shape = [3, 24, 24]", "shape = [3, 48, 48]", "detector refinement: the input shape must be [3, 24, 24]"),
            ("shape = [3, 0, 0]", "shape = [3, 12, 12]", "detector proposal: the input shape must be [3, 0, 0]"),
            ("layout = \"chw\"", "layout = \"hwc\"", "in the layout chw"),
            ("std = [128.0, 128.0, 128.0]", "std = [128.0, nan, 128.0]", "detector proposal: divisor and std"),
            ("mean = [127.5, 127.5, 127.5]", "mean = [inf, 127.5, 127.5]", "the input mean is not a number"),
            ("sharpness_min = 1.5", "sharpness_min = nan", "quality.sharpness_min is NaN"),
            ("contrast_min = 12.0", "contrast_min = -1.0", "quality.contrast_min is -1"),
            ("yaw_degrees_max = 40.0", "yaw_degrees_max = inf", "quality.yaw_degrees_max is inf"),
            ("eye_distance_px_min = 24.0", "eye_distance_px_min = nan", "quality.eye_distance_px_min is NaN"),
            ("brightness_min = 35.0", "brightness_min = 225.0", "quality.brightness_min is not below"),
            ("threshold = 0.1352", "threshold = nan", "do not get stricter"),
            ("format = 1", "format = 2", "format is 2"),
            ("default_embedder = \"dlib-resnet29-v1\"", "default_embedder = \"other\"", "no embedder other"),
            ("file = \"mtcnn_pnet.onnx\"", "file = \"../mtcnn_pnet.onnx\"", "not a plain file name"),
            ("sha256 = \"", "sha256 = \"X", "64 lower-case"),
            ("shape = [3, 150, 150]", "shape = [3, 112, 112]", "does not fit its alignment"),
            ("std = [1.0, 1.0, 1.0]", "std = [1.0, 0.0, 1.0]", "above zero"),
            ("dimension = 128", "dimension = 127", "must be 127 numbers"),
            ("metric = \"squared_euclid\"", "metric = \"manhattan\"", "manhattan"),
            ("metric = \"squared_euclid\"", "metric = \"cosine\"", "squared_euclid only"),
            ("threshold = 0.1352", "threshold = 0.2", "do not get stricter"),
            ("false_match_rate = \"1e-3\"", "false_match_rate = \"1e-2\"", "exactly one threshold"),
            ("false_match_rate = \"1e-3\"", "false_match_rate = \"1e-5\"", "1e-2, 1e-3, 1e-4"),
        ] {
            let sentence = refusal(from, to);
            assert!(sentence.contains(reason), "{to}: {sentence}");
        }
    }
}
