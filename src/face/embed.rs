//! Aligned face → embedding, fed as the model card says.

use std::path::Path;

use zeroize::Zeroizing;

use super::{
    FaceError,
    align::AlignedFace,
    card::{ColourOrder, InputSpec, Layout, ModelCard},
    manifest::ModelError,
    pixels::CHANNELS,
    session::{InferenceError, Network, Runtime},
};
use crate::domain::{face::Embedding, matching::ModelId};

pub(super) struct Embedder {
    network: Network,
    model: ModelId,
    input: InputSpec,
    output: String,
    dimension: usize,
}

impl Embedder {
    pub fn load(runtime: &Runtime, models_dir: &Path, card: &ModelCard) -> Result<Self, ModelError> {
        let network = Network::load(runtime, models_dir, &card.model)?;
        let [a, b, c] = card.input.shape;
        network.expect_shapes((&card.input.name, &[1, a, b, c]), (&card.output.name, &[1, card.output.dimension]))?;
        Ok(Self {
            network,
            model: card.id.clone(),
            input: card.input.clone(),
            output: card.output.name.clone(),
            dimension: card.output.dimension,
        })
    }

    /// The embedding of the face; where the card says so, the mean of the raw embeddings of the face and its mirror image.
    pub fn embed(&mut self, face: &AlignedFace) -> Result<Embedding, FaceError> {
        let mut components = self.run(face)?;
        if self.input.mirrored {
            let mirrored = self.run(&face.mirrored())?;
            for (component, other) in components.iter_mut().zip(mirrored.iter()) {
                *component = (*component + other) / 2.0;
            }
        }
        Embedding::normalised(self.model.clone(), components).map_err(|error| FaceError::InferenceFailed(error.into()))
    }

    fn run(&mut self, face: &AlignedFace) -> Result<Zeroizing<Vec<f32>>, FaceError> {
        let [a, b, c] = self.input.shape;
        let tensor = tensor(face, &self.input);
        let [output] = self.network.run(&[1, a, b, c], &tensor, [&self.output])?;
        if output.values.len() == self.dimension {
            return Ok(output.values);
        }
        let reason = format!("it gave {} numbers, the manifest says {}", output.values.len(), self.dimension);
        Err(InferenceError { file: self.model.to_string(), reason }.into())
    }
}

/// `(pixel / divisor - mean[c]) / std[c]`, channels in the order of the card.
fn tensor(face: &AlignedFace, input: &InputSpec) -> Zeroizing<Vec<f32>> {
    let data = face.pixels().expose_data();
    let order = match input.colour {
        ColourOrder::Rgb => [0, 1, 2],
        ColourOrder::Bgr => [2, 1, 0],
    };
    let value = |pixel: &[u8], channel: usize| {
        (f32::from(pixel[order[channel]]) / input.divisor - input.mean[channel]) / input.std[channel]
    };
    let mut tensor = Zeroizing::new(Vec::with_capacity(data.len()));
    match input.layout {
        Layout::Chw => {
            for channel in 0..CHANNELS {
                tensor.extend(data.chunks_exact(CHANNELS).map(|pixel| value(pixel, channel)));
            }
        }
        Layout::Hwc => {
            for pixel in data.chunks_exact(CHANNELS) {
                tensor.extend((0..CHANNELS).map(|channel| value(pixel, channel)));
            }
        }
    }
    tensor
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::face::{card::Alignment, pixels::RgbImage};

    #[test]
    fn pixels_are_fed_in_the_order_and_range_of_the_card() {
        let mut chip = RgbImage::black(112, 112);
        chip.set_pixel(0, 0, [255, 51, 0]);
        let face = AlignedFace::from_chip(chip, Alignment::Arcface112).unwrap();
        let mut input = InputSpec {
            name: "x".to_owned(),
            shape: [3, 112, 112],
            layout: Layout::Chw,
            colour: ColourOrder::Rgb,
            divisor: 255.0,
            mean: [0.5, 0.2, 0.0],
            std: [0.5, 1.0, 2.0],
            alignment: Alignment::Arcface112,
            mirrored: false,
        };
        let plane = 112 * 112;
        let planes = tensor(&face, &input);
        assert_eq!([planes[0], planes[plane], planes[2 * plane]], [1.0, 0.0, 0.0]);
        assert_eq!([planes[1], planes[plane + 1], planes[2 * plane + 1]], [-1.0, -0.2, 0.0]);
        (input.layout, input.colour) = (Layout::Hwc, ColourOrder::Bgr);
        assert_eq!(tensor(&face, &input)[..3], [-1.0, 0.0, 0.5]);
    }
}
