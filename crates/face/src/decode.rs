//! Bytes → RGB pixels the right way up. What a file may be, and so how much memory its pixels may take, is decided in
//! [`container`](super::container) before a pixel is allocated. PNG, the only format with folded metadata, is decoded under
//! a memory limit as well; the other two decoders know none, and their metadata is no larger than the upload.
//!
//! Our own buffers are wiped when dropped, and JPEG and PNG are read from the upload in place. What the decoders keep is
//! freed by them without wiping: a few rows, the coefficients of a progressive JPEG, the partitions and planes of a WebP, and
//! a copy of the EXIF note, in which a camera may have put a thumbnail.

use std::{
    io::Cursor,
    panic::{AssertUnwindSafe, catch_unwind},
};

use image::{
    ColorType, ImageDecoder, ImageError, Limits,
    codecs::{png::PngDecoder, webp::WebPDecoder},
    metadata::Orientation,
};
use zeroize::Zeroizing;
use zune_jpeg::{
    JpegDecoder,
    zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions},
};

use super::{
    FaceError,
    container::{self, Header, ImageFormat},
    pixels::RgbImage,
};
use velum_domain::face::UploadedImage;

/// For a PNG's rows and unpacked metadata; the picture itself is ours and bounded by [`container`].
const SCRATCH_BYTES_MAX: u64 = 16 << 20;

pub fn decode(image: &UploadedImage) -> Result<RgbImage, FaceError> {
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
        ImageFormat::Jpeg => read_jpeg(header, bytes),
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
    upright(header, data, colour, orientation)
}

/// What `image` does with the same decoder, but from the upload itself: `image` copies it and frees the copy unwiped.
fn read_jpeg(header: Header, bytes: &[u8]) -> Result<RgbImage, FaceError> {
    let (width, height) = (header.width as usize, header.height as usize);
    let options = DecoderOptions::default().set_strict_mode(false).set_max_width(width).set_max_height(height);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(|_| FaceError::Undecodable)?;
    if decoder.dimensions() != Some((width, height)) {
        return Err(FaceError::Undecodable);
    }
    let orientation = decoder.exif().and_then(|exif| Orientation::from_exif_chunk(exif));
    let (space, colour) = match decoder.input_colorspace() {
        Some(ColorSpace::Luma) => (ColorSpace::Luma, ColorType::L8),
        _ => (ColorSpace::RGB, ColorType::Rgb8),
    };
    decoder.set_options(options.jpeg_set_out_colorspace(space));
    let mut data = Zeroizing::new(vec![0; width * height * usize::from(colour.bytes_per_pixel())]);
    decoder.decode_into(&mut data).map_err(|_| FaceError::Undecodable)?;
    upright(header, data, colour, orientation.unwrap_or(Orientation::NoTransforms))
}

fn upright(
    header: Header,
    data: Zeroizing<Vec<u8>>,
    colour: ColorType,
    orientation: Orientation,
) -> Result<RgbImage, FaceError> {
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

#[cfg(test)]
mod tests {
    use image::{DynamicImage, ExtendedColorType, codecs::jpeg::JpegEncoder};

    use super::*;

    fn decoded(bytes: &[u8]) -> RgbImage {
        let upload = UploadedImage::new(Zeroizing::new(bytes.to_vec())).unwrap();
        decode(&upload).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn a_jpeg_read_in_place_has_the_pixels_that_image_gives() {
        let portrait = include_bytes!("../../../samples/grace_hopper.jpg");
        let grey: Vec<u8> = image::load_from_memory(portrait).unwrap().into_luma8().into_raw();
        let (width, height) = (decoded(portrait).width() as u32, decoded(portrait).height() as u32);
        let mut grey_jpeg = Vec::new();
        JpegEncoder::new(&mut grey_jpeg).encode(&grey, width, height, ExtendedColorType::L8).unwrap();
        assert!(matches!(image::load_from_memory(&grey_jpeg).unwrap(), DynamicImage::ImageLuma8(_)));
        for bytes in [&portrait[..], &grey_jpeg] {
            let theirs = image::load_from_memory(bytes).unwrap().into_rgb8();
            assert!(decoded(bytes).expose_data() == theirs.as_raw().as_slice());
        }
    }
}
