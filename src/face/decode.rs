//! Bytes → RGB pixels the right way up. What a file may be is decided in [`container`](super::container) before a pixel is
//! allocated; here the decoders run under a memory limit.
//!
//! Our own buffers are wiped when dropped. The decoders' scratch (a few rows; the coefficients of a progressive JPEG) is
//! freed by them without wiping.

use std::{
    io::Cursor,
    panic::{AssertUnwindSafe, catch_unwind},
};

use image::{
    ColorType, ImageDecoder, ImageError, Limits,
    codecs::{jpeg::JpegDecoder, png::PngDecoder, webp::WebPDecoder},
    metadata::Orientation,
};
use zeroize::Zeroizing;

use super::{
    FaceError,
    container::{self, Header, ImageFormat},
    pixels::RgbImage,
};
use crate::domain::face::UploadedImage;

/// For a decoder's rows and unpacked metadata; the picture itself is ours and bounded by [`container`].
const SCRATCH_BYTES_MAX: u64 = 16 << 20;

pub(super) fn decode(image: &UploadedImage) -> Result<RgbImage, FaceError> {
    let bytes = image.expose_bytes();
    if bytes.len() > UploadedImage::BYTES_MAX {
        return Err(FaceError::TooLarge);
    }
    let header = container::inspect(bytes)?;
    // A decoder that panics on a strange file has found it undecodable; the request goes on to say so.
    catch_unwind(AssertUnwindSafe(|| decode_pixels(header, bytes))).unwrap_or(Err(FaceError::Undecodable))
}

fn decode_pixels(header: Header, bytes: &[u8]) -> Result<RgbImage, FaceError> {
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(SCRATCH_BYTES_MAX);
    let reader = Cursor::new(bytes);
    match header.format {
        ImageFormat::Jpeg => read(header, JpegDecoder::new(reader)),
        ImageFormat::Png => read(header, PngDecoder::with_limits(reader, limits)),
        ImageFormat::WebP => read(header, WebPDecoder::new(reader)),
    }
}

fn read(header: Header, decoder: Result<impl ImageDecoder, ImageError>) -> Result<RgbImage, FaceError> {
    let mut decoder = decoder.map_err(|_| FaceError::Undecodable)?;
    // Invariant: the decoder and our own reading of the header agree, or the checks were made on another picture.
    if decoder.dimensions() != (header.width, header.height) {
        return Err(FaceError::Undecodable);
    }
    // A broken note about the camera's position is no reason to refuse the picture.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let colour = decoder.color_type();
    let length = usize::try_from(decoder.total_bytes()).map_err(|_| FaceError::Undecodable)?;
    let mut data = Zeroizing::new(vec![0; length]);
    decoder.read_image(&mut data).map_err(|_| FaceError::Undecodable)?;
    let rgb = to_rgb8(data, colour).ok_or(FaceError::Undecodable)?;
    let image = RgbImage::new(header.width as usize, header.height as usize, rgb).ok_or(FaceError::Undecodable)?;
    Ok(image.oriented(orientation))
}

/// Grey becomes three equal channels, transparency is dropped (what lies under it is what the camera saw), 16 bits become 8.
fn to_rgb8(mut data: Zeroizing<Vec<u8>>, colour: ColorType) -> Option<Zeroizing<Vec<u8>>> {
    // Bytes of a pixel, and where the high (or only) byte of red, green and blue lies in it.
    let high = |sample: usize| 2 * sample + usize::from(cfg!(target_endian = "little"));
    let (pixel_bytes, [red, green, blue]) = match colour {
        ColorType::Rgb8 => return Some(data),
        ColorType::Rgba8 => (4, [0, 1, 2]),
        ColorType::Rgb16 => (6, [high(0), high(1), high(2)]),
        ColorType::Rgba16 => (8, [high(0), high(1), high(2)]),
        ColorType::L8 => (1, [0; 3]),
        ColorType::La8 => (2, [0; 3]),
        ColorType::L16 => (2, [high(0); 3]),
        ColorType::La16 => (4, [high(0); 3]),
        _ => return None,
    };
    let pixels = data.len() / pixel_bytes;
    if pixel_bytes < 3 {
        let mut rgb = Zeroizing::new(Vec::with_capacity(pixels * 3));
        rgb.extend(data.chunks_exact(pixel_bytes).flat_map(|pixel| [pixel[red], pixel[green], pixel[blue]]));
        return Some(rgb);
    }
    // In place: a pixel is never written behind one that is still to be read.
    for pixel in 0..pixels {
        let from = pixel * pixel_bytes;
        let rgb = [data[from + red], data[from + green], data[from + blue]];
        data[pixel * 3..pixel * 3 + 3].copy_from_slice(&rgb);
    }
    data.truncate(pixels * 3);
    Some(data)
}
