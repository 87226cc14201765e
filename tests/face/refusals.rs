//! Every file that is no plain picture of one face, and the code with which it is refused.

use std::{fs, io::Cursor};

use image::{DynamicImage, ImageEncoder, ImageFormat, codecs::webp::WebPEncoder};
use velum::domain::face::MultipleFaces;

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

#[test]
fn a_portrait_lying_on_its_side_is_turned_by_its_exif_note() {
    let mut lying = Cursor::new(Vec::new());
    portrait().rotate270().write_to(&mut lying, ImageFormat::Png).unwrap();
    // Tag 0x0112, one short, value 6: turn by 90 degrees clockwise.
    let exif = b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    let turned = with_png_chunk(&lying.into_inner(), &png_chunk(b"eXIf", exif));
    let upright = stage::pipeline().embed(stage::upload(png()), MultipleFaces::Refuse).unwrap();
    let turned = stage::pipeline().embed(stage::upload(turned), MultipleFaces::Refuse).unwrap();
    assert!(stage::squared_distance(&upright.embedding, &turned.embedding) < 1e-9);
}

#[test]
fn a_blurred_dark_or_bright_face_is_refused_with_its_reasons() {
    let reasons = |image: DynamicImage| {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, ImageFormat::Png).unwrap();
        match stage::pipeline().embed(stage::upload(bytes.into_inner()), MultipleFaces::Refuse) {
            Err(velum::face::FaceError::QualityTooLow { reasons }) => {
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
    ];
    for (image, expected) in changed {
        let reasons = reasons(image);
        assert!(reasons.contains(&expected), "{expected}: {reasons:?}");
    }
}
