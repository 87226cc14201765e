//! Images: what is decoded is as large as its header says and no larger than we permit.
//!
//! Decoders may panic on strange files; the program takes that for an undecodable image. So a panic inside the decoder is no
//! finding here, and one that gets out is.
#![no_main]

use std::panic;

use libfuzzer_sys::fuzz_target;
use velum::{
    domain::face::UploadedImage,
    face::{FaceError, decode::decode},
};
use zeroize::Zeroizing;

const PIXELS_MAX: usize = 50_000_000;

fuzz_target!(
    init: {
        panic::set_hook(Box::new(|_| ()));
    },
    |data: &[u8]| {
        let Ok(upload) = UploadedImage::new(Zeroizing::new(data.to_vec())) else { return };
        match decode(&upload) {
            Ok(image) => {
                let pixels = image.width() * image.height();
                assert!((1..=PIXELS_MAX).contains(&pixels));
                assert_eq!(image.expose_data().len(), pixels * 3);
            }
            Err(error) => assert!(matches!(
                error,
                FaceError::UnsupportedFormat | FaceError::Undecodable | FaceError::Animated | FaceError::TooManyPixels
            )),
        }
    }
);
