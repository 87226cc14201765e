//! An image that is still on its way, and what must hold before it is read and before it is worked on.

use sha2::{Digest, Sha256};

use super::{
    FlowError, Flows,
    compute::Place,
    consents::{self, ConsentProof},
    subjects,
    uploads::Share,
};
use crate::{
    domain::{
        consent::Purpose,
        decision::FalseMatchRate,
        face::{MultipleFaces, UploadedImage},
        id::{SubjectId, TenantId},
    },
    measure::Stage,
};

/// Nothing is read before `face` is awaited.
pub struct Incoming<F> {
    /// What the image can have at most.
    pub bytes_max: usize,
    pub face: F,
}

/// An image with everything that working on it takes.
pub(super) struct Received {
    /// Seen when the image had arrived.
    pub consent: ConsentProof,
    pub face: IncomingFace,
    pub place: Place,
    /// Kept until the image is worked off.
    pub share: Share,
}

/// Reads an image. The caller has seen a person and a consent; both are looked at again when the image is there, for an
/// upload takes its time and a withdrawal none. The place in the pool is taken last, so that no slow sender holds one.
pub(super) async fn receive(
    flows: &Flows,
    tenant: TenantId,
    subject: SubjectId,
    incoming: Incoming<impl Future<Output = Result<IncomingFace, IncomingError>>>,
) -> Result<Received, FlowError> {
    flows.compute.refuse_if_full()?;
    let share = flows.uploads.reserve(tenant, incoming.bytes_max)?;
    let face = Stage::Receive.complete(incoming.face).await?;
    let _not_being_erased = subjects::data_key(flows, tenant, subject).await?;
    let consent = consents::require(flows, tenant, subject, Purpose::face_verification()).await?;
    let place = flows.compute.reserve()?;
    Ok(Received { consent, face, place, share })
}

/// What a caller sends along with a face.
pub struct IncomingFace {
    pub image: UploadedImage,
    pub on_multiple_faces: MultipleFaces,
    /// `None`: the service's default.
    pub false_match_rate: Option<FalseMatchRate>,
}

impl IncomingFace {
    /// Tells one request from another; the image itself cannot be had from it.
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut hash = Sha256::new_with_prefix(Sha256::digest(self.image.expose_bytes()));
        hash.update([u8::from(self.on_multiple_faces == MultipleFaces::Largest)]);
        hash.update(self.false_match_rate.map_or("", FalseMatchRate::as_str));
        hash.finalize().into()
    }
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
