//! `velum evaluate`: how well the installed models tell people apart on photos of your own, whether encryption changes any
//! answer, and what stolen templates are worth.

mod pairs;
mod plot;
mod protection;
mod report;
mod roc;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use zeroize::Zeroizing;

use self::{
    pairs::{Pair, PairList},
    protection::Protection,
    report::{Disagreement, Report},
};
use super::progress;
use crate::{
    domain::{
        decision::FalseMatchRate,
        face::{Embedding, MultipleFaces, UploadedImage},
        matching::{MatchSpec, Threshold},
    },
    face::{FaceError, FacePipeline, Runtime},
    fhe::{
        Matcher,
        encode::{QuantizedProbe, QuantizedTemplate},
        keys, noise,
        twin::EncryptedMatcher,
    },
    settings::FaceSettings,
};

#[derive(Debug, clap::Args)]
pub struct EvaluateArgs {
    /// CSV with the columns set,file_a,file_b,same; paths are relative to the file itself
    #[arg(required_unless_present = "protection")]
    pairs: Option<PathBuf>,
    /// Also decide every pair on ciphertexts, at all three thresholds, and compare
    #[arg(long)]
    encrypted: bool,
    /// Column of the CSV to break the results down by
    #[arg(long, value_name = "COLUMN")]
    group: Option<String>,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
    /// Write the DET curve (false non-matches over false matches) as SVG
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Instead of photos: measure what stolen templates of made-up persons are worth to a thief
    #[arg(long, conflicts_with_all = ["pairs", "encrypted", "group", "plot"])]
    protection: bool,
    /// Persons whose templates are attacked
    #[arg(long, requires = "protection", default_value_t = 2_000)]
    people: usize,
    /// Templates to bring under another key
    #[arg(long, requires = "protection", default_value_t = 10_000)]
    templates: usize,
}

pub fn run(args: &EvaluateArgs, settings: &FaceSettings) -> Result<()> {
    match &args.pairs {
        Some(pairs) => evaluate(args, pairs, settings),
        None => protect(args, settings),
    }
}

fn protect(args: &EvaluateArgs, settings: &FaceSettings) -> Result<()> {
    let measured = Protection::measure(settings, args.people, args.templates)?;
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&measured)?),
        false => print!("{}", measured.to_text()),
    }
    Ok(())
}

fn evaluate(args: &EvaluateArgs, pairs: &Path, settings: &FaceSettings) -> Result<()> {
    let list = PairList::read(pairs, args.group.as_deref())?;
    let runtime = Runtime::open(&settings.onnxruntime)?;
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let pipeline = FacePipeline::load(&runtime, &settings.models_dir, settings.embedder.as_ref(), cores)?;
    let spec = pipeline.card().match_spec();

    let readings = read_all(&pipeline, &list.images, cores)?;
    let compared: Vec<Compared> = list.pairs.iter().filter_map(|pair| compare(&spec, pair, &readings)).collect();
    let disagreements = args.encrypted.then(|| decide_encrypted(&spec, &compared, cores)).transpose()?;

    let report = Report::new(&spec, &list, &readings, &compared, disagreements)?;
    if let Some(path) = &args.plot {
        plot::write_det(path, report.scores(), &report.card_points(), spec.model.as_str())?;
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report.to_json())?);
    } else {
        print!("{}", report.to_text());
    }
    Ok(())
}

/// What became of one photo.
enum Reading {
    Embedded {
        embedding: Embedding,
        /// Codes of what the service's quality gate would have refused it for.
        shortcomings: Vec<&'static str>,
    },
    /// The code of the refusal.
    Refused(&'static str),
}

/// Embeds each photo once, on all cores. The largest face is taken and the quality gate only noted: an evaluation asks
/// what the model does with the photos there are.
fn read_all(pipeline: &FacePipeline, images: &[PathBuf], cores: usize) -> Result<Vec<Reading>> {
    let bar = progress::counted("embedding photos", images.len());
    on_all_cores(images.len(), cores, &bar, |index| read_one(pipeline, &images[index]))
}

fn read_one(pipeline: &FacePipeline, path: &Path) -> Result<Reading> {
    let bytes = Zeroizing::new(std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?);
    let Ok(image) = UploadedImage::new(bytes) else { return Ok(Reading::Refused(FaceError::TooLarge.code())) };
    match read_ungated(pipeline, image) {
        Ok(reading) => Ok(reading),
        Err(FaceError::InferenceFailed(source)) => Err(anyhow::anyhow!(source).context(path.display().to_string())),
        Err(refusal) => Ok(Reading::Refused(refusal.code())),
    }
}

fn read_ungated(pipeline: &FacePipeline, image: UploadedImage) -> Result<Reading, FaceError> {
    let face = pipeline.examine(image, MultipleFaces::Largest)?;
    let shortcomings = face.quality.shortcomings(&pipeline.card().quality);
    let shortcomings = shortcomings.iter().map(|reason| reason.code()).collect();
    Ok(Reading::Embedded { embedding: pipeline.embed_aligned(&face.aligned)?, shortcomings })
}

/// A pair of which both photos gave an embedding.
struct Compared<'a> {
    pair: &'a Pair,
    a: &'a Embedding,
    b: &'a Embedding,
    /// Squared distance or cosine, unquantised and unencrypted.
    value: f64,
}

fn compare<'a>(spec: &MatchSpec, pair: &'a Pair, readings: &'a [Reading]) -> Option<Compared<'a>> {
    match (&readings[pair.a], &readings[pair.b]) {
        (Reading::Embedded { embedding: a, .. }, Reading::Embedded { embedding: b, .. }) => {
            Some(Compared { pair, a, b, value: spec.compare(a, b) })
        }
        _ => None,
    }
}

/// Decides every pair at every threshold of the card on ciphertexts, under keys made for this run alone.
fn decide_encrypted(spec: &MatchSpec, compared: &[Compared<'_>], cores: usize) -> Result<Vec<Disagreement>> {
    let spinner = progress::spinner("making keys");
    let set = keys::generate();
    let evaluation = set.evaluation.expand();
    spinner.finish_and_clear();
    let matcher = EncryptedMatcher { public: &set.public, evaluation: &evaluation, secret: &set.secret };
    let zones: BTreeMap<FalseMatchRate, f64> = spec
        .thresholds
        .iter()
        .map(|(&rate, &threshold)| Ok((rate, noise::grey_zone(spec, threshold)?)))
        .collect::<Result<_>>()?;

    let bar = progress::counted("deciding pairs on ciphertexts", compared.len());
    let found = on_all_cores(compared.len(), cores, &bar, |index| {
        let pair = &compared[index];
        let template = matcher.protect_template(QuantizedTemplate::encode(spec, pair.b)?);
        let probe = matcher.protect_probe(QuantizedProbe::encode(spec, pair.a)?);
        let mut found = vec![];
        for (&rate, &threshold) in &spec.thresholds {
            let encrypted = matcher.decide(&probe, &template, threshold)?.is_match();
            if encrypted != spec.accepts(pair.value, threshold) {
                found.push(Disagreement { rate, outside_grey_zone: outside(pair.value, threshold, zones[&rate]) });
            }
        }
        Ok(found)
    })?;
    Ok(found.into_iter().flatten().collect())
}

fn outside(value: f64, threshold: Threshold, zone: f64) -> bool {
    (value - threshold.0).abs() > zone
}

/// Calls `work` for each index on all cores; results in order; the first error ends it.
fn on_all_cores<T: Send>(
    count: usize,
    cores: usize,
    bar: &ProgressBar,
    work: impl Fn(usize) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let next = AtomicUsize::new(0);
    let worker = || -> Result<Vec<(usize, T)>> {
        let mut done = vec![];
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return Ok(done);
            }
            // An error leaves nothing for the others to take.
            done.push((index, work(index).inspect_err(|_| next.store(count, Ordering::Relaxed))?));
            bar.inc(1);
        }
    };
    let mut results = thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(worker)).collect();
        let joined = threads.into_iter().map(|thread| match thread.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        joined.collect::<Result<Vec<_>>>()
    })?
    .into_iter()
    .flatten()
    .collect::<Vec<_>>();
    bar.finish_and_clear();
    results.sort_by_key(|(index, _)| *index);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}
