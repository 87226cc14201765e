//! Against our own stored answers for the two portraits of samples/, which need nothing from outside the repository. The
//! native runtime made them; run with the feature `tract`, these tests show that both runtimes agree.
//!
//! `UPDATE_FIXTURES=1 cargo test -p velum-face --test face stored` writes them anew.

use std::{fs, path::PathBuf};

use serde::{Deserialize, Serialize};
use velum_domain::face::{MultipleFaces, UploadedImage};
use velum_face::{align::AlignedFace, card::Alignment, pixels::RgbImage};
use zeroize::Zeroizing;

use crate::stage;

#[derive(Serialize, Deserialize)]
struct Stored {
    /// Five landmarks and the embedding of each portrait.
    portraits: Vec<Portrait>,
    /// The embedding of a fixed cut-out, so that nothing of the detector is in it.
    cut_out: Vec<f32>,
}

#[derive(Serialize, Deserialize)]
struct Portrait {
    file: String,
    landmarks: [[f64; 2]; 5],
    embedding: Vec<f32>,
}

fn path() -> PathBuf {
    stage::root().join("crates/face/tests/fixtures/samples.json")
}

fn measured() -> Stored {
    let portraits = ["eileen_collins.png", "grace_hopper.jpg"].map(|file| {
        let image = || -> UploadedImage { stage::sample(file) };
        let seen = stage::pipeline().examine(image(), MultipleFaces::Refuse).unwrap();
        let embedding = stage::pipeline().embed(image(), MultipleFaces::Refuse).unwrap().embedding;
        Portrait {
            file: file.to_owned(),
            landmarks: seen.detection.landmarks.map(|point| [point.x, point.y]),
            embedding: embedding.expose_components().to_vec(),
        }
    });
    let cut_out = stage::pipeline().embed_aligned(&cut_out()).unwrap();
    Stored { portraits: portraits.into(), cut_out: cut_out.expose_components().to_vec() }
}

/// 150x150 pixels around the astronaut's face.
fn cut_out() -> AlignedFace {
    let portrait = image::open(stage::root().join("samples/eileen_collins.png")).unwrap();
    let pixels = portrait.crop_imm(150, 45, 150, 150).into_rgb8().into_raw();
    AlignedFace::from_chip(RgbImage::new(150, 150, Zeroizing::new(pixels)).unwrap(), Alignment::Dlib150).unwrap()
}

fn stored() -> Stored {
    if std::env::var_os("UPDATE_FIXTURES").is_some() {
        fs::create_dir_all(path().parent().unwrap()).unwrap();
        fs::write(path(), serde_json::to_string(&measured()).unwrap() + "\n").unwrap();
    }
    serde_json::from_slice(&fs::read(path()).unwrap()).unwrap()
}

fn worst(ours: &[f32], stored: &[f32]) -> f32 {
    assert_eq!(ours.len(), stored.len());
    ours.iter().zip(stored).map(|(ours, stored)| (ours - stored).abs()).fold(0.0, f32::max)
}

/// Named for both runtimes: the suite runs it with and without the feature `tract`.
#[test]
fn native_and_tract_runtimes_give_the_stored_answers() {
    let (ours, stored) = (measured(), stored());
    let component = worst(&ours.cut_out, &stored.cut_out);
    assert!(component < 1e-3, "cut-out: a component is off by {component}");
    for (ours, stored) in ours.portraits.iter().zip(&stored.portraits) {
        for (ours, stored) in ours.landmarks.iter().zip(&stored.landmarks) {
            let offset = (ours[0] - stored[0]).hypot(ours[1] - stored[1]);
            assert!(offset < 1.0, "a landmark is off by {offset:.2} px");
        }
        let component = worst(&ours.embedding, &stored.embedding);
        println!("{}: components are off by at most {component:.6}", stored.file);
        assert!(component < 0.01, "{}: a component is off by {component}", stored.file);
    }
}

#[test]
fn the_two_portraits_are_two_people() {
    let [collins, hopper] = ["eileen_collins.png", "grace_hopper.jpg"].map(|file| {
        let reading = stage::pipeline().embed(stage::sample(file), MultipleFaces::Refuse).unwrap();
        println!("{file}: {:?}", reading.stages);
        reading.embedding
    });
    let distance = stage::squared_distance(&collins, &hopper);
    println!("squared distance {distance:.3}");
    assert!(distance > 0.1667, "{distance}");
}
