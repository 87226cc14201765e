//! An image that is still on its way. A flow is handed the future and awaits it only when the image may be read:
//! after the consent was seen and a place in the compute pool was taken.

use crate::domain::{
    decision::FalseMatchRate,
    face::{MultipleFaces, UploadedImage},
};

/// What a caller sends along with a face.
pub struct IncomingFace {
    pub image: UploadedImage,
    pub on_multiple_faces: MultipleFaces,
    /// `None`: the service's default.
    pub false_match_rate: Option<FalseMatchRate>,
}

/// Why no image came out of a request's body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IncomingError {
    #[error("the request holds no image; send a multipart part named `image`, or the image itself as the body")]
    Missing,
    #[error("the image is larger than {} bytes", UploadedImage::BYTES_MAX)]
    TooLarge,
    #[error("send multipart/form-data, image/jpeg, image/png, image/webp or application/octet-stream, uncompressed")]
    UnsupportedType,
    #[error("the body is not well-formed multipart/form-data")]
    Malformed,
    #[error("the image did not arrive in time")]
    TooSlow,
    #[error("the connection ended before the image was complete")]
    Interrupted,
    #[error("field `{field}`: {reason}")]
    Field { field: String, reason: String },
}

impl IncomingError {
    pub fn code(&self) -> &'static str {
        match self {
            Self::Missing => "image_missing",
            Self::TooLarge => "image_too_large",
            Self::UnsupportedType => "unsupported_media_type",
            Self::Malformed => "malformed_multipart",
            Self::TooSlow => "upload_too_slow",
            Self::Interrupted => "upload_interrupted",
            Self::Field { .. } => "validation_failed",
        }
    }
}
