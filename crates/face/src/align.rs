//! Detection → aligned face: the five landmarks are moved to fixed places by the similarity (turn, scale, shift; no
//! reflection) that leaves the least squared distance (Umeyama 1991).

use super::{
    card::Alignment,
    detect::{Landmarks, Point},
    pixels::{CHANNELS, RgbImage, Window},
};

/// Where dlib's own face chips have these points on average, estimated on 241 people of LFW who are in no test set.
const DLIB_150: [[f64; 2]; 5] =
    [[48.752, 46.912], [102.643, 46.680], [75.584, 77.966], [51.924, 105.429], [98.618, 105.403]];
/// The frame of ArcFace: insightface, `utils/face_align.py`, `arcface_dst`.
const ARCFACE_112: [[f64; 2]; 5] =
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]];

/// Below this scale bilinear interpolation would skip pixels, so the surroundings are shrunk by area first, by a whole
/// number.
const BILINEAR_SCALE_MIN: f64 = 0.5;

/// A face in the frame that its embedder expects; wiped when dropped.
pub struct AlignedFace(RgbImage);

impl AlignedFace {
    /// Pixels that are in the frame of `alignment` already, if they have its size.
    pub fn from_chip(chip: RgbImage, alignment: Alignment) -> Option<Self> {
        let side = alignment.side_px();
        (chip.width() == side && chip.height() == side).then_some(Self(chip))
    }

    pub fn pixels(&self) -> &RgbImage {
        &self.0
    }

    pub(super) fn mirrored(&self) -> Self {
        Self(self.0.mirrored())
    }
}

impl Alignment {
    /// Where each landmark goes, in pixels of the chip.
    pub fn template(self) -> Landmarks {
        let points = match self {
            Self::Dlib150 => DLIB_150,
            Self::Arcface112 => ARCFACE_112,
        };
        points.map(|[x, y]| Point { x, y })
    }
}

pub(super) fn align(image: &RgbImage, landmarks: &Landmarks, alignment: Alignment) -> Option<AlignedFace> {
    let similarity = Similarity::between(landmarks, &alignment.template())?;
    Some(AlignedFace(chip(image, similarity, alignment.side_px())))
}

/// (x, y) → (a x - b y + shift.x, b x + a y + shift.y).
#[derive(Debug, Clone, Copy, PartialEq)]
struct Similarity {
    a: f64,
    b: f64,
    shift: Point,
}

impl Similarity {
    /// The best similarity from one set of points to the other; `None` when the points coincide.
    fn between(from: &Landmarks, to: &Landmarks) -> Option<Self> {
        let (from_centre, to_centre) = (centre(from), centre(to));
        let (mut a, mut b, mut spread) = (0.0, 0.0, 0.0);
        for (from, to) in from.iter().zip(to) {
            let (x, y) = (from.x - from_centre.x, from.y - from_centre.y);
            let (u, v) = (to.x - to_centre.x, to.y - to_centre.y);
            a += x * u + y * v;
            b += x * v - y * u;
            spread += x * x + y * y;
        }
        let (a, b) = (a / spread, b / spread);
        let shift = Point {
            x: to_centre.x - (a * from_centre.x - b * from_centre.y),
            y: to_centre.y - (b * from_centre.x + a * from_centre.y),
        };
        let similarity = Self { a, b, shift };
        (similarity.scale().is_finite() && similarity.scale() > 1e-6).then_some(similarity)
    }

    fn scale(self) -> f64 {
        self.a.hypot(self.b)
    }

    fn inverse(self, point: Point) -> Point {
        let (x, y) = (point.x - self.shift.x, point.y - self.shift.y);
        let square = self.a * self.a + self.b * self.b;
        Point { x: (self.a * x + self.b * y) / square, y: (self.a * y - self.b * x) / square }
    }
}

fn centre(points: &Landmarks) -> Point {
    let sum =
        points.iter().fold(Point { x: 0.0, y: 0.0 }, |sum, point| Point { x: sum.x + point.x, y: sum.y + point.y });
    Point { x: sum.x / points.len() as f64, y: sum.y / points.len() as f64 }
}

fn chip(image: &RgbImage, similarity: Similarity, side: usize) -> RgbImage {
    if similarity.scale() >= BILINEAR_SCALE_MIN {
        return sampled(image, side, |point| similarity.inverse(point));
    }
    let step = (1.0 / similarity.scale()).floor() as usize;
    let Some(window) = surroundings(image, similarity, side, step) else { return RgbImage::black(side, side) };
    let shrunk = image.area_resized(window, window.width / step, window.height / step);
    sampled(&shrunk, side, |point| {
        let source = similarity.inverse(point);
        // Pixel centres lie at half numbers when areas are shrunk, at whole numbers when points are moved.
        let shrunk = |source: f64, start: isize| (source - start as f64 + 0.5) / step as f64 - 0.5;
        Point { x: shrunk(source.x, window.x), y: shrunk(source.y, window.y) }
    })
}

/// The part of the image that the chip shows, and a little more; starts and lengths are multiples of `step`.
fn surroundings(image: &RgbImage, similarity: Similarity, side: usize, step: usize) -> Option<Window> {
    let edge = side as f64;
    let corners = [(0.0, 0.0), (edge, 0.0), (0.0, edge), (edge, edge)].map(|(x, y)| similarity.inverse(Point { x, y }));
    let span = |values: [f64; 4], limit: usize| {
        let low = values.into_iter().fold(f64::INFINITY, f64::min).clamp(0.0, limit as f64) as usize;
        let high = values.into_iter().fold(f64::NEG_INFINITY, f64::max).clamp(0.0, limit as f64) as usize;
        let (low, high) = ((low / step).saturating_sub(1) * step, (high / step + 2) * step);
        (low < limit).then(|| (low, high.min(limit / step * step).saturating_sub(low)))
    };
    let (x, width) = span(corners.map(|corner| corner.x), image.width())?;
    let (y, height) = span(corners.map(|corner| corner.y), image.height())?;
    (width > 0 && height > 0).then_some(Window { x: x as isize, y: y as isize, width, height })
}

/// A square of pixels, each interpolated between the four around its origin; black beyond the edge.
fn sampled(image: &RgbImage, side: usize, origin: impl Fn(Point) -> Point) -> RgbImage {
    let mut chip = RgbImage::black(side, side);
    for y in 0..side {
        for x in 0..side {
            let from = origin(Point { x: x as f64, y: y as f64 });
            chip.set_pixel(x, y, bilinear(image, from));
        }
    }
    chip
}

fn bilinear(image: &RgbImage, point: Point) -> [u8; CHANNELS] {
    let (left, top) = (point.x.floor(), point.y.floor());
    let (right_share, lower_share) = (point.x - left, point.y - top);
    let mut sums = [0.5; CHANNELS]; // rounds to the nearest
    for (dx, share_x) in [(0.0, 1.0 - right_share), (1.0, right_share)] {
        for (dy, share_y) in [(0.0, 1.0 - lower_share), (1.0, lower_share)] {
            let (x, y) = (left + dx, top + dy);
            if x >= 0.0 && y >= 0.0 && x < image.width() as f64 && y < image.height() as f64 {
                let pixel = image.pixel(x as usize, y as usize);
                for (sum, value) in sums.iter_mut().zip(pixel) {
                    *sum += share_x * share_y * f64::from(value);
                }
            }
        }
    }
    sums.map(|sum| sum as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(points: Landmarks, angle: f64, scale: f64, shift: Point) -> Landmarks {
        let (sin, cos) = angle.sin_cos();
        points.map(|p| Point {
            x: scale * (cos * p.x - sin * p.y) + shift.x,
            y: scale * (sin * p.x + cos * p.y) + shift.y,
        })
    }

    #[test]
    fn a_turned_scaled_and_shifted_template_is_moved_back() {
        let template = Alignment::Dlib150.template();
        let source = moved(template, 0.4, 2.5, Point { x: 300.0, y: -20.0 });
        let similarity = Similarity::between(&source, &template).unwrap();
        assert!((similarity.scale() - 1.0 / 2.5).abs() < 1e-12);
        for (chip, source) in template.into_iter().zip(source) {
            let back = similarity.inverse(chip);
            assert!((back.x - source.x).hypot(back.y - source.y) < 1e-9);
        }
    }

    #[test]
    fn points_in_one_place_have_no_similarity() {
        let one = [Point { x: 5.0, y: 5.0 }; 5];
        assert_eq!(Similarity::between(&one, &Alignment::Dlib150.template()), None);
    }

    #[test]
    fn an_image_in_place_stays_as_it_is_and_black_lies_beyond_it() {
        let mut image = RgbImage::black(100, 150);
        for (x, y) in [(0, 0), (99, 149), (50, 75)] {
            image.set_pixel(x, y, [200, 100, 50]);
        }
        let template = Alignment::Dlib150.template();
        let aligned = align(&image, &template, Alignment::Dlib150).unwrap();
        assert_eq!(aligned.pixels().pixel(99, 149), [200, 100, 50]);
        assert_eq!(aligned.pixels().pixel(50, 75), [200, 100, 50]);
        assert_eq!(aligned.pixels().pixel(120, 75), [0, 0, 0]);
    }
}
