//! The face pipeline behind its lock: no consent seen, no pixel decoded.

use std::sync::Arc;

use super::{FlowError, consents::ConsentProof, quality::Quality};
use crate::{
    domain::face::{Embedding, MultipleFaces, UploadedImage},
    face::FacePipeline,
};

/// The pipeline is private to this file, so that the only way to it leads past a proof of consent.
pub(super) struct Faces(Arc<FacePipeline>);

impl Faces {
    pub fn new(pipeline: Arc<FacePipeline>) -> Self {
        Self(pipeline)
    }

    /// Decodes the image and embeds its face. Blocking: runs in the compute pool.
    pub fn read(
        &self,
        _seen: &ConsentProof,
        image: UploadedImage,
        faces: MultipleFaces,
    ) -> Result<(Embedding, Quality), FlowError> {
        let reading = self.0.embed(image, faces)?;
        Ok((reading.embedding, Quality { report: reading.quality, faces_seen: reading.faces_seen }))
    }
}
