//! Bring your own model: a second embedder by the manifest alone.

use std::{collections::BTreeMap, fs};

use sha2::{Digest, Sha256};
use velum_domain::{face::MultipleFaces, matching::Metric};
use velum_face::FacePipeline;

use crate::{onnx_graph, stage};

/// An entry for a cosine model with ArcFace alignment.
struct Entry<'a> {
    id: &'a str,
    file: &'a str,
    bytes: &'a [u8],
    input: &'a str,
    output: &'a str,
    dimension: usize,
    normalisation: &'a str,
    thresholds: [f64; 3],
}

impl Entry<'_> {
    fn toml(&self) -> String {
        let thresholds = ["1e-2", "1e-3", "1e-4"].iter().zip(self.thresholds).map(|(rate, threshold)| {
            format!(
                "[[embedders.matching.thresholds]]\nfalse_match_rate = \"{rate}\"\nthreshold = {threshold}\n\
                 data = \"not measured\"\n"
            )
        });
        format!(
            r#"
[[embedders]]
id = "{id}"
summary = "A model of one's own, for the test."
[embedders.model]
file = "{file}"
sha256 = "{sha256}"
licence = "Apache-2.0"
package = "none"
version = "0"
member = "{file}"
[embedders.input]
name = "{input}"
shape = [3, 112, 112]
layout = "chw"
colour = "rgb"
{normalisation}
alignment = "arcface_112"
mirrored = false
[embedders.output]
name = "{output}"
dimension = {dimension}
[embedders.matching]
metric = "cosine"
scale = 100.0
component_max = 31
norm_bound_squared = 1.02
{thresholds}
[embedders.quality]
eye_distance_px_min = 24.0
sharpness_min = 1.0
brightness_min = 35.0
brightness_max = 225.0
contrast_min = 12.0
yaw_degrees_max = 40.0
pitch_degrees_max = 40.0
roll_degrees_max = 45.0
"#,
            id = self.id,
            file = self.file,
            sha256 = hex::encode(Sha256::digest(self.bytes)),
            input = self.input,
            output = self.output,
            dimension = self.dimension,
            normalisation = self.normalisation,
            thresholds = thresholds.collect::<String>(),
        )
    }

    fn load(&self) -> FacePipeline {
        let folder = stage::models_with(|manifest| manifest.push_str(&self.toml()));
        fs::write(folder.path().join(self.file), self.bytes).unwrap();
        stage::load(&folder, self.id)
    }
}

#[test]
fn a_128_d_cosine_model_tells_the_development_photos_apart() {
    let Some(model) = stage::shared("models/test-only/mobilefacenet_128d.onnx") else { return };
    let Some(pairs) = stage::shared("faces/pairs.csv") else { return };
    let bytes = fs::read(model).unwrap();
    let pipeline = Entry {
        id: "mobilefacenet-128d",
        file: "mobilefacenet_128d.onnx",
        bytes: &bytes,
        input: "input0",
        output: "output0",
        dimension: 128,
        normalisation: "divisor = 255.0\nmean = [0.485, 0.456, 0.406]\nstd = [0.229, 0.224, 0.225]",
        thresholds: [0.252, 0.336, 0.410],
    }
    .load();
    let spec = pipeline.card().match_spec();
    assert_eq!((spec.metric, spec.dimension, spec.mean), (Metric::Cosine, 128, None));

    let faces = pairs.parent().unwrap();
    let mut embeddings = BTreeMap::new();
    let mut cosine = |a: &str, b: &str| -> f64 {
        for file in [a, b] {
            embeddings.entry(file.to_owned()).or_insert_with(|| {
                pipeline.embed(stage::photo(&faces.join(file)), MultipleFaces::Refuse).unwrap().embedding
            });
        }
        1.0 - stage::squared_distance(&embeddings[a], &embeddings[b]) / 2.0
    };
    let (mut genuine, mut impostor) = (Vec::new(), Vec::new());
    for row in csv::Reader::from_path(&pairs).unwrap().deserialize() {
        let (a, b, same): (String, String, u8) = row.unwrap();
        if same == 1 { &mut genuine } else { &mut impostor }.push(cosine(&a, &b));
    }
    let smallest = genuine.iter().copied().fold(f64::INFINITY, f64::min);
    let largest = impostor.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    println!("smallest genuine cosine {smallest:.3}, largest impostor one {largest:.3}");
    let wrong = genuine.iter().filter(|&&c| c < 0.336).count() + impostor.iter().filter(|&&c| c >= 0.336).count();
    assert!(wrong <= 8, "{wrong} of {} pairs are wrong at 1e-3", genuine.len() + impostor.len());
}

#[test]
fn a_synthetic_512_d_model_gives_what_its_graph_says() {
    let weights = onnx_graph::weights();
    let bytes = onnx_graph::pool_and_project(&weights);
    let pipeline = Entry {
        id: "synthetic-512d",
        file: "synthetic.onnx",
        bytes: &bytes,
        input: "pixels",
        output: "projected",
        dimension: onnx_graph::DIMENSION,
        normalisation: "divisor = 127.5\nmean = [1.0, 1.0, 1.0]\nstd = [1.0, 1.0, 1.0]",
        thresholds: [0.2, 0.3, 0.4],
    }
    .load();
    let seen = pipeline.examine(stage::sample("eileen_collins.png"), MultipleFaces::Refuse).unwrap();
    assert_eq!((seen.aligned.pixels().width(), seen.aligned.pixels().height()), (112, 112));
    let expected = onnx_graph::expected(seen.aligned.pixels(), &weights);
    let embedding = pipeline.embed(stage::sample("eileen_collins.png"), MultipleFaces::Refuse).unwrap().embedding;
    assert_eq!(embedding.dimension(), 512);
    for (ours, expected) in embedding.expose_components().iter().zip(expected) {
        assert!((f64::from(*ours) - expected).abs() < 1e-5, "{ours} {expected}");
    }
}

#[test]
fn a_graph_that_is_not_as_the_manifest_says_stops_the_start() {
    for (from, to, reason) in [
        ("name = \"embedding\"", "name = \"vector\"", "no output \"vector\""),
        ("name = \"image\"", "name = \"picture\"", "no input \"picture\""),
    ] {
        let folder = stage::models_with(|manifest| *manifest = manifest.replace(from, to));
        let error = FacePipeline::load(&stage::runtime(), folder.path(), None, 1).err().unwrap().to_string();
        assert!(error.contains("dlib_resnet_fp16w.onnx") && error.contains(reason), "{error}");
    }
}

/// The committed manifest with the detector's files at `a` and `b` in each other's place.
fn swapped(a: &str, b: &str) -> tempfile::TempDir {
    let of = |file: &str| {
        let sha256 = hex::encode(Sha256::digest(fs::read(stage::models().join(file)).unwrap()));
        format!("file = \"{file}\"\nsha256 = \"{sha256}\"")
    };
    stage::models_with(|manifest| {
        let (a, b) = (of(a), of(b));
        assert!(manifest.contains(&a) && manifest.contains(&b));
        *manifest = manifest.replace(&a, "(a)").replace(&b, &a).replace("(a)", &b);
    })
}

#[test]
fn files_of_the_detector_in_each_others_place_stop_the_start() {
    let (pnet, rnet, onet) = ("mtcnn_pnet.onnx", "mtcnn_rnet.onnx", "mtcnn_onet.onnx");
    for (a, b, file, reason) in [
        (rnet, onet, onet, "input \"x\" is any x 3 x 48 x 48, not any x 3 x 24 x 24"),
        (pnet, rnet, rnet, "input \"x\" is any x 3 x 24 x 24, not any x 3 x any x any"),
        (pnet, onet, onet, "input \"x\" is any x 3 x 48 x 48, not any x 3 x any x any"),
    ] {
        let error = FacePipeline::load(&stage::runtime(), swapped(a, b).path(), None, 1).err().unwrap().to_string();
        let expected = format!("model file {file} does not do what the manifest says: {reason}");
        assert_eq!(error, expected, "{a} and {b}");
    }
}

/// P-Net takes any size of input; what it gives tells it from the others.
#[test]
fn the_first_network_of_the_detector_in_place_of_the_second_stops_the_start() {
    let pnet = hex::encode(Sha256::digest(fs::read(stage::models().join("mtcnn_pnet.onnx")).unwrap()));
    let rnet = hex::encode(Sha256::digest(fs::read(stage::models().join("mtcnn_rnet.onnx")).unwrap()));
    let folder = stage::models_with(|manifest| {
        *manifest = manifest.replace("mtcnn_rnet.onnx", "mtcnn_pnet.onnx").replace(&rnet, &pnet);
    });
    let error = FacePipeline::load(&stage::runtime(), folder.path(), None, 1).err().unwrap().to_string();
    assert!(error.contains("mtcnn_pnet.onnx") && error.contains("output \"reg\" is any x 4 x any x any"), "{error}");
}

#[test]
fn an_altered_model_file_stops_the_start() {
    let folder = stage::models_with(|_| {});
    let file = folder.path().join("mtcnn_onet.onnx");
    let mut bytes = fs::read(&file).unwrap();
    bytes[1000] ^= 1;
    fs::remove_file(&file).unwrap();
    fs::write(&file, bytes).unwrap();
    let error = FacePipeline::load(&stage::runtime(), folder.path(), None, 1).err().unwrap().to_string();
    assert!(error.starts_with("model file mtcnn_onet.onnx was altered"), "{error}");
}

#[test]
fn an_embedder_that_the_manifest_lacks_is_refused_with_those_it_has() {
    let wanted = "arcface-r100".parse().unwrap();
    let error = FacePipeline::load(&stage::runtime(), &stage::models(), Some(&wanted), 1).err().unwrap().to_string();
    assert!(error.contains("arcface-r100") && error.contains("dlib-resnet29-v1"), "{error}");
}

#[test]
#[cfg(not(feature = "tract"))]
fn a_missing_runtime_library_is_named_with_the_way_to_get_it() {
    // A library that is not there is told as such whether or not another one is open already.
    stage::runtime();
    let missing = velum_face::Runtime::open(std::path::Path::new("nowhere/libonnxruntime.so"));
    let sentence = missing.unwrap_err().to_string();
    assert!(sentence.contains("nowhere/libonnxruntime.so"), "{sentence}");
}

#[test]
#[cfg(not(feature = "tract"))]
fn a_second_runtime_library_is_refused_with_the_path_of_the_first() {
    stage::runtime();
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("libonnxruntime.so");
    fs::copy(stage::library(), &copy).unwrap();
    let error = velum_face::Runtime::open(&copy).unwrap_err();
    assert!(matches!(&error, velum_face::RuntimeError::OpenedElsewhere { opened } if *opened == stage::library()));
    assert!(error.to_string().contains(&stage::library().display().to_string()), "{error}");
}
