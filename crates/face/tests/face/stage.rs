//! Where the tests find models, photos and the runtime, and how they load them.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use velum_domain::{
    face::{Embedding, MultipleFaces, UploadedImage},
    matching::CardId,
};
use velum_face::{
    FaceError, FacePipeline, FaceReading, Runtime, align::AlignedFace, card::Alignment, pixels::RgbImage,
};
use zeroize::Zeroizing;

pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

pub fn models() -> PathBuf {
    root().join("models")
}

/// Optional data beside the repository: more photos and models than may be committed.
pub fn shared(path: &str) -> Option<PathBuf> {
    let path = root().join("../shared").join(path);
    if path.exists() {
        Some(path)
    } else {
        eprintln!("skipped: the optional {} is not there", path.display());
        None
    }
}

pub fn library() -> PathBuf {
    let given = std::env::var_os("VELUM_ONNXRUNTIME");
    given.map_or_else(|| root().join("runtime/libonnxruntime.so.1.31.1"), PathBuf::from)
}

pub fn runtime() -> Runtime {
    Runtime::open(&library()).unwrap()
}

/// The committed models with their default embedder.
pub fn pipeline() -> &'static FacePipeline {
    static PIPELINE: LazyLock<FacePipeline> =
        LazyLock::new(|| FacePipeline::load(&runtime(), &models(), None, 2).unwrap());
    &PIPELINE
}

/// A models folder of its own: the committed files, and a manifest that was changed by `edit`.
pub fn models_with(edit: impl FnOnce(&mut String)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(models()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "onnx") {
            std::os::unix::fs::symlink(&path, folder.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    let mut manifest = fs::read_to_string(models().join("manifest.toml")).unwrap();
    edit(&mut manifest);
    fs::write(folder.path().join("manifest.toml"), manifest).unwrap();
    folder
}

pub fn load(folder: &tempfile::TempDir, embedder: &str) -> FacePipeline {
    let embedder: CardId = embedder.parse().unwrap();
    FacePipeline::load(&runtime(), folder.path(), Some(&embedder), 1).unwrap()
}

pub fn upload(bytes: Vec<u8>) -> UploadedImage {
    UploadedImage::new(Zeroizing::new(bytes)).unwrap()
}

pub fn photo(path: &Path) -> UploadedImage {
    upload(fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}

pub fn sample(name: &str) -> UploadedImage {
    photo(&root().join("samples").join(name))
}

pub fn embed(path: &Path) -> Result<FaceReading, FaceError> {
    pipeline().embed(photo(path), MultipleFaces::Refuse)
}

/// A face chip that is stored as an image.
pub fn chip(path: &Path, alignment: Alignment) -> AlignedFace {
    let image = image::open(path).unwrap().into_rgb8();
    let (width, height) = (image.width() as usize, image.height() as usize);
    AlignedFace::from_chip(RgbImage::new(width, height, Zeroizing::new(image.into_raw())).unwrap(), alignment).unwrap()
}

pub fn squared_distance(a: &Embedding, b: &Embedding) -> f64 {
    let pairs = a.expose_components().iter().zip(b.expose_components());
    pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum()
}
