//! What a face is while it travels through the program: uploaded bytes, then an embedding. Both live in memory only and
//! are wiped when dropped; neither can be printed, cloned or serialised.

use zeroize::Zeroizing;

use super::matching::ModelId;

/// The bytes of an image as a client sent them: size-checked, not yet decoded.
pub struct UploadedImage(Zeroizing<Vec<u8>>);

impl UploadedImage {
    /// Largest accepted upload, in bytes.
    pub const BYTES_MAX: usize = 10 * 1000 * 1000;

    pub fn new(bytes: Zeroizing<Vec<u8>>) -> Result<Self, ImageTooLarge> {
        if bytes.len() > Self::BYTES_MAX { Err(ImageTooLarge) } else { Ok(Self(bytes)) }
    }

    pub fn expose_bytes(&self) -> &[u8] {
        &self.0
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the image is larger than {} bytes", UploadedImage::BYTES_MAX)]
pub struct ImageTooLarge;

/// What to do when an image holds more than one plausible face.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MultipleFaces {
    /// Refuse: the caller decides who is meant.
    #[default]
    Refuse,
    /// Take the largest and most central one.
    Largest,
}

/// A face as a vector of R^d, unit length, made by one model.
pub struct Embedding {
    model: ModelId,
    components: Zeroizing<Vec<f32>>,
}

impl Embedding {
    /// Scales `components` to unit length; a vector that has no direction (zero, NaN, infinite) is refused.
    pub fn normalised(model: ModelId, mut components: Zeroizing<Vec<f32>>) -> Result<Self, DegenerateEmbedding> {
        let norm = components.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
        if !norm.is_finite() || norm < 1e-6 {
            return Err(DegenerateEmbedding);
        }
        for component in components.iter_mut() {
            *component = (f64::from(*component) / norm) as f32;
        }
        Ok(Self { model, components })
    }

    pub fn model(&self) -> &ModelId {
        &self.model
    }

    pub fn dimension(&self) -> usize {
        self.components.len()
    }

    pub fn expose_components(&self) -> &[f32] {
        &self.components
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the model gave a vector without a direction")]
pub struct DegenerateEmbedding;
