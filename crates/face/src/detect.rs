//! RGB pixels → the face that is meant: box, five landmarks and score, in source pixels.
//!
//! The picture is laid on a canvas with a black border of 25 % of its longer side on every side (without it, faces that
//! fill the frame are missed) and shrunk so that the canvas is at most 640 pixels long. So a face has to be at least about
//! 1/16 of the canvas, or 1/11 of the picture's longer side, to be found; in small pictures 40 pixels.
//!
//! Which face is meant: the one with the largest `area - 2 * (distance of its centre from the picture's centre)^2`.
//! Who else counts: see [`Detection::rivals`].

use std::path::Path;

use super::{
    FaceError,
    manifest::{DetectorFiles, ModelError},
    mtcnn::Mtcnn,
    pixels::{RgbImage, Window},
    session::{InferenceError, Runtime},
};
use velum_domain::face::MultipleFaces;

/// Width of the border, as a share of the picture's longer side.
const BORDER_SHARE: f64 = 0.25;
/// Longest side of the canvas, in pixels.
const CANVAS_SIDE_MAX: f64 = 640.0;

/// A second face is plausible from this score on; faces in group photos score above 0.99.
const RIVAL_SCORE_MIN: f32 = 0.9;
/// Smaller faces, by area against the main one, are people in the background.
const RIVAL_AREA_SHARE_MIN: f64 = 0.25;
/// A face that is cut off by the edge of the picture belongs to a neighbour of the person who is meant.
const RIVAL_VISIBLE_SHARE_MIN: f64 = 0.99;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    pub x: f64,
    pub y: f64,
}

/// Five points: the eye at the image's left, the eye at its right, the nose tip, the mouth's left and right corner.
pub type Landmarks = [Point; 5];

/// One face, in source pixels; the box may reach beyond the picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Detection {
    pub left: f64,
    pub top: f64,
    pub right: f64,
    pub bottom: f64,
    pub landmarks: Landmarks,
    /// The detector's confidence, 0 to 1.
    pub score: f32,
}

impl Detection {
    pub fn area(&self) -> f64 {
        (self.right - self.left).max(0.0) * (self.bottom - self.top).max(0.0)
    }

    /// Distance between the eyes.
    pub fn eye_distance_px(&self) -> f64 {
        let [left, right, ..] = self.landmarks;
        (right.x - left.x).hypot(right.y - left.y)
    }

    /// Area within a picture of this size, as a share of the whole.
    fn visible_share(&self, width: f64, height: f64) -> f64 {
        let visible_width = (self.right.min(width) - self.left.max(0.0)).max(0.0);
        let visible_height = (self.bottom.min(height) - self.top.max(0.0)).max(0.0);
        visible_width * visible_height / self.area().max(1.0)
    }

    /// Whether this face could be meant as well as `main`: sure to be a face, not much smaller, and
    /// wholly in the picture.
    pub(super) fn rivals(&self, main: &Self, image: &RgbImage) -> bool {
        self.score >= RIVAL_SCORE_MIN
            && self.area() >= RIVAL_AREA_SHARE_MIN * main.area()
            && self.visible_share(image.width() as f64, image.height() as f64) >= RIVAL_VISIBLE_SHARE_MIN
    }

    fn prominence(&self, image: &RgbImage) -> f64 {
        let x = (self.left + self.right - image.width() as f64) / 2.0;
        let y = (self.top + self.bottom - image.height() as f64) / 2.0;
        self.area() - 2.0 * (x * x + y * y)
    }
}

pub(super) struct Detector {
    networks: Mtcnn,
}

impl Detector {
    pub fn load(runtime: &Runtime, models_dir: &Path, files: &DetectorFiles) -> Result<Self, ModelError> {
        Ok(Self { networks: Mtcnn::load(runtime, models_dir, files)? })
    }

    /// Every face that the networks see, the one that is meant first.
    pub fn faces(&mut self, image: &RgbImage) -> Result<Vec<Detection>, InferenceError> {
        let canvas = Canvas::fitting(image);
        let faces = self.networks.detect(&canvas.paint(image))?;
        let mut faces: Vec<Detection> = faces
            .iter()
            .map(|face| {
                let [left, top, right, bottom] = face.corners;
                let (upper, lower) = (canvas.to_source([left, top]), canvas.to_source([right, bottom]));
                let landmarks = face.landmarks.map(|point| canvas.to_source(point));
                Detection { left: upper.x, top: upper.y, right: lower.x, bottom: lower.y, landmarks, score: face.score }
            })
            .collect();
        faces.sort_by(|a, b| b.prominence(image).total_cmp(&a.prominence(image)));
        Ok(faces)
    }
}

/// The face that is meant and how many plausible ones there are, or the refusal.
///
/// Too small: the eyes of the face that is meant lie closer than `eye_distance_px_min`, measured between the detector's
/// two eye points in pixels of the picture as sent. Fewer pixels hold too little of a face to compare.
pub(super) fn choose(
    faces: &[Detection],
    image: &RgbImage,
    multiple: MultipleFaces,
    eye_distance_px_min: f64,
) -> Result<(Detection, usize), FaceError> {
    let (main, others) = faces.split_first().ok_or(FaceError::NoFace)?;
    let seen = 1 + others.iter().filter(|other| other.rivals(main, image)).count();
    if seen > 1 && multiple == MultipleFaces::Refuse {
        return Err(FaceError::MultipleFaces { seen });
    }
    if main.eye_distance_px() < eye_distance_px_min {
        return Err(FaceError::FaceTooSmall { eye_distance_px_min: eye_distance_px_min.ceil() as u32 });
    }
    Ok((*main, seen))
}

/// Where the picture lies on the canvas. The border is never made at full size: a picture of 50 megapixels would need
/// three times its memory, and a very long one a square of its length.
#[derive(Debug, Clone, Copy)]
struct Canvas {
    width: usize,
    height: usize,
    /// Border around the picture, in source pixels.
    border: usize,
    /// Canvas pixels for each source pixel.
    scale: f64,
}

impl Canvas {
    fn fitting(image: &RgbImage) -> Self {
        let border = (image.width().max(image.height()) as f64 * BORDER_SHARE) as usize;
        let (width, height) = (image.width() + 2 * border, image.height() + 2 * border);
        let scale = (CANVAS_SIDE_MAX / width.max(height) as f64).min(1.0);
        let shrunk = |side: usize| ((side as f64 * scale).round_ties_even() as usize).max(1);
        Self { width: shrunk(width), height: shrunk(height), border, scale }
    }

    fn paint(&self, image: &RgbImage) -> RgbImage {
        let start = -self.border.cast_signed();
        let (width, height) = (image.width() + 2 * self.border, image.height() + 2 * self.border);
        image.area_resized(Window { x: start, y: start, width, height }, self.width, self.height)
    }

    fn to_source(self, [x, y]: [f32; 2]) -> Point {
        let border = self.border as f64;
        Point { x: f64::from(x) / self.scale - border, y: f64::from(y) / self.scale - border }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EYES_MIN: f64 = 24.0;

    fn face(x: f64, y: f64, side: f64, score: f32) -> Detection {
        let at = |dx: f64, dy: f64| Point { x: x + dx * side, y: y + dy * side };
        let landmarks = [at(0.3, 0.4), at(0.7, 0.4), at(0.5, 0.6), at(0.35, 0.8), at(0.65, 0.8)];
        Detection { left: x, top: y, right: x + side, bottom: y + side, landmarks, score }
    }

    fn chosen(faces: &[Detection], multiple: MultipleFaces) -> Result<(Detection, usize), &'static str> {
        choose(faces, &RgbImage::black(400, 300), multiple, EYES_MIN).map_err(|error| error.code())
    }

    #[test]
    fn a_picture_without_a_face_is_refused() {
        assert_eq!(chosen(&[], MultipleFaces::Largest), Err("no_face"));
    }

    #[test]
    fn two_plausible_faces_are_refused_unless_the_caller_says_otherwise() {
        let faces = [face(150.0, 100.0, 100.0, 0.99), face(20.0, 100.0, 90.0, 0.99)];
        assert_eq!(chosen(&faces, MultipleFaces::Refuse), Err("multiple_faces"));
        assert_eq!(chosen(&faces, MultipleFaces::Largest), Ok((faces[0], 2)));
    }

    #[test]
    fn doubtful_small_or_cut_off_faces_beside_the_main_one_do_not_count() {
        let main = face(150.0, 100.0, 100.0, 0.99);
        let others = [face(20.0, 100.0, 90.0, 0.85), face(20.0, 20.0, 45.0, 0.99), face(-40.0, 100.0, 90.0, 0.99)];
        for other in others {
            assert_eq!(chosen(&[main, other], MultipleFaces::Refuse), Ok((main, 1)), "{other:?}");
        }
    }

    #[test]
    fn eyes_closer_than_24_source_pixels_are_too_small() {
        assert_eq!(chosen(&[face(150.0, 100.0, 59.0, 0.99)], MultipleFaces::Refuse), Err("face_too_small"));
        assert!(chosen(&[face(150.0, 100.0, 61.0, 0.99)], MultipleFaces::Refuse).is_ok());
    }

    #[test]
    fn a_point_of_the_canvas_is_found_again_in_the_picture() {
        let canvas = Canvas::fitting(&RgbImage::black(1280, 960));
        assert_eq!((canvas.width, canvas.height), (640, 533));
        let corner = canvas.to_source([640.0 / 6.0, 640.0 / 6.0 + 320.0]);
        assert!(corner.x.abs() < 1e-3 && (corner.y - 960.0).abs() < 1e-3, "{corner:?}");
    }

    #[test]
    fn a_very_long_picture_gets_a_small_canvas() {
        let canvas = Canvas::fitting(&RgbImage::black(1_000_000, 1));
        assert!(canvas.width == 640 && canvas.height <= 640, "{canvas:?}");
    }
}
