//! Every file that is no plain picture of one face, and the code with which it is refused.

use std::{fs, io::Cursor};

use image::{DynamicImage, ImageEncoder, ImageFormat, codecs::webp::WebPEncoder};
use velum_domain::face::MultipleFaces;

use crate::stage;

fn refusal(bytes: Vec<u8>) -> Option<&'static str> {
    stage::pipeline().embed(stage::upload(bytes), MultipleFaces::Refuse).err().map(|error| error.code())
}

fn portrait() -> DynamicImage {
    image::open(stage::root().join("samples/grace_hopper.jpg")).unwrap()
}

fn jpeg() -> Vec<u8> {
    fs::read(stage::root().join("samples/grace_hopper.jpg")).unwrap()
}

fn png() -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    portrait().write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn webp() -> Vec<u8> {
    let rgb = portrait().into_rgb8();
    let mut bytes = Vec::new();
    let encoder = WebPEncoder::new_lossless(&mut bytes);
    encoder.write_image(&rgb, rgb.width(), rgb.height(), image::ExtendedColorType::Rgb8).unwrap();
    bytes
}

/// One PNG chunk with its checksum (CRC-32 of ISO 3309).
pub fn png_chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut crc = u32::MAX;
    for &byte in kind.iter().chain(data) {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 };
        }
    }
    [&(data.len() as u32).to_be_bytes()[..], kind, data, &(!crc).to_be_bytes()].concat()
}

/// `chunk` put in after the header of a PNG (8 bytes of signature, 25 of IHDR).
pub fn with_png_chunk(png: &[u8], chunk: &[u8]) -> Vec<u8> {
    [&png[..33], chunk, &png[33..]].concat()
}

#[test]
fn the_three_formats_are_read_alike() {
    for bytes in [jpeg(), png(), webp()] {
        assert_eq!(refusal(bytes), None);
    }
}

#[test]
fn a_file_of_another_format_is_unsupported_whatever_it_is_called() {
    for bytes in [&b"GIF89a\x01\0\x01\0\0\0\0;"[..], b"%PDF-1.7", b"<svg/>", b"hello", b""] {
        assert_eq!(refusal(bytes.to_vec()), Some("image_unsupported_format"));
    }
}

#[test]
fn one_format_behind_the_first_bytes_of_another_is_undecodable() {
    for (start, bytes) in [(&jpeg()[..4], &png()), (&png()[..8], &jpeg()), (&webp()[..16], &jpeg())] {
        assert_eq!(refusal([start, &bytes[start.len()..]].concat()), Some("image_undecodable"));
    }
}

#[test]
fn a_truncated_file_is_undecodable_wherever_it_ends() {
    for bytes in [jpeg(), png(), webp()] {
        for tenths in 1..10 {
            let end = bytes.len() * tenths / 10;
            assert_eq!(refusal(bytes[..end].to_vec()), Some("image_undecodable"), "{end} of {}", bytes.len());
        }
        assert_eq!(refusal(bytes[..bytes.len() - 2].to_vec()), Some("image_undecodable"));
    }
}

#[test]
fn an_animation_is_refused() {
    let control = png_chunk(b"acTL", &[0, 0, 0, 2, 0, 0, 0, 0]);
    assert_eq!(refusal(with_png_chunk(&png(), &control)), Some("image_animated"));
    let extended = [&b"VP8X\x0a\0\0\0\x02\0\0\0"[..], &[0; 6]].concat();
    let inside = [b"WEBP", &extended[..], b"ANIM\x06\0\0\0", &[0; 6]].concat();
    let animated = [b"RIFF", &(inside.len() as u32).to_le_bytes()[..], &inside].concat();
    assert_eq!(refusal(animated), Some("image_animated"));
}

#[test]
fn a_picture_without_a_face_says_so() {
    let mut bytes = Cursor::new(Vec::new());
    DynamicImage::new_rgb8(320, 240).write_to(&mut bytes, ImageFormat::Png).unwrap();
    assert_eq!(refusal(bytes.into_inner()), Some("no_face"));
}

#[test]
fn a_face_whose_eyes_are_closer_than_24_pixels_is_too_small() {
    let sizes = [(300, None), (150, Some("face_too_small"))];
    for (side, expected) in sizes {
        let mut bytes = Cursor::new(Vec::new());
        let small = portrait().resize(side, side, image::imageops::FilterType::Triangle);
        small.write_to(&mut bytes, ImageFormat::Png).unwrap();
        assert_eq!(refusal(bytes.into_inner()), expected, "{side} px");
    }
}

/// EXIF: tag 0x0112, one short, value 6: turn by 90 degrees clockwise.
const TURN: &[u8] = b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";

fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.to_rgb8().write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// A JPEG with a segment APP1 behind its start.
fn with_jpeg_exif(jpeg: &[u8]) -> Vec<u8> {
    let note = [b"Exif\0\0", TURN].concat();
    let length = (note.len() as u16 + 2).to_be_bytes();
    [&jpeg[..2], &[0xFF, 0xE1], &length, &note, &jpeg[2..]].concat()
}

/// A WebP in its extended form: the flag that says EXIF, the sides less one in 24 bits each, the picture, the note.
fn with_webp_exif(webp: &[u8], width: u32, height: u32) -> Vec<u8> {
    let side = |side: u32| (side - 1).to_le_bytes();
    let sides = [&side(width)[..3], &side(height)[..3]].concat();
    let length = (TURN.len() as u32).to_le_bytes();
    let inside = [b"WEBPVP8X\x0a\0\0\0\x08\0\0\0", &sides[..], &webp[12..], b"EXIF", &length, TURN].concat();
    [b"RIFF", &(inside.len() as u32).to_le_bytes()[..], &inside].concat()
}

#[test]
fn a_portrait_lying_on_its_side_is_turned_by_its_exif_note() {
    let lying = portrait().rotate270();
    let [as_png, as_jpeg, as_webp] =
        [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP].map(|format| encoded(&lying, format));
    let upright = stage::pipeline().embed(stage::upload(png()), MultipleFaces::Refuse).unwrap();
    for (format, turned, distance_max) in [
        ("PNG", with_png_chunk(&as_png, &png_chunk(b"eXIf", TURN)), 1e-9),
        ("WebP", with_webp_exif(&as_webp, lying.width(), lying.height()), 1e-9),
        ("JPEG", with_jpeg_exif(&as_jpeg), 0.01), // folded a second time, along the other side
    ] {
        let turned = stage::pipeline().embed(stage::upload(turned), MultipleFaces::Refuse);
        let turned = turned.unwrap_or_else(|error| panic!("{format}: {}", error.code()));
        let distance = stage::squared_distance(&upright.embedding, &turned.embedding);
        println!("{format}: {distance:.6}");
        assert!(distance < distance_max, "{format}: {distance}");
    }
    assert_ne!(refusal(as_jpeg), None, "without the note it is no face");
}

#[test]
fn a_photo_of_twelve_megapixels_is_accepted() {
    let large = portrait().resize_exact(3200, 3750, image::imageops::FilterType::CatmullRom);
    let bytes = encoded(&large, ImageFormat::Jpeg);
    println!("12 megapixels in {} bytes", bytes.len());
    let large = stage::pipeline().embed(stage::upload(bytes), MultipleFaces::Refuse);
    let large = large.unwrap_or_else(|error| panic!("{}: {error:?}", error.code()));
    let small = stage::pipeline().embed(stage::upload(png()), MultipleFaces::Refuse).unwrap();
    let distance = stage::squared_distance(&small.embedding, &large.embedding);
    assert!(distance < 0.02, "{distance}");
}

#[test]
fn a_blurred_dark_bright_or_flat_face_is_refused_with_its_reasons() {
    let reasons = |image: DynamicImage| {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, ImageFormat::Png).unwrap();
        match stage::pipeline().embed(stage::upload(bytes.into_inner()), MultipleFaces::Refuse) {
            Err(velum_face::FaceError::QualityTooLow { reasons }) => {
                reasons.into_iter().map(|reason| reason.code()).collect()
            }
            Err(other) => vec![other.code()],
            Ok(_) => Vec::new(),
        }
    };
    assert_eq!(reasons(portrait()), Vec::<&str>::new());
    let changed = [
        (portrait().blur(9.0), "blurred"),
        (portrait().brighten(-140), "too_dark"),
        (portrait().brighten(120), "too_bright"),
        (portrait().adjust_contrast(-50.0), "low_contrast"),
    ];
    for (image, expected) in changed {
        let reasons = reasons(image);
        assert!(reasons.contains(&expected), "{expected}: {reasons:?}");
    }
}
