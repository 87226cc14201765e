//! Against stored answers of another implementation of the same models.

use serde::Deserialize;
use velum_domain::face::MultipleFaces;
use velum_face::card::Alignment;

use crate::stage;

#[derive(Deserialize)]
struct Golden {
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    file: String,
    landmarks: [[f64; 2]; 5],
    embedding: Vec<f64>,
    chip: Option<String>,
}

impl Item {
    /// Stored raw; ours has unit length.
    fn unit_embedding(&self) -> Vec<f64> {
        let norm = self.embedding.iter().map(|x| x * x).sum::<f64>().sqrt();
        self.embedding.iter().map(|x| x / norm).collect()
    }
}

fn golden() -> Option<Golden> {
    let path = stage::shared("models/golden/golden.json")?;
    Some(serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
}

#[test]
fn the_same_chips_give_the_stored_embeddings() {
    let Some(golden) = golden() else { return };
    // The stored embeddings are of the chip alone, without its mirror image.
    let folder = stage::models_with(|manifest| *manifest = manifest.replace("mirrored = true", "mirrored = false"));
    let pipeline = stage::load(&folder, "dlib-resnet29-v1");
    let mut seen = 0;
    for item in golden.items.iter() {
        let Some(chip) = &item.chip else { continue };
        let chip = stage::chip(&stage::shared("models").unwrap().join(chip), Alignment::Dlib150);
        let embedding = pipeline.embed_aligned(&chip).unwrap();
        let stored = item.unit_embedding();
        let worst =
            embedding.expose_components().iter().zip(&stored).map(|(&ours, theirs)| (f64::from(ours) - theirs).abs());
        let worst = worst.fold(0.0, f64::max);
        assert!(worst < 1e-3, "{}: a component is off by {worst}", item.file);
        seen += 1;
    }
    assert_eq!(seen, 10);
}

#[test]
fn our_landmarks_lie_within_two_pixels_of_the_stored_ones() {
    let Some(golden) = golden() else { return };
    let faces = stage::shared("faces").unwrap();
    let (mut sum, mut worst, mut drift) = (0.0, 0.0_f64, 0.0_f64);
    for item in &golden.items {
        let seen = stage::pipeline().examine(stage::photo(&faces.join(&item.file)), MultipleFaces::Refuse);
        let seen = seen.unwrap_or_else(|error| panic!("{}: {}", item.file, error.code()));
        let offsets = seen.detection.landmarks.iter().zip(item.landmarks);
        let offset = offsets.map(|(ours, [x, y])| (ours.x - x).hypot(ours.y - y)).sum::<f64>() / 5.0;
        let embedding = stage::pipeline().embed_aligned(&seen.aligned).unwrap();
        let stored = item.unit_embedding();
        let distance: f64 =
            embedding.expose_components().iter().zip(&stored).map(|(&a, b)| (f64::from(a) - b).powi(2)).sum();
        println!("{:28} landmarks {offset:.2} px, embedding {distance:.4} (with its mirror image)", item.file);
        // The stored ones are of one candidate, ours the mean of all that lie on the face.
        let share = offset / seen.detection.eye_distance_px();
        assert!(share < 0.10, "{}: landmarks are off by {share:.2} of the distance between the eyes", item.file);
        (sum, worst, drift) = (sum + offset, worst.max(offset), drift.max(distance));
    }
    assert!(sum / (golden.items.len() as f64) < 2.0);
    println!("mean {:.2} px, worst {worst:.2} px, embedding drift at most {drift:.4}", sum / golden.items.len() as f64);
}
