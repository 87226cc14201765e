//! Pixels in memory: 8-bit RGB, rows from the top, wiped when dropped.

use image::metadata::Orientation;
use zeroize::Zeroizing;

pub(super) const CHANNELS: usize = 3;

pub struct RgbImage {
    width: usize,
    height: usize,
    data: Zeroizing<Vec<u8>>,
}

/// A rectangle of whole pixels, on an image or reaching beyond it; all that lies beyond is black.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    pub x: isize,
    pub y: isize,
    pub width: usize,
    pub height: usize,
}

impl RgbImage {
    pub fn black(width: usize, height: usize) -> Self {
        Self { width, height, data: Zeroizing::new(vec![0; width * height * CHANNELS]) }
    }

    /// `None` when the data is not `width * height` pixels.
    pub fn new(width: usize, height: usize, data: Zeroizing<Vec<u8>>) -> Option<Self> {
        (width > 0 && height > 0 && data.len() == width * height * CHANNELS).then_some(Self { width, height, data })
    }

    pub fn width(&self) -> usize {
        self.width
    }

    pub fn height(&self) -> usize {
        self.height
    }

    pub fn expose_data(&self) -> &[u8] {
        &self.data
    }

    pub(super) fn row(&self, y: usize) -> &[u8] {
        let stride = self.width * CHANNELS;
        &self.data[y * stride..(y + 1) * stride]
    }

    pub(super) fn row_mut(&mut self, y: usize) -> &mut [u8] {
        let stride = self.width * CHANNELS;
        &mut self.data[y * stride..(y + 1) * stride]
    }

    pub(super) fn pixel(&self, x: usize, y: usize) -> [u8; CHANNELS] {
        let start = (y * self.width + x) * CHANNELS;
        [self.data[start], self.data[start + 1], self.data[start + 2]]
    }

    pub(super) fn set_pixel(&mut self, x: usize, y: usize, pixel: [u8; CHANNELS]) {
        let start = (y * self.width + x) * CHANNELS;
        self.data[start..start + CHANNELS].copy_from_slice(&pixel);
    }

    pub(super) fn window(&self) -> Window {
        Window { x: 0, y: 0, width: self.width, height: self.height }
    }

    /// The image as it would look in a mirror.
    pub(super) fn mirrored(&self) -> Self {
        let mut mirrored = Self::black(self.width, self.height);
        for y in 0..self.height {
            for (to, from) in mirrored.row_mut(y).chunks_exact_mut(CHANNELS).zip(self.row(y).rchunks_exact(CHANNELS)) {
                to.copy_from_slice(from);
            }
        }
        mirrored
    }

    /// The image the right way up, after what the camera noted.
    pub(super) fn oriented(self, orientation: Orientation) -> Self {
        let (width, height) = (self.width, self.height);
        // Where the pixel that lands at (x, y) comes from.
        type Origin = fn(usize, usize, usize, usize) -> (usize, usize);
        let (turned, origin): (bool, Origin) = match orientation {
            Orientation::NoTransforms => return self,
            Orientation::FlipHorizontal => (false, |x, y, w, _| (w - 1 - x, y)),
            Orientation::FlipVertical => (false, |x, y, _, h| (x, h - 1 - y)),
            Orientation::Rotate180 => (false, |x, y, w, h| (w - 1 - x, h - 1 - y)),
            Orientation::Rotate90 => (true, |x, y, _, h| (y, h - 1 - x)),
            Orientation::Rotate270 => (true, |x, y, w, _| (w - 1 - y, x)),
            Orientation::Rotate90FlipH => (true, |x, y, _, _| (y, x)),
            Orientation::Rotate270FlipH => (true, |x, y, w, h| (w - 1 - y, h - 1 - x)),
        };
        let mut upright = if turned { Self::black(height, width) } else { Self::black(width, height) };
        for y in 0..upright.height {
            for x in 0..upright.width {
                let (from_x, from_y) = origin(x, y, width, height);
                upright.set_pixel(x, y, self.pixel(from_x, from_y));
            }
        }
        upright
    }

    /// `window` resized to `width` x `height`; each new pixel is the mean of the area that it covers. Where a side has to
    /// grow, both are interpolated instead.
    ///
    /// The arithmetic is that of OpenCV's `INTER_AREA` on bytes, with which the detector's figures were measured: the
    /// networks choose between near-equal boxes, so that a rounding of its own would move landmarks by a pixel.
    pub(super) fn area_resized(&self, window: Window, width: usize, height: usize) -> Self {
        let grows = window.width < width || window.height < height;
        let spans = if grows { interpolation } else { coverage };
        let columns = visible(spans(window.width, width), window.x, self.width);
        let rows = visible(spans(window.height, height), window.y, self.height);
        let mut resized = Self::black(width, height);
        let mut mixed = Zeroizing::new(vec![0.0_f32; self.width * CHANNELS]);
        for (y, span) in rows.iter().enumerate() {
            self.mix_rows(span, &columns, &mut mixed);
            for (pixel, span) in resized.row_mut(y).chunks_exact_mut(CHANNELS).zip(&columns) {
                let mut sums = [0.0_f32; CHANNELS];
                let covered = mixed[span.start * CHANNELS..].chunks_exact(CHANNELS);
                for (from, &weight) in covered.zip(&span.weights) {
                    for (sum, &value) in sums.iter_mut().zip(from) {
                        *sum += weight * value;
                    }
                }
                for (to, sum) in pixel.iter_mut().zip(sums) {
                    *to = sum.round_ties_even() as u8;
                }
            }
        }
        resized
    }

    /// The weighted sum of the rows of `span`, in the columns that anybody asks for.
    fn mix_rows(&self, span: &Span, columns: &[Span], mixed: &mut [f32]) {
        let start = columns.iter().map(|column| column.start).min().unwrap_or(0) * CHANNELS;
        let end = columns.iter().map(|column| column.start + column.weights.len()).max().unwrap_or(0) * CHANNELS;
        if start >= end {
            return;
        }
        mixed[start..end].fill(0.0);
        for (row, &weight) in span.weights.iter().enumerate() {
            let row = &self.row(span.start + row)[start..end];
            for (sum, &value) in mixed[start..end].iter_mut().zip(row) {
                *sum += weight * f32::from(value);
            }
        }
    }
}

/// Which pixels one new pixel is made of, and with which shares; none when it lies beyond the image.
struct Span {
    start: usize,
    weights: Vec<f32>,
}

/// The shares of area, adding up to one.
fn coverage(from: usize, to: usize) -> Vec<Span> {
    /// Slivers are left out.
    const SHARE_MIN: f64 = 1e-3;
    let step = from as f64 / to as f64;
    (0..to)
        .map(|position| {
            let (low, high) = (position as f64 * step, (position + 1) as f64 * step);
            let area = step.min(from as f64 - low);
            let share = |pixel: usize| high.min((pixel + 1) as f64) - low.max(pixel as f64);
            let start = low.floor() as usize;
            let start = if share(start) > SHARE_MIN { start } else { start + 1 };
            let end = (high.ceil() as usize).min(from);
            let end = if share(end - 1) > SHARE_MIN { end } else { end - 1 };
            Span { start, weights: (start..end).map(|pixel| (share(pixel) / area) as f32).collect() }
        })
        .collect()
}

/// Linear between the two nearest pixels, with each old pixel's value at the end of its share of new ones.
fn interpolation(from: usize, to: usize) -> Vec<Span> {
    let step = from as f64 / to as f64;
    (0..to)
        .map(|position| {
            let left = ((position as f64 * step).floor() as usize).min(from - 1);
            let beyond = (position + 1) as f64 - (left + 1) as f64 / step;
            let share = if beyond <= 0.0 || left + 1 == from { 0.0 } else { beyond.fract() as f32 };
            let weights = if share > 0.0 { vec![1.0 - share, share] } else { vec![1.0] };
            Span { start: left, weights }
        })
        .collect()
}

/// Spans of a window that starts at `offset`, cut to the image's own `length` pixels.
fn visible(spans: Vec<Span>, offset: isize, length: usize) -> Vec<Span> {
    spans
        .into_iter()
        .map(|Span { start, weights }| {
            let first = start as isize + offset;
            let before = first.min(0).unsigned_abs();
            let start = first.max(0).unsigned_abs();
            let weights = weights.into_iter().skip(before).take(length.saturating_sub(start)).collect();
            Span { start: start.min(length), weights }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(width: usize, height: usize, values: &[u8]) -> RgbImage {
        RgbImage::new(width, height, Zeroizing::new(values.iter().flat_map(|&value| [value; CHANNELS]).collect()))
            .unwrap()
    }

    fn values(image: &RgbImage) -> Vec<u8> {
        image.expose_data().chunks_exact(CHANNELS).map(|pixel| pixel[0]).collect()
    }

    #[test]
    fn every_orientation_is_undone() {
        // Upright: 1 2 3 / 4 5 6. Left: as the camera stored it.
        let stored: [(&[u8], usize, Orientation); 8] = [
            (&[1, 2, 3, 4, 5, 6], 3, Orientation::NoTransforms),
            (&[3, 2, 1, 6, 5, 4], 3, Orientation::FlipHorizontal),
            (&[4, 5, 6, 1, 2, 3], 3, Orientation::FlipVertical),
            (&[6, 5, 4, 3, 2, 1], 3, Orientation::Rotate180),
            (&[3, 6, 2, 5, 1, 4], 2, Orientation::Rotate90),
            (&[4, 1, 5, 2, 6, 3], 2, Orientation::Rotate270),
            (&[1, 4, 2, 5, 3, 6], 2, Orientation::Rotate90FlipH),
            (&[6, 3, 5, 2, 4, 1], 2, Orientation::Rotate270FlipH),
        ];
        for (pixels, width, orientation) in stored {
            let upright = image(width, 6 / width, pixels).oriented(orientation);
            assert_eq!((upright.width(), values(&upright)), (3, vec![1, 2, 3, 4, 5, 6]), "{orientation:?}");
        }
    }

    #[test]
    fn area_resize_takes_the_mean_of_what_a_pixel_covers() {
        let halved = image(4, 2, &[0, 10, 20, 30, 40, 50, 60, 70]).area_resized(
            Window { x: 0, y: 0, width: 4, height: 2 },
            2,
            1,
        );
        assert_eq!(values(&halved), [25, 45]);
        let uneven = image(3, 1, &[0, 100, 200]);
        assert_eq!(values(&uneven.area_resized(uneven.window(), 2, 1)), [33, 167]);
        assert_eq!(values(&uneven.area_resized(uneven.window(), 6, 1)), [0, 0, 100, 100, 200, 200]);
    }

    #[test]
    fn a_window_beyond_the_image_is_black_there() {
        let around = Window { x: -2, y: -1, width: 6, height: 3 };
        let small = image(2, 1, &[90, 180]);
        assert_eq!(values(&small.area_resized(around, 6, 3))[6..12], [0, 0, 90, 180, 0, 0]);
        assert_eq!(values(&small.area_resized(around, 2, 1)), [10, 20]);
    }

    #[test]
    fn a_mirrored_image_has_its_columns_reversed() {
        assert_eq!(values(&image(3, 2, &[1, 2, 3, 4, 5, 6]).mirrored()), [3, 2, 1, 6, 5, 4]);
    }
}
