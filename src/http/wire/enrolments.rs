//! The shapes of enrolments, and of what was seen in a photo.

use serde::Serialize;
use utoipa::ToSchema;

use super::Timestamp;
use crate::flows::{enrol::Enrolment, quality::Quality};

/// A stored, encrypted template.
#[derive(Debug, Serialize, ToSchema)]
pub struct EnrolmentBody {
    #[schema(example = "enr_0193512ab4c87d0e8f6a5b4c3d2e1f00")]
    pub id: String,
    pub subject_id: String,
    /// The model that made the embedding.
    pub model: String,
    /// The encryption parameters.
    pub parameters: String,
    /// Made under another model, parameters or key than those in use: it takes no part in verifications; enrol again.
    pub stale: bool,
    /// What was seen in the image; only in the answer to an enrolment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quality: Option<QualityBody>,
    pub created_at: Timestamp,
}

/// Measured on the face; it says whether another photo would do better, and nothing about whose face it is.
#[derive(Debug, Serialize, ToSchema)]
pub struct QualityBody {
    /// Distance between the eyes in the image as sent, in pixels.
    pub eye_distance_px: f64,
    /// Higher is sharper.
    pub sharpness: f64,
    /// Mean luma of the aligned face, 0 to 255.
    pub brightness: f64,
    /// Standard deviation of that luma.
    pub contrast: f64,
    pub yaw_degrees: f64,
    pub pitch_degrees: f64,
    pub roll_degrees: f64,
    /// Plausible faces in the image, this one included.
    pub faces_seen: usize,
}

impl From<Quality> for QualityBody {
    fn from(quality: Quality) -> Self {
        let Quality { report, faces_seen } = quality;
        // Three decimals say all there is to say.
        let rounded = |value: f64| (value * 1000.0).round() / 1000.0;
        Self {
            eye_distance_px: rounded(report.eye_distance_px),
            sharpness: rounded(report.sharpness),
            brightness: rounded(report.brightness),
            contrast: rounded(report.contrast),
            yaw_degrees: rounded(report.yaw_degrees),
            pitch_degrees: rounded(report.pitch_degrees),
            roll_degrees: rounded(report.roll_degrees),
            faces_seen,
        }
    }
}

impl From<Enrolment> for EnrolmentBody {
    fn from(enrolment: Enrolment) -> Self {
        Self {
            id: enrolment.id.to_string(),
            subject_id: enrolment.subject.to_string(),
            model: enrolment.model.to_string(),
            parameters: enrolment.parameters,
            stale: enrolment.stale,
            quality: enrolment.quality.map(QualityBody::from),
            created_at: enrolment.created_at.into(),
        }
    }
}
