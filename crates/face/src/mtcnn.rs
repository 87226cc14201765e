//! MTCNN (Zhang et al., 2016) with the weights and the arithmetic of facenet-pytorch: P-Net proposes on an image pyramid,
//! R-Net drops most proposals, O-Net gives the final box and five landmarks. All in canvas pixels.
//!
//! One step is added: a face's landmarks are the mean of what O-Net sees in every candidate of R-Net that lies on that face,
//! not in the best-scored one alone. Scores of good candidates are nearly equal, so that one bit of difference between two
//! JPEG decoders picks another candidate and moves landmarks by up to 5 % of the distance between the eyes. On the
//! development photos the mean keeps the average distances and narrows their spread (largest between photos of one person
//! 0.105 instead of 0.112, smallest between two people 0.116 instead of 0.108).

use std::path::Path;

use zeroize::Zeroizing;

use super::{
    candidates::{Candidate, Overlap, best, suppress},
    feed::Feed,
    manifest::{DetectorFiles, DetectorNetwork, ModelError},
    pixels::{CHANNELS, RgbImage, Window},
    session::{InferenceError, Network, OPEN, Runtime, Tensor},
};

/// Smallest face that is looked for, in canvas pixels; 20 finds smaller ones at twice the cost.
const FACE_SIDE_MIN: f64 = 40.0;
/// What P-Net sees at once, in pixels of a pyramid level.
const CELL_SIDE: f64 = 12.0;
/// P-Net moves by two pixels of a level.
const CELL_STRIDE: f64 = 2.0;
const PYRAMID_FACTOR: f64 = 0.709;

const PROPOSAL_SCORE_MIN: f32 = 0.6;
const REFINEMENT_SCORE_MIN: f32 = 0.7;
const OUTPUT_SCORE_MIN: f32 = 0.7;

const LEVEL_OVERLAP_MAX: f32 = 0.5;
const OVERLAP_MAX: f32 = 0.7;

/// A photo of one person gives some 20 proposals, a crowd some hundred. These bounds keep a hostile picture, made to look
/// like faces everywhere, from costing seconds; the best-scored candidates stay.
const PROPOSALS_MAX: usize = 512;
const REFINED_MAX: usize = 128;
/// Candidates that R-Net and O-Net look at in one run. The runtime needs memory for a whole batch at once, hundreds of kB a
/// candidate, and keeps what the largest batch took. Small batches are as fast as one large one (measured), so that a crowd
/// leaves no more behind than a portrait does.
const REFINEMENT_BATCH: usize = 16;
const OUTPUT_BATCH: usize = 8;

/// Candidates that overlap a face's own one by more lie on the same face (intersection over union).
const SUPPORT_OVERLAP_MIN: f32 = 0.5;

/// A face on the canvas. Landmarks: eye at the image's left, eye at its right, nose tip, mouth corners left and right.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct CanvasFace {
    pub corners: [f32; 4],
    pub landmarks: [[f32; 2]; 5],
    pub score: f32,
}

pub(super) struct Mtcnn {
    proposal: Stage,
    refinement: Stage,
    output: Stage,
}

/// One network, and how it is fed.
struct Stage {
    network: Network,
    feed: Feed,
}

impl Stage {
    fn load(
        runtime: &Runtime,
        models_dir: &Path,
        files: &DetectorNetwork,
        outputs: &[(&str, &[usize])],
    ) -> Result<Self, ModelError> {
        let network = Network::load(runtime, models_dir, &files.model)?;
        let [channels, height, width] = files.input.shape;
        network.expect_shapes((&files.input.name, &[OPEN, channels, height, width]), outputs)?;
        Ok(Self { network, feed: files.input.feed() })
    }

    /// Images of one size, as one batch.
    fn run<const N: usize>(
        &mut self,
        images: &[RgbImage],
        outputs: [(&str, &[usize]); N],
    ) -> Result<[Tensor; N], InferenceError> {
        let (height, width) = images.first().map_or((0, 0), |image| (image.height(), image.width()));
        let shape = [images.len(), CHANNELS, height, width];
        let mut tensor = Zeroizing::new(Vec::with_capacity(shape.iter().product()));
        images.iter().for_each(|image| self.feed.append(image, &mut tensor));
        self.network.run(&shape, &tensor, outputs)
    }
}

impl Mtcnn {
    pub fn load(runtime: &Runtime, models_dir: &Path, files: &DetectorFiles) -> Result<Self, ModelError> {
        let boxes: [(&str, &[usize]); 2] = [("reg", &[OPEN, 4]), ("prob", &[OPEN, 2])];
        let cells: [(&str, &[usize]); 2] = [("reg", &[OPEN, 4, OPEN, OPEN]), ("prob", &[OPEN, 2, OPEN, OPEN])];
        let [reg, prob] = boxes;
        let load = |network, outputs: &[_]| Stage::load(runtime, models_dir, network, outputs);
        Ok(Self {
            proposal: load(&files.proposal, &cells)?,
            refinement: load(&files.refinement, &boxes)?,
            output: load(&files.output, &[reg, prob, ("landmarks", &[OPEN, 10])])?,
        })
    }

    pub fn detect(&mut self, canvas: &RgbImage) -> Result<Vec<CanvasFace>, InferenceError> {
        let proposals = self.propose(canvas)?;
        let refined = self.refine(canvas, &proposals)?;
        self.finish(canvas, &refined)
    }

    fn propose(&mut self, canvas: &RgbImage) -> Result<Vec<Candidate>, InferenceError> {
        let mut proposals = Vec::new();
        let side_min = canvas.width().min(canvas.height()) as f64;
        let mut scale = CELL_SIDE / FACE_SIDE_MIN;
        while side_min * scale >= CELL_SIDE {
            let level_side = |side: usize| (side as f64 * scale + 1.0) as usize;
            let level = canvas.area_resized(canvas.window(), level_side(canvas.width()), level_side(canvas.height()));
            let (rows, columns) = (grid_side(level.height()), grid_side(level.width()));
            let outputs = [("reg", &[1, 4, rows, columns][..]), ("prob", &[1, 2, rows, columns])];
            let [offsets, scores] = self.proposal.run(&[level], outputs)?;
            let level_proposals = cells(&offsets, &scores, scale);
            proposals.extend(best(&level_proposals, LEVEL_OVERLAP_MAX, PROPOSALS_MAX));
            scale *= PYRAMID_FACTOR;
        }
        let proposals = best(&proposals, OVERLAP_MAX, PROPOSALS_MAX).into_iter();
        let squares = proposals.map(|proposal| proposal.refined(0.0).squared());
        Ok(squares.filter(|square| visible(square, canvas).is_some()).collect())
    }

    fn refine(&mut self, canvas: &RgbImage, proposals: &[Candidate]) -> Result<Vec<Refined>, InferenceError> {
        let mut kept = Vec::new();
        for batch in proposals.chunks(REFINEMENT_BATCH) {
            let outputs = [("reg", &[batch.len(), 4][..]), ("prob", &[batch.len(), 2])];
            let [offsets, scores] = self.refinement.run(&crops(canvas, batch, 24), outputs)?;
            kept.extend(judged(batch, &offsets, &scores).filter(|judged| judged.score > REFINEMENT_SCORE_MIN));
        }
        kept.sort_by(|a, b| b.score.total_cmp(&a.score));
        kept.truncate(REFINED_MAX);
        let leaders = suppress(&kept, OVERLAP_MAX, Overlap::Union);
        let refined = kept.into_iter().enumerate().map(|(position, kept)| Refined {
            candidate: kept.refined(1.0).squared(),
            leads: leaders.contains(&position),
        });
        Ok(refined.filter(|refined| visible(&refined.candidate, canvas).is_some()).collect())
    }

    fn finish(&mut self, canvas: &RgbImage, refined: &[Refined]) -> Result<Vec<CanvasFace>, InferenceError> {
        let candidates: Vec<Candidate> = refined.iter().map(|refined| refined.candidate).collect();
        let (mut judgements, mut points) = (Vec::new(), Vec::new());
        for batch in candidates.chunks(OUTPUT_BATCH) {
            let count = batch.len();
            let outputs = [("reg", &[count, 4][..]), ("prob", &[count, 2]), ("landmarks", &[count, 10])];
            let [offsets, scores, landmarks] = self.output.run(&crops(canvas, batch, 48), outputs)?;
            judgements.extend(judged(batch, &offsets, &scores));
            let relative = landmarks.values.chunks_exact(10);
            points.extend(batch.iter().zip(relative).map(|(face, relative)| absolute_landmarks(face, relative)));
        }
        let (boxes, landmarks): (Vec<Candidate>, Vec<[[f32; 2]; 5]>) = judgements
            .into_iter()
            .zip(refined)
            .filter(|(judged, refined)| refined.leads && judged.score > OUTPUT_SCORE_MIN)
            .map(|(judged, _)| (judged.refined(1.0), supported_landmarks(&judged, &candidates, &points)))
            .unzip();
        let faces = suppress(&boxes, OVERLAP_MAX, Overlap::Smaller).into_iter();
        Ok(faces
            .map(|kept| CanvasFace {
                corners: boxes[kept].corners,
                landmarks: landmarks[kept],
                score: boxes[kept].score,
            })
            .collect())
    }
}

/// A candidate that R-Net kept; it leads when no better one overlaps it.
struct Refined {
    candidate: Candidate,
    leads: bool,
}

/// The mean of the landmarks of every candidate that lies on the same face as `leader`, itself included.
fn supported_landmarks(leader: &Candidate, candidates: &[Candidate], points: &[[[f32; 2]; 5]]) -> [[f32; 2]; 5] {
    let supporters = candidates.iter().zip(points);
    let supporters: Vec<&[[f32; 2]; 5]> = supporters
        .filter(|(candidate, _)| candidate.overlap(leader, Overlap::Union) > SUPPORT_OVERLAP_MIN)
        .map(|(_, points)| points)
        .collect();
    let mean = |point: usize, axis: usize| {
        supporters.iter().map(|points| points[point][axis]).sum::<f32>() / supporters.len() as f32
    };
    std::array::from_fn(|point| [mean(point, 0), mean(point, 1)])
}

/// x1..x5, then y1..y5, in units of the box before its refinement.
fn absolute_landmarks(face: &Candidate, relative: &[f32]) -> [[f32; 2]; 5] {
    let [x1, y1, ..] = face.corners;
    let (width, height) = (face.width() + 1.0, face.height() + 1.0);
    std::array::from_fn(|point| [width * relative[point] + x1 - 1.0, height * relative[point + 5] + y1 - 1.0])
}

/// Cells of P-Net along a side: a 3x3 convolution, pooling by two that rounds up, two more convolutions.
fn grid_side(side: usize) -> usize {
    (side - 2).div_ceil(2) - 4
}

/// P-Net's cells that look like a face, as boxes on the canvas.
fn cells(offsets: &Tensor, scores: &Tensor, scale: f64) -> Vec<Candidate> {
    let &[_, _, rows, columns] = scores.shape.as_slice() else { return Vec::new() };
    let plane = rows * columns;
    if scores.values.len() < 2 * plane || offsets.values.len() < 4 * plane {
        return Vec::new();
    }
    let faces = scores.values[plane..2 * plane].iter().enumerate();
    faces
        .filter(|&(_, &score)| score >= PROPOSAL_SCORE_MIN)
        .map(|(cell, &score)| {
            let (x, y) = (CELL_STRIDE * (cell % columns) as f64, CELL_STRIDE * (cell / columns) as f64);
            let on_canvas = |level: f64| (level / scale).floor() as f32;
            Candidate {
                corners: [x + 1.0, y + 1.0, x + CELL_SIDE, y + CELL_SIDE].map(on_canvas),
                offsets: std::array::from_fn(|corner| offsets.values[corner * plane + cell]),
                score,
            }
        })
        .collect()
}

/// The candidates with the network's new offsets and score.
fn judged<'a>(
    candidates: &'a [Candidate],
    offsets: &'a Tensor,
    scores: &'a Tensor,
) -> impl Iterator<Item = Candidate> + 'a {
    let rows = offsets.values.chunks_exact(4).zip(scores.values.chunks_exact(2));
    candidates.iter().zip(rows).map(|(candidate, (offsets, score))| Candidate {
        corners: candidate.corners,
        offsets: std::array::from_fn(|corner| offsets[corner]),
        score: score[1],
    })
}

/// The pixels of each candidate, resized to a square; black where it does not touch the canvas.
fn crops(canvas: &RgbImage, candidates: &[Candidate], side: usize) -> Vec<RgbImage> {
    let crop = |candidate| match visible(candidate, canvas) {
        Some(window) => canvas.area_resized(window, side, side),
        None => RgbImage::black(side, side),
    };
    candidates.iter().map(crop).collect()
}

/// Corners are cut to whole numbers and counted from 1, as the weights were trained.
fn visible(candidate: &Candidate, canvas: &RgbImage) -> Option<Window> {
    let [x1, y1, x2, y2] = candidate.corners.map(f32::trunc);
    let (x, y) = (x1.max(1.0) as usize - 1, y1.max(1.0) as usize - 1);
    let (x_end, y_end) = (x2.max(0.0) as usize, y2.max(0.0) as usize);
    let width = x_end.min(canvas.width()).checked_sub(x).filter(|&width| width > 0)?;
    let height = y_end.min(canvas.height()).checked_sub(y).filter(|&height| height > 0)?;
    Some(Window { x: x as isize, y: y as isize, width, height })
}
