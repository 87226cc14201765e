//! Aligned face → embedding, fed as the model card says.

use std::path::Path;

use zeroize::Zeroizing;

use super::{
    FaceError,
    align::AlignedFace,
    card::{InputSpec, ModelCard},
    manifest::ModelError,
    session::{Network, Runtime},
};
use velum_domain::{face::Embedding, matching::ModelId};

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
        let output = (card.output.name.as_str(), &[1, card.output.dimension][..]);
        network.expect_shapes((&card.input.name, &[1, a, b, c]), &[output])?;
        Ok(Self {
            network,
            model: card.model_id(),
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
        let mut tensor = Zeroizing::new(Vec::with_capacity(a * b * c));
        self.input.feed().append(face.pixels(), &mut tensor);
        let output_shape = [1, self.dimension];
        let [output] = self.network.run(&[1, a, b, c], &tensor, [(&self.output, &output_shape)])?;
        Ok(output.values)
    }
}
