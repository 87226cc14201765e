//! From the bytes of an image to the embedding of one face: decode, detect, align, check, embed.
//!
//! Pixels exist only in memory while a call lasts and are wiped afterwards. Nothing here knows of consent, ciphertexts or
//! HTTP; callers make sure that they may look before they hand an image in.

pub mod align;
mod candidates;
pub mod card;
pub mod container;
pub mod decode;
pub mod detect;
mod embed;
mod feed;
pub mod manifest;
mod mtcnn;
pub mod pixels;
mod pool;
pub mod quality;
pub mod session;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use self::{
    align::AlignedFace,
    detect::{Detection, Detector},
    embed::Embedder,
    pool::Pool,
    session::InferenceError,
};
pub use self::{
    card::ModelCard,
    manifest::{Manifest, ModelError},
    quality::{QualityReason, QualityReport},
    session::{Runtime, RuntimeError},
};
use velum_domain::{
    face::{Embedding, MultipleFaces, UploadedImage},
    matching::CardId,
};

/// Why an image gives no embedding. Each is the caller's to put right, except [`FaceError::InferenceFailed`].
#[derive(Debug, thiserror::Error)]
pub enum FaceError {
    #[error("the bytes are not a JPEG, PNG or WebP image")]
    UnsupportedFormat,
    #[error("the image cannot be decoded: it is truncated, damaged or not plausible")]
    Undecodable,
    #[error("the image is animated; send a single still image")]
    Animated,
    #[error("the image has more than 50 megapixels")]
    TooManyPixels,
    #[error("the image is larger than 10 MB")]
    TooLarge,
    #[error("no face was found")]
    NoFace,
    #[error("the face is too small: its eyes are closer than {eye_distance_px_min} pixels")]
    FaceTooSmall { eye_distance_px_min: u32 },
    #[error("{seen} faces were found, one is expected")]
    MultipleFaces { seen: usize },
    #[error("the face is not good enough to be compared")]
    QualityTooLow { reasons: Vec<QualityReason> },
    #[error("the model could not be run")]
    InferenceFailed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl FaceError {
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnsupportedFormat => "image_unsupported_format",
            Self::Undecodable => "image_undecodable",
            Self::Animated => "image_animated",
            Self::TooManyPixels => "image_too_many_pixels",
            Self::TooLarge => "image_too_large",
            Self::NoFace => "no_face",
            Self::FaceTooSmall { .. } => "face_too_small",
            Self::MultipleFaces { .. } => "multiple_faces",
            Self::QualityTooLow { .. } => "quality_too_low",
            Self::InferenceFailed(_) => "inference_failed",
        }
    }
}

impl From<InferenceError> for FaceError {
    fn from(error: InferenceError) -> Self {
        Self::InferenceFailed(Box::new(error))
    }
}

/// The embedding of one face, with what was seen on the way.
pub struct FaceReading {
    pub embedding: Embedding,
    pub quality: QualityReport,
    /// Plausible faces in the image, the embedded one included.
    pub faces_seen: usize,
    pub stages: StageTimes,
}

/// Wall time of each step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StageTimes {
    pub decode: Duration,
    pub detect: Duration,
    /// Alignment and the quality gate.
    pub align: Duration,
    pub embed: Duration,
}

/// The loaded models. Thread-safe and blocking: a call keeps one core busy for some thirty milliseconds.
pub struct FacePipeline {
    card: ModelCard,
    lanes: Pool<Lane>,
}

/// What one call at a time needs.
struct Lane {
    detector: Detector,
    embedder: Embedder,
}

impl FacePipeline {
    /// Loads the detector and one embedder (`None`: the manifest's default), `sessions` times each, so that as many calls
    /// can run at once; further ones wait.
    pub fn load(
        runtime: &Runtime,
        models_dir: &Path,
        embedder: Option<&CardId>,
        sessions: usize,
    ) -> Result<Self, ModelError> {
        let manifest = Manifest::read(models_dir)?;
        let card = manifest.embedder(embedder)?.clone();
        let lane = |_| {
            Ok(Lane {
                detector: Detector::load(runtime, models_dir, &manifest.detector)?,
                embedder: Embedder::load(runtime, models_dir, &card)?,
            })
        };
        let lanes = (0..sessions.max(1)).map(lane).collect::<Result<_, ModelError>>()?;
        Ok(Self { card, lanes: Pool::new(lanes) })
    }

    pub fn card(&self) -> &ModelCard {
        &self.card
    }

    /// The embedding of the one face in the image, if it is good enough to be compared.
    pub fn embed(&self, image: UploadedImage, faces: MultipleFaces) -> Result<FaceReading, FaceError> {
        let Examination { aligned, quality, faces_seen, mut stages, .. } = self.examine(image, faces)?;
        let reasons = quality.shortcomings(&self.card.quality);
        if !reasons.is_empty() {
            return Err(FaceError::QualityTooLow { reasons });
        }
        let embedding = timed(&mut stages.embed, || self.embed_aligned(&aligned))?;
        Ok(FaceReading { embedding, quality, faces_seen, stages })
    }

    /// Everything up to the quality gate: which face is meant, where it is, and how good it is.
    pub fn examine(&self, image: UploadedImage, faces: MultipleFaces) -> Result<Examination, FaceError> {
        let mut stages = StageTimes::default();
        let pixels = timed(&mut stages.decode, || decode::decode(&image))?;
        drop(image);
        let found = timed(&mut stages.detect, || self.lanes.take().detector.faces(&pixels))?;
        let (detection, faces_seen) = detect::choose(&found, &pixels, faces, self.card.quality.eye_distance_px_min)?;
        let alignment = self.card.input.alignment;
        let (aligned, quality) = timed(&mut stages.align, || {
            let aligned = align::align(&pixels, &detection.landmarks, alignment).ok_or(FaceError::NoFace)?;
            let quality = QualityReport::measure(&detection, &aligned);
            Ok::<_, FaceError>((aligned, quality))
        })?;
        Ok(Examination { detection, faces_seen, aligned, quality, stages })
    }

    /// The embedding of a face that is in the embedder's frame already.
    pub fn embed_aligned(&self, face: &AlignedFace) -> Result<Embedding, FaceError> {
        self.lanes.take().embedder.embed(face)
    }
}

/// What is known of a face before it is judged and embedded.
pub struct Examination {
    pub detection: Detection,
    pub faces_seen: usize,
    pub aligned: AlignedFace,
    pub quality: QualityReport,
    pub stages: StageTimes,
}

fn timed<T>(duration: &mut Duration, step: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = step();
    *duration = start.elapsed();
    result
}
