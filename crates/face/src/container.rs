//! Reads the outside of an image file, before anything is allocated or decoded: format, size in pixels, animation, whether
//! the file is whole, and whether its bytes can plausibly hold the pixels that it announces.
//!
//! One pass over the bytes, no allocation: a refusal costs the same few milliseconds whatever the file claims to be.
//!
//! Rules against bombs (a small file that unfolds into much memory or work):
//! - at most 50 megapixels;
//! - what unfolds to more than 34 MB must come in plausibly many bytes of compressed data: at least 1/40 byte a pixel for
//!   lossy formats, and 1/20 of the unfolded bytes for lossless ones. "Unfolds" is what the decoder makes of the picture:
//!   three bytes a pixel (also of grey, palettes and single bits), four with transparency, twice that for 16 bits a sample;
//!   and the coefficients of a progressive JPEG, which are all held at once;
//! - a progressive JPEG may pass over at most 500 megapixels in all its scans (ten scans are usual);
//! - unpacked metadata is never needed: PNG, the only format that folds it, is decoded under a memory limit.
//!
//! What that leaves alone: everything up to 11 megapixels of 24 bits, a 4K screenshot with transparency included. Above, a
//! photo or a scan of a document has some 1/10 byte a pixel as a JPEG of moderate quality, and a third of its unfolded bytes
//! as a PNG (a sixth in grey). Flat areas fold further, and they are what a bomb is made of: one grey takes 1/85 byte a pixel
//! as a JPEG, and 1/1000 of its unfolded bytes as a PNG.

use super::FaceError;

/// Largest accepted picture, in pixels.
pub const PIXELS_MAX: u64 = 50_000_000;
/// Up to here decoding is cheap, so that even a bomb may unfold.
const UNFOLDED_BYTES_CHEAP: u64 = 34_000_000;
const PIXELS_PER_LOSSY_BYTE_MAX: u64 = 40;
const BYTES_PER_LOSSLESS_BYTE_MAX: u64 = 20;
/// Pixels times scans of a JPEG.
const SCANNED_PIXELS_MAX: u64 = 10 * PIXELS_MAX;
const RGB_BYTES: u64 = 3;
const RGBA_BYTES: u64 = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageFormat {
    Jpeg,
    Png,
    WebP,
}

impl ImageFormat {
    /// What the first bytes say, whatever a client calls the file.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        if bytes.starts_with(&[0xFF, 0xD8, 0xFF]) {
            Some(Self::Jpeg)
        } else if bytes.starts_with(PNG_SIGNATURE) {
            Some(Self::Png)
        } else if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
            Some(Self::WebP)
        } else {
            None
        }
    }

    pub fn media_type(self) -> &'static str {
        match self {
            Self::Jpeg => "image/jpeg",
            Self::Png => "image/png",
            Self::WebP => "image/webp",
        }
    }
}

const PNG_SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

/// The announced size of the picture, and what announces it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub format: ImageFormat,
    pub width: u32,
    pub height: u32,
}

/// The header of a whole, still and plausible image; anything else is refused here.
pub(super) fn inspect(bytes: &[u8]) -> Result<Header, FaceError> {
    let format = ImageFormat::of(bytes).ok_or(FaceError::UnsupportedFormat)?;
    let contents = match format {
        ImageFormat::Jpeg => jpeg(bytes),
        ImageFormat::Png => png(bytes),
        ImageFormat::WebP => webp(bytes),
    }?;
    contents.check()?;
    Ok(Header { format, width: contents.width, height: contents.height })
}

/// What a walk over a file finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Contents {
    width: u32,
    height: u32,
    /// Bytes of compressed picture data; metadata does not count.
    data_bytes: u64,
    /// Bytes of memory for each pixel while the picture is decoded; a decoder's rows and tables do not count.
    pixel_bytes: u64,
    folding: Folding,
    /// Passes over the picture.
    scans: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Folding {
    Lossy,
    Lossless,
}

impl Contents {
    fn check(&self) -> Result<(), FaceError> {
        let pixels = u64::from(self.width) * u64::from(self.height);
        if pixels == 0 {
            return Err(FaceError::Undecodable);
        }
        if pixels > PIXELS_MAX {
            return Err(FaceError::TooManyPixels);
        }
        let unfolded_bytes = pixels * self.pixel_bytes;
        let data_bytes_min = match self.folding {
            Folding::Lossy => pixels / PIXELS_PER_LOSSY_BYTE_MAX,
            Folding::Lossless => unfolded_bytes / BYTES_PER_LOSSLESS_BYTE_MAX,
        };
        let plausible = unfolded_bytes <= UNFOLDED_BYTES_CHEAP || self.data_bytes >= data_bytes_min;
        if plausible && pixels * self.scans <= SCANNED_PIXELS_MAX { Ok(()) } else { Err(FaceError::Undecodable) }
    }
}

/// A cursor that refuses to read past the end: that is what truncation looks like.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], FaceError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(FaceError::Undecodable)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FaceError> {
        self.take(N)?.try_into().map_err(|_| FaceError::Undecodable)
    }

    fn skip_until(&mut self, byte: u8) -> Result<usize, FaceError> {
        let count = self.rest.iter().position(|&other| other == byte).ok_or(FaceError::Undecodable)?;
        self.take(count).map(<[u8]>::len)
    }
}

/// ITU-T T.81, annex B: marker segments up to the end-of-image marker. What follows it (a second picture, a camera's notes)
/// is ignored, as viewers do.
fn jpeg(bytes: &[u8]) -> Result<Contents, FaceError> {
    const END_OF_IMAGE: u8 = 0xD9;
    const START_OF_SCAN: u8 = 0xDA;
    const PROGRESSIVE: u8 = 0xC2;
    /// Two for each sample, and no channel thinned out.
    const COEFFICIENT_BYTES: u64 = 6;
    let mut reader = Reader { rest: bytes };
    reader.take(2)?;
    let mut frame: Option<(u32, u32)> = None;
    let (mut data_bytes, mut scans, mut pixel_bytes) = (0, 0, RGB_BYTES);
    loop {
        // Between segments only fill bytes (0xFF) are allowed, yet real files hold others: skip to the next marker.
        reader.skip_until(0xFF)?;
        let mut marker = 0xFF;
        while marker == 0xFF {
            [marker] = reader.array()?;
        }
        match marker {
            END_OF_IMAGE => break,
            0x00 | 0x01 | 0xD0..=0xD8 => continue,
            _ => {}
        }
        let length = usize::from(u16::from_be_bytes(reader.array()?));
        let segment = reader.take(length.checked_sub(2).ok_or(FaceError::Undecodable)?)?;
        match marker {
            0xC0..=0xC2 => {
                frame = Some(jpeg_frame(segment)?);
                if marker == PROGRESSIVE {
                    pixel_bytes = RGB_BYTES + COEFFICIENT_BYTES;
                }
            }
            // Lossless, hierarchical and arithmetic-coded pictures.
            0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF => return Err(FaceError::UnsupportedFormat),
            START_OF_SCAN => {
                scans += 1;
                data_bytes += jpeg_scan(&mut reader)?;
            }
            _ => {}
        }
    }
    let (width, height) = frame.filter(|_| scans > 0).ok_or(FaceError::Undecodable)?;
    Ok(Contents { width, height, data_bytes, pixel_bytes, folding: Folding::Lossy, scans })
}

fn jpeg_frame(segment: &[u8]) -> Result<(u32, u32), FaceError> {
    match *segment {
        [8, height_high, height_low, width_high, width_low, ..] => Ok((
            u32::from(u16::from_be_bytes([width_high, width_low])),
            u32::from(u16::from_be_bytes([height_high, height_low])),
        )),
        // 12 bits a sample.
        [12, ..] => Err(FaceError::UnsupportedFormat),
        _ => Err(FaceError::Undecodable),
    }
}

/// Entropy-coded bytes up to the next real marker; 0xFF00 is a stuffed byte and D0 to D7 are restarts.
fn jpeg_scan(reader: &mut Reader<'_>) -> Result<u64, FaceError> {
    let mut data_bytes = 0;
    loop {
        data_bytes += reader.skip_until(0xFF)? as u64;
        match reader.rest.get(1).ok_or(FaceError::Undecodable)? {
            0x00 => {
                reader.take(2)?;
                data_bytes += 1;
            }
            0xD0..=0xD7 => {
                reader.take(2)?;
            }
            0xFF => {
                reader.take(1)?;
            }
            _ => return Ok(data_bytes),
        }
    }
}

/// PNG (third edition), chunks up to IEND; `acTL` makes it an animation.
fn png(bytes: &[u8]) -> Result<Contents, FaceError> {
    let mut reader = Reader { rest: bytes };
    reader.take(PNG_SIGNATURE.len())?;
    let mut contents: Option<Contents> = None;
    loop {
        let length = u32::from_be_bytes(reader.array()?) as usize;
        let kind: [u8; 4] = reader.array()?;
        let data = reader.take(length)?;
        reader.take(4)?; // checksum, checked by the decoder
        match (&kind, &mut contents) {
            (b"IHDR", None) => contents = Some(png_header(data)?),
            (b"acTL" | b"fcTL" | b"fdAT", _) => return Err(FaceError::Animated),
            // Transparency for one colour or a palette: the decoder adds a fourth channel.
            (b"tRNS", Some(contents)) => contents.pixel_bytes = contents.pixel_bytes / RGB_BYTES * RGBA_BYTES,
            (b"IDAT", Some(contents)) => contents.data_bytes += length as u64,
            (b"IEND", Some(contents)) if contents.data_bytes > 0 => return Ok(*contents),
            (_, None) | (b"IEND", _) => return Err(FaceError::Undecodable),
            _ => {}
        }
    }
}

fn png_header(data: &[u8]) -> Result<Contents, FaceError> {
    let (&[w0, w1, w2, w3, h0, h1, h2, h3, depth, colour, ..], 13) = (data, data.len()) else {
        return Err(FaceError::Undecodable);
    };
    let (width, height) = (u32::from_be_bytes([w0, w1, w2, w3]), u32::from_be_bytes([h0, h1, h2, h3]));
    let channels = match colour {
        0 | 2 | 3 => RGB_BYTES,
        4 | 6 => RGBA_BYTES,
        _ => return Err(FaceError::Undecodable),
    };
    let pixel_bytes = channels * if depth == 16 { 2 } else { 1 };
    Ok(Contents { width, height, data_bytes: 0, pixel_bytes, folding: Folding::Lossless, scans: 1 })
}

/// RFC 9649: chunks inside one RIFF; a still picture holds exactly one of `VP8 ` and `VP8L`.
fn webp(bytes: &[u8]) -> Result<Contents, FaceError> {
    const ANIMATION_FLAG: u8 = 0b10;
    let mut outer = Reader { rest: bytes };
    outer.take(4)?;
    let riff_bytes = u32::from_le_bytes(outer.array()?) as usize;
    let mut reader = Reader { rest: outer.take(riff_bytes)? };
    reader.take(4)?;
    let mut contents = None;
    while !reader.rest.is_empty() {
        let kind: [u8; 4] = reader.array()?;
        let length = u32::from_le_bytes(reader.array()?) as usize;
        let data = reader.take(length)?;
        // Chunks are padded to an even length; writers forget it at the end of the file.
        reader.take((length % 2).min(reader.rest.len()))?;
        match &kind {
            b"VP8X" if data.first().is_some_and(|flags| flags & ANIMATION_FLAG != 0) => {
                return Err(FaceError::Animated);
            }
            b"ANIM" | b"ANMF" => return Err(FaceError::Animated),
            b"VP8 " | b"VP8L" if contents.is_some() => return Err(FaceError::Undecodable),
            b"VP8 " => contents = Some(webp_lossy(data)?),
            b"VP8L" => contents = Some(webp_lossless(data)?),
            _ => {}
        }
    }
    contents.ok_or(FaceError::Undecodable)
}

/// RFC 6386, section 9.1: 3-byte frame tag (bits 5 to 23: length of the first partition), start code, then 14-bit sizes.
fn webp_lossy(data: &[u8]) -> Result<Contents, FaceError> {
    let &[t0, t1, t2, 0x9D, 0x01, 0x2A, w0, w1, h0, h1, ..] = data else { return Err(FaceError::Undecodable) };
    let first_partition_bytes = u32::from_le_bytes([t0, t1, t2, 0]) >> 5;
    if t0 & 1 != 0 || data.len() < 10 + first_partition_bytes as usize {
        return Err(FaceError::Undecodable);
    }
    let side = |low, high| u32::from(u16::from_le_bytes([low, high]) & 0x3FFF);
    let (width, height) = (side(w0, w1), side(h0, h1));
    let (data_bytes, pixel_bytes) = (data.len() as u64, RGB_BYTES);
    Ok(Contents { width, height, data_bytes, pixel_bytes, folding: Folding::Lossy, scans: 1 })
}

/// RFC 9649, section 3.4: signature byte, then width - 1 and height - 1 in 14 bits each.
fn webp_lossless(data: &[u8]) -> Result<Contents, FaceError> {
    let &[0x2F, b0, b1, b2, b3, ..] = data else { return Err(FaceError::Undecodable) };
    let bits = u32::from_le_bytes([b0, b1, b2, b3]);
    let (width, height) = ((bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1);
    // The decoder always makes room for transparency.
    let (data_bytes, pixel_bytes) = (data.len() as u64, RGBA_BYTES);
    Ok(Contents { width, height, data_bytes, pixel_bytes, folding: Folding::Lossless, scans: 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STILL: Contents = Contents {
        width: 8000,
        height: 6000,
        data_bytes: 3_000_000,
        pixel_bytes: RGB_BYTES,
        folding: Folding::Lossy,
        scans: 1,
    };

    fn code(contents: Contents) -> Option<&'static str> {
        contents.check().err().map(|error| error.code())
    }

    #[test]
    fn fifty_megapixels_are_accepted_and_one_row_more_is_not() {
        assert_eq!(code(Contents { width: 10_000, height: 5_000, ..STILL }), None);
        assert_eq!(code(Contents { width: 10_000, height: 5_001, ..STILL }), Some("image_too_many_pixels"));
        assert_eq!(code(Contents { width: u32::MAX, height: u32::MAX, ..STILL }), Some("image_too_many_pixels"));
        assert_eq!(code(Contents { width: 0, ..STILL }), Some("image_undecodable"));
    }

    #[test]
    fn a_large_picture_of_too_few_bytes_is_not_plausible() {
        assert_eq!(code(Contents { data_bytes: 1_200_000, ..STILL }), None);
        assert_eq!(code(Contents { data_bytes: 1_199_999, ..STILL }), Some("image_undecodable"));
        let lossless = Contents { folding: Folding::Lossless, ..STILL };
        assert_eq!(code(Contents { data_bytes: 7_200_000, ..lossless }), None);
        assert_eq!(code(Contents { data_bytes: 7_199_999, ..lossless }), Some("image_undecodable"));
    }

    #[test]
    fn a_small_picture_may_unfold_from_any_number_of_bytes() {
        let flat = Contents { data_bytes: 1, ..STILL };
        assert_eq!(code(Contents { width: 4000, height: 2800, ..flat }), None);
        assert_eq!(code(Contents { width: 4000, height: 2900, ..flat }), Some("image_undecodable"));
        let screenshot = Contents { width: 3840, height: 2160, pixel_bytes: RGBA_BYTES, ..flat };
        assert_eq!(code(Contents { folding: Folding::Lossless, ..screenshot }), None);
        assert_eq!(code(Contents { pixel_bytes: 8, ..screenshot }), Some("image_undecodable"));
    }

    #[test]
    fn a_png_counts_as_what_it_unfolds_to() {
        // Depth, kind of colour (0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA), bytes a pixel.
        for (depth, colour, pixel_bytes) in
            [(1, 0, 3), (8, 0, 3), (16, 0, 6), (8, 2, 3), (16, 2, 6), (2, 3, 3), (8, 4, 4), (8, 6, 4), (16, 6, 8)]
        {
            let header = [0, 0, 0, 9, 0, 0, 0, 9, depth, colour, 0, 0, 0];
            assert_eq!(png_header(&header).unwrap().pixel_bytes, pixel_bytes, "depth {depth}, colour {colour}");
        }
    }

    #[test]
    fn a_progressive_picture_may_not_be_passed_over_without_end() {
        assert_eq!(code(Contents { scans: 10, ..STILL }), None);
        assert_eq!(code(Contents { scans: 11, ..STILL }), Some("image_undecodable"));
    }

    #[test]
    fn formats_are_told_by_their_first_bytes() {
        assert_eq!(ImageFormat::of(b"\xFF\xD8\xFF\xE0"), Some(ImageFormat::Jpeg));
        assert_eq!(ImageFormat::of(b"\x89PNG\r\n\x1a\n"), Some(ImageFormat::Png));
        assert_eq!(ImageFormat::of(b"RIFF\x04\0\0\0WEBP"), Some(ImageFormat::WebP));
        for other in [&b"GIF89a"[..], b"RIFF\x04\0\0\0WAVE", b"<svg>", b""] {
            assert_eq!(ImageFormat::of(other), None);
        }
    }
}
