//! Pixels → what a network is fed with: `(pixel / divisor - mean[c]) / std[c]`, in the order that the manifest states.

use super::{
    card::{ColourOrder, Layout},
    pixels::{CHANNELS, RgbImage},
};

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Feed {
    pub layout: Layout,
    pub colour: ColourOrder,
    pub divisor: f32,
    /// Per channel, in the order of `colour`; so is `std`.
    pub mean: [f32; CHANNELS],
    pub std: [f32; CHANNELS],
}

impl Feed {
    /// Appends one image to a tensor.
    pub fn append(&self, image: &RgbImage, tensor: &mut Vec<f32>) {
        let data = image.expose_data();
        let order = match self.colour {
            ColourOrder::Rgb => [0, 1, 2],
            ColourOrder::Bgr => [2, 1, 0],
        };
        let value = |pixel: &[u8], channel: usize| {
            (f32::from(pixel[order[channel]]) / self.divisor - self.mean[channel]) / self.std[channel]
        };
        match self.layout {
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
    }

    /// What the types alone cannot say; the error is the end of a sentence about this input.
    pub fn check(&self) -> Result<(), String> {
        let positive = |value: f32| value.is_finite() && value > 0.0;
        if !positive(self.divisor) || !self.std.into_iter().all(positive) {
            return Err("divisor and std must be above zero".to_owned());
        }
        if !self.mean.into_iter().all(f32::is_finite) {
            return Err("the input mean is not a number".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_are_fed_in_the_order_and_range_of_the_manifest() {
        let mut image = RgbImage::black(112, 112);
        image.set_pixel(0, 0, [255, 51, 0]);
        let mut feed = Feed {
            layout: Layout::Chw,
            colour: ColourOrder::Rgb,
            divisor: 255.0,
            mean: [0.5, 0.2, 0.0],
            std: [0.5, 1.0, 2.0],
        };
        let fed = |feed: Feed| {
            let mut tensor = Vec::new();
            feed.append(&image, &mut tensor);
            tensor
        };
        let (plane, planes) = (112 * 112, fed(feed));
        assert_eq!([planes[0], planes[plane], planes[2 * plane]], [1.0, 0.0, 0.0]);
        assert_eq!([planes[1], planes[plane + 1], planes[2 * plane + 1]], [-1.0, -0.2, 0.0]);
        (feed.layout, feed.colour) = (Layout::Hwc, ColourOrder::Bgr);
        assert_eq!(fed(feed)[..3], [-1.0, 0.0, 0.5]);
    }
}
