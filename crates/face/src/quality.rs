//! A basic quality gate: is this face good enough to be compared at all?

use super::{
    align::AlignedFace,
    card::QualityThresholds,
    detect::{Detection, Point},
    pixels::CHANNELS,
};

/// Depth of the nose tip before the plane of the eyes, in distances between the eyes (about 38 mm to 63 mm).
const NOSE_DEPTH: f64 = 0.6;
/// Where a face that looks straight ahead has its nose tip, on the way from the eyes to the mouth; and the length of that
/// way in distances between the eyes. From the alignment template.
const NOSE_PLACE: f64 = 0.532;
const MOUTH_PLACE: f64 = 1.087;

/// What was measured on a face; frames and units as in [`QualityThresholds`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QualityReport {
    /// Distance between the eyes, in source pixels.
    pub eye_distance_px: f64,
    /// Mean absolute Laplacian of luma over the middle of the aligned face. An image that was enlarged to fill the chip is
    /// as soft as one out of focus, and counts as such.
    pub sharpness: f64,
    /// Mean luma of the aligned face, 0..=255.
    pub brightness: f64,
    /// Standard deviation of luma over the aligned face.
    pub contrast: f64,
    pub yaw_degrees: f64,
    pub pitch_degrees: f64,
    pub roll_degrees: f64,
}

/// Why a face is refused; the code is for machines, the sentence for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QualityReason {
    Blurred,
    TooDark,
    TooBright,
    LowContrast,
    TurnedAway,
    Nodding,
    Tilted,
}

impl QualityReason {
    pub fn code(self) -> &'static str {
        match self {
            Self::Blurred => "blurred",
            Self::TooDark => "too_dark",
            Self::TooBright => "too_bright",
            Self::LowContrast => "low_contrast",
            Self::TurnedAway => "turned_away",
            Self::Nodding => "nodding",
            Self::Tilted => "tilted",
        }
    }
}

impl QualityReport {
    pub(super) fn measure(detection: &Detection, face: &AlignedFace) -> Self {
        let light = Light::measure(face);
        let pose = Pose::estimate(detection);
        Self {
            eye_distance_px: detection.eye_distance_px(),
            sharpness: light.sharpness,
            brightness: light.brightness,
            contrast: light.contrast,
            yaw_degrees: pose.yaw_degrees,
            pitch_degrees: pose.pitch_degrees,
            roll_degrees: pose.roll_degrees,
        }
    }

    /// Every reason why this face falls short, in the order of [`QualityReason`].
    pub fn shortcomings(&self, thresholds: &QualityThresholds) -> Vec<QualityReason> {
        let checks = [
            (self.sharpness < thresholds.sharpness_min, QualityReason::Blurred),
            (self.brightness < thresholds.brightness_min, QualityReason::TooDark),
            (self.brightness > thresholds.brightness_max, QualityReason::TooBright),
            (self.contrast < thresholds.contrast_min, QualityReason::LowContrast),
            (self.yaw_degrees.abs() > thresholds.yaw_degrees_max, QualityReason::TurnedAway),
            (self.pitch_degrees.abs() > thresholds.pitch_degrees_max, QualityReason::Nodding),
            (self.roll_degrees.abs() > thresholds.roll_degrees_max, QualityReason::Tilted),
        ];
        checks.into_iter().filter_map(|(falls_short, reason)| falls_short.then_some(reason)).collect()
    }
}

struct Light {
    sharpness: f64,
    brightness: f64,
    contrast: f64,
}

impl Light {
    /// Over the middle of the chip, where eyes, nose and mouth are and the background is not.
    fn measure(face: &AlignedFace) -> Self {
        let side = face.pixels().width();
        let middle = side / 5..side - side / 5;
        let luma = |x: usize, y: usize| {
            let [red, green, blue]: [u8; CHANNELS] = face.pixels().pixel(x, y);
            0.299 * f64::from(red) + 0.587 * f64::from(green) + 0.114 * f64::from(blue) // ITU-R BT.601
        };
        let (mut sum, mut squares, mut edges, mut count) = (0.0, 0.0, 0.0, 0.0);
        for y in middle.clone() {
            for x in middle.clone() {
                let here = luma(x, y);
                sum += here;
                squares += here * here;
                edges += (luma(x - 1, y) + luma(x + 1, y) + luma(x, y - 1) + luma(x, y + 1) - 4.0 * here).abs();
                count += 1.0;
            }
        }
        let brightness = sum / count;
        let contrast = (squares / count - brightness * brightness).max(0.0).sqrt();
        Self { sharpness: edges / count, brightness, contrast }
    }
}

/// Angles of the head, estimated from five points with the proportions of an average head: a heuristic, good to some ten
/// degrees. Zero looks into the camera.
struct Pose {
    yaw_degrees: f64,
    pitch_degrees: f64,
    roll_degrees: f64,
}

impl Pose {
    fn estimate(detection: &Detection) -> Self {
        let [left_eye, right_eye, nose, left_mouth, right_mouth] = detection.landmarks;
        let roll = (right_eye.y - left_eye.y).atan2(right_eye.x - left_eye.x);
        let between = |a: Point, b: Point| Point { x: (a.x + b.x) / 2.0, y: (a.y + b.y) / 2.0 };
        let (eyes, mouth) = (between(left_eye, right_eye), between(left_mouth, right_mouth));
        // From the point between the eyes, along the line between the eyes and down the face.
        let seen = |point: Point| {
            let (x, y) = (point.x - eyes.x, point.y - eyes.y);
            (x * roll.cos() + y * roll.sin(), y * roll.cos() - x * roll.sin())
        };
        let eye_distance = detection.eye_distance_px().max(1e-6);
        let (nose_across, nose_down) = seen(nose);
        let (mouth_across, mouth_down) = seen(mouth);
        // Roll is taken from the eyes alone; the mouth says how far the face's own axis departs from its right angle.
        let axis_across = mouth_across * NOSE_PLACE;
        let yaw = ((nose_across - axis_across) / (NOSE_DEPTH * eye_distance)).atan();
        let nose_place = nose_down / mouth_down.max(1e-6);
        let pitch = ((nose_place - NOSE_PLACE) * MOUTH_PLACE / NOSE_DEPTH).atan();
        Self { yaw_degrees: yaw.to_degrees(), pitch_degrees: pitch.to_degrees(), roll_degrees: roll.to_degrees() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{card::Alignment, pixels::RgbImage};

    fn face(landmarks: [[f64; 2]; 5]) -> Detection {
        let landmarks = landmarks.map(|[x, y]| Point { x, y });
        Detection { left: 0.0, top: 0.0, right: 150.0, bottom: 150.0, landmarks, score: 1.0 }
    }

    fn frontal() -> [[f64; 2]; 5] {
        Alignment::Dlib150.template().map(|point| [point.x, point.y])
    }

    #[test]
    fn the_template_looks_straight_ahead() {
        let pose = Pose::estimate(&face(frontal()));
        for degrees in [pose.yaw_degrees, pose.pitch_degrees, pose.roll_degrees] {
            assert!(degrees.abs() < 1.5, "{degrees}");
        }
    }

    #[test]
    fn a_tilted_head_has_roll_and_nothing_else() {
        let (sin, cos) = 0.5_f64.sin_cos();
        let pose = Pose::estimate(&face(frontal().map(|[x, y]| [cos * x - sin * y, sin * x + cos * y])));
        assert!((pose.roll_degrees - 0.5_f64.to_degrees()).abs() < 0.5, "{}", pose.roll_degrees);
        assert!(pose.yaw_degrees.abs() < 1.5 && pose.pitch_degrees.abs() < 1.5);
    }

    #[test]
    fn a_nose_to_the_side_is_yaw_and_a_low_one_is_pitch() {
        let mut aside = frontal();
        aside[2][0] += 25.0;
        assert!(Pose::estimate(&face(aside)).yaw_degrees > 30.0);
        let mut low = frontal();
        low[2][1] += 20.0;
        assert!(Pose::estimate(&face(low)).pitch_degrees > 25.0);
    }

    #[test]
    fn an_even_grey_face_has_light_but_neither_contrast_nor_edges() {
        let data = zeroize::Zeroizing::new(vec![120; 150 * 150 * 3]);
        let chip = RgbImage::new(150, 150, data).unwrap();
        let light = Light::measure(&AlignedFace::from_chip(chip, Alignment::Dlib150).unwrap());
        assert!((light.brightness - 120.0).abs() < 1e-6 && light.contrast < 1e-3 && light.sharpness < 1e-6);
    }
    /// What the committed card finds wrong with a well lit, sharp face of these landmarks.
    fn shortcomings(landmarks: [[f64; 2]; 5], contrast: u8) -> Vec<&'static str> {
        let mut chip = RgbImage::black(150, 150);
        for (x, y) in (0..150).flat_map(|y| (0..150).map(move |x| (x, y))) {
            let light = if (x / 8 + y / 8) % 2 == 0 { 120 - contrast } else { 120 + contrast };
            chip.set_pixel(x, y, [light; CHANNELS]);
        }
        let chip = AlignedFace::from_chip(chip, Alignment::Dlib150).unwrap();
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
        let card = crate::Manifest::read(&folder).unwrap().embedder(None).unwrap().clone();
        let report = QualityReport::measure(&face(landmarks), &chip);
        report.shortcomings(&card.quality).into_iter().map(QualityReason::code).collect()
    }

    #[test]
    fn each_turn_of_the_head_has_its_own_reason() {
        assert_eq!(shortcomings(frontal(), 40), [""; 0]);
        for direction in [-1.0, 1.0] {
            let mut aside = frontal();
            aside[2][0] += direction * 32.0;
            assert_eq!(shortcomings(aside, 40), ["turned_away"]);
            let mut nodding = frontal();
            nodding[2][1] += direction * 34.0;
            assert_eq!(shortcomings(nodding, 40), ["nodding"]);
            let (sin, cos) = (direction * 50.0_f64).to_radians().sin_cos();
            let tilted = frontal().map(|[x, y]| [cos * x - sin * y, sin * x + cos * y]);
            assert_eq!(shortcomings(tilted, 40), ["tilted"]);
        }
    }

    #[test]
    fn a_face_of_one_tone_has_too_little_contrast() {
        assert_eq!(shortcomings(frontal(), 9), ["low_contrast"]);
    }
}
