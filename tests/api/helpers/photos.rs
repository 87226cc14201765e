//! Pictures: two people, and what is no usable face.

use std::{fs, io::Cursor, path::Path};

use image::{DynamicImage, ImageFormat, RgbImage, imageops};

fn sample(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("samples").join(name)).expect("a sample photo")
}

pub fn collins() -> Vec<u8> {
    sample("eileen_collins.png")
}

pub fn hopper() -> Vec<u8> {
    sample("grace_hopper.jpg")
}

/// The same person on a smaller, darker JPEG.
pub fn collins_changed() -> Vec<u8> {
    let photo = image::load_from_memory(&collins()).unwrap();
    let smaller = photo.crop_imm(40, 0, 400, 400).brighten(-20);
    encoded(&DynamicImage::ImageRgb8(smaller.to_rgb8()), ImageFormat::Jpeg)
}

/// Two faces of the same size on one picture.
pub fn two_faces() -> Vec<u8> {
    let one = image::load_from_memory(&hopper()).unwrap().to_rgb8();
    let mut picture = RgbImage::new(2 * one.width(), one.height());
    imageops::overlay(&mut picture, &one, 0, 0);
    imageops::overlay(&mut picture, &imageops::flip_horizontal(&one), i64::from(one.width()), 0);
    encoded(&DynamicImage::ImageRgb8(picture), ImageFormat::Png)
}

/// A picture of nobody.
pub fn nobody() -> Vec<u8> {
    let gradient = RgbImage::from_fn(320, 240, |x, y| image::Rgb([(x / 2) as u8, (y / 2) as u8, 90]));
    encoded(&DynamicImage::ImageRgb8(gradient), ImageFormat::Jpeg)
}

fn encoded(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}
