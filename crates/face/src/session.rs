//! Inference sessions: the only file that names `ort`.
//!
//! The native library is opened by an explicit path, which fails with an error; ort's implicit search panics on a bad file.
//! With the cargo feature `tract` the pure-Rust runtime stands in for it: slower, and no library is needed.
//!
//! Limit: the buffers passed in and out are wiped, the runtime's own scratch memory is not.

use std::{
    path::{Path, PathBuf},
    sync::Mutex,
};

#[cfg(not(feature = "tract"))]
use ort::session::{OutputSelector, RunOptions};
use ort::{
    environment::Environment,
    session::{Session, builder::GraphOptimizationLevel},
    value::{Outlet, TensorRef, ValueType},
};
#[cfg(not(feature = "tract"))]
use zeroize::Zeroize;
use zeroize::Zeroizing;

use super::manifest::{ModelError, ModelFile};

#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error(
        "the ONNX Runtime library is not at {path}; run scripts/fetch-runtime.sh, or set VELUM_ONNXRUNTIME to where it is",
        path = path.display()
    )]
    Missing { path: PathBuf },
    #[error("{path} is not a usable ONNX Runtime library (1.24 or later is needed): {reason}", path = path.display())]
    Unusable { path: PathBuf, reason: String },
    #[error("this process has opened the ONNX Runtime at {opened} already; a second one cannot be opened", opened = opened.display())]
    OpenedElsewhere { opened: PathBuf },
}

/// The opened inference runtime; one a process. Cloning it hands on the same one.
#[derive(Debug, Clone)]
pub struct Runtime {
    environment: Environment,
}

/// ort keeps one environment a process; whoever opens the same library again gets the same one.
static OPENED: Mutex<Option<(PathBuf, Runtime)>> = Mutex::new(None);

impl Runtime {
    /// Opens the native library at `library`; with the feature `tract` the path is ignored.
    pub fn open(library: &Path) -> Result<Self, RuntimeError> {
        if !cfg!(feature = "tract") && !library.is_file() {
            return Err(RuntimeError::Missing { path: library.to_owned() });
        }
        let mut opened = OPENED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match &*opened {
            Some((path, runtime)) if path == library || cfg!(feature = "tract") => Ok(runtime.clone()),
            Some((path, _)) => Err(RuntimeError::OpenedElsewhere { opened: path.clone() }),
            None => {
                let runtime = Self { environment: open_environment(library)? };
                *opened = Some((library.to_owned(), runtime.clone()));
                Ok(runtime)
            }
        }
    }
}

#[cfg(not(feature = "tract"))]
fn open_environment(library: &Path) -> Result<Environment, RuntimeError> {
    // A relative path is the caller's: ort would look beside the executable first.
    let absolute = std::path::absolute(library).unwrap_or_else(|_| library.to_owned());
    let unusable = |reason: String| RuntimeError::Unusable { path: library.to_owned(), reason };
    let builder = ort::init_from(&absolute).map_err(|error| unusable(error.to_string()))?;
    builder.with_name("velum").with_telemetry(false).build().map_err(|error| unusable(error.to_string()))
}

#[cfg(feature = "tract")]
fn open_environment(library: &Path) -> Result<Environment, RuntimeError> {
    ort::set_api(ort_tract::api());
    ort::init()
        .with_name("velum")
        .build()
        .map_err(|error| RuntimeError::Unusable { path: library.to_owned(), reason: error.to_string() })
}

/// A network gave no answer on a valid input. A stranger sees only that inference failed.
#[derive(Debug, thiserror::Error)]
#[error("model file {file} could not be run: {reason}")]
pub struct InferenceError {
    pub file: String,
    pub reason: String,
}

/// What a graph gave; wiped when dropped.
#[derive(Default)]
pub(super) struct Tensor {
    pub shape: Vec<usize>,
    pub values: Zeroizing<Vec<f32>>,
}

/// In an expected shape: a dimension of which the graph must take any number.
pub(super) const OPEN: usize = 0;

/// A shape for people: `any x 3 x 24 x 24`.
fn product(shape: impl Iterator<Item = usize>) -> String {
    let sides = shape.map(|side| if side == OPEN { "any".to_owned() } else { side.to_string() });
    sides.collect::<Vec<_>>().join(" x ")
}

/// One loaded graph with one input. Runs on the caller's thread; parallel requests use several networks.
pub(super) struct Network {
    file: String,
    session: Session,
}

impl Network {
    pub(super) fn load(runtime: &Runtime, models_dir: &Path, file: &ModelFile) -> Result<Self, ModelError> {
        let bytes = file.read_verified(models_dir)?;
        let session = build_session(runtime, &bytes)
            .map_err(|error| ModelError::Unloadable { file: file.file.clone(), reason: error.to_string() })?;
        let network = Self { file: file.file.clone(), session };
        match network.session.inputs() {
            [_one] => Ok(network),
            several => Err(network.mismatch(format!("it has {} inputs, one is expected", several.len()))),
        }
    }

    /// Checks that the graph has these names and these shapes. [`OPEN`] is a dimension that the graph must leave open; one
    /// that the graph leaves open fits any number.
    pub(super) fn expect_shapes(
        &self,
        (name, shape): (&str, &[usize]),
        outputs: &[(&str, &[usize])],
    ) -> Result<(), ModelError> {
        self.expect_shape(self.session.inputs(), "input", name, shape)?;
        outputs.iter().try_for_each(|(name, shape)| self.expect_shape(self.session.outputs(), "output", name, shape))
    }

    fn expect_shape(&self, outlets: &[Outlet], what: &str, name: &str, shape: &[usize]) -> Result<(), ModelError> {
        let outlet = outlets.iter().find(|outlet| outlet.name() == name);
        let outlet = outlet.ok_or_else(|| self.mismatch(format!("it has no {what} {name:?}")))?;
        let ValueType::Tensor { shape: actual, .. } = outlet.dtype() else {
            return Err(self.mismatch(format!("{what} {name:?} is no tensor")));
        };
        let fits = |(&actual, &wanted): (&i64, &usize)| actual < 0 || wanted != OPEN && actual == wanted as i64;
        if actual.len() == shape.len() && actual.iter().zip(shape).all(fits) {
            return Ok(());
        }
        let found = product(actual.iter().map(|&side| usize::try_from(side).unwrap_or(OPEN)));
        let wanted = product(shape.iter().copied());
        Err(self.mismatch(format!("{what} {name:?} is {found}, not {wanted}")))
    }

    /// Runs the graph on one tensor and copies out the named outputs, whose shapes the caller knows: another one is an error.
    pub(super) fn run<const N: usize>(
        &mut self,
        shape: &[usize],
        data: &[f32],
        outputs: [(&str, &[usize]); N],
    ) -> Result<[Tensor; N], InferenceError> {
        run_session(&mut self.session, shape, data, outputs)
            .map_err(|error| InferenceError { file: self.file.clone(), reason: error.to_string() })
    }

    fn mismatch(&self, reason: String) -> ModelError {
        ModelError::Mismatch { file: self.file.clone(), reason }
    }
}

/// The memory pattern is off: it plans the memory of every input shape that it meets and keeps each plan, but the detector's
/// networks meet another shape with every picture, and the embedder, which has one shape, is no faster with it. The runtime's
/// arena stays: without it detection takes a tenth to a half longer, and the C library's heap, cut up by tensors of ever
/// other sizes, grows by some MB with each picture.
fn build_session(runtime: &Runtime, bytes: &[u8]) -> ort::Result<Session> {
    Session::builder(&runtime.environment)?
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_intra_threads(1)?
        .with_inter_threads(1)?
        .with_memory_pattern(false)?
        .commit_from_memory(bytes)
}

/// The outputs are made here and filled by the runtime. Those that the runtime makes itself cost memory for ever: ort
/// 2.0.0-rc.14 never releases the type that it asks of each (some 300 bytes), and they could not be wiped.
#[cfg(not(feature = "tract"))]
fn run_session<const N: usize>(
    session: &mut Session,
    shape: &[usize],
    data: &[f32],
    outputs: [(&str, &[usize]); N],
) -> ort::Result<[Tensor; N]> {
    let input = TensorRef::from_array_view((shape, data))?;
    let mut selector = OutputSelector::no_default();
    for (name, shape) in outputs {
        let room = vec![0f32; shape.iter().product()].into_boxed_slice();
        selector = selector.with(name).preallocate(name, ort::value::Tensor::from_array((shape, room))?);
    }
    let options = RunOptions::new()?.with_outputs(selector);
    let mut answer = session.run_with_options(ort::inputs![input], &options)?;
    let mut tensors = std::array::from_fn(|_| Tensor::default());
    for (tensor, (name, shape)) in tensors.iter_mut().zip(outputs) {
        let value = answer.get_mut(name).ok_or_else(|| ort::Error::new(format!("it has no output {name:?}")))?;
        let (_, values) = value.try_extract_tensor_mut::<f32>()?;
        *tensor = Tensor { shape: shape.to_vec(), values: Zeroizing::new(values.to_vec()) };
        values.zeroize();
    }
    Ok(tensors)
}

/// tract makes its outputs itself.
#[cfg(feature = "tract")]
fn run_session<const N: usize>(
    session: &mut Session,
    shape: &[usize],
    data: &[f32],
    outputs: [(&str, &[usize]); N],
) -> ort::Result<[Tensor; N]> {
    let input = TensorRef::from_array_view((shape, data))?;
    let answer = session.run(ort::inputs![input])?;
    let mut tensors = std::array::from_fn(|_| Tensor::default());
    for (tensor, (name, expected)) in tensors.iter_mut().zip(outputs) {
        let value = answer.get(name).ok_or_else(|| ort::Error::new(format!("it has no output {name:?}")))?;
        let (shape, values) = value.try_extract_tensor::<f32>()?;
        if !shape.iter().map(|&side| side as usize).eq(expected.iter().copied()) {
            return Err(ort::Error::new(format!("output {name:?} has shape {shape:?}, not {expected:?}")));
        }
        *tensor = Tensor { shape: expected.to_vec(), values: Zeroizing::new(values.to_vec()) };
    }
    Ok(tensors)
}
