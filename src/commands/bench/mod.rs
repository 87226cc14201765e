//! `velum bench`: where the time and the bytes go on this machine.

mod access;
mod compliance;
mod console;
pub mod rekey;
mod service;
pub mod stages;

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::json;
use zeroize::Zeroizing;

use self::{
    access::Access, compliance::Compliance, console::Console, rekey::Rekeying, service::Service, stages::Stages,
};
use super::progress;
use crate::{
    domain::face::{MultipleFaces, UploadedImage},
    face::{FacePipeline, Runtime},
    fhe::{keys, noise},
    settings::FaceSettings,
};

#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    /// Repetitions of each stage
    #[arg(long, default_value_t = 60)]
    runs: usize,
    /// Verifications over HTTPS; 0 leaves the server out
    #[arg(long, default_value_t = 1000)]
    verifications: usize,
    /// Access tokens to buy, a hundred at a time; 0 leaves the access layer out
    #[arg(long, default_value_t = 10_000)]
    tokens: usize,
    /// Templates to bring under another key; 0 leaves that out
    #[arg(long, default_value_t = 200)]
    templates: usize,
    /// Persons to erase while another one is verified; 0 leaves that and the audit log out
    #[arg(long, default_value_t = 200)]
    erasures: usize,
    /// Persons in the database of whose officer's pages each is asked for; 0 leaves the console out
    #[arg(long, default_value_t = 1000)]
    persons: usize,
    /// Redis for the access layer, as VELUM_REDIS_URL; without it the server counts by itself
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
    /// Photo of one face to work on
    #[arg(long, value_name = "FILE", default_value = "samples/eileen_collins.png")]
    photo: PathBuf,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

pub async fn run(args: &BenchArgs, face: &FaceSettings) -> Result<()> {
    let portrait = image::open(&args.photo).with_context(|| format!("cannot read {}", args.photo.display()))?;
    let photos = service::photos(&portrait)?;
    let service = match args.verifications {
        0 => None,
        verifications => Some(Service::measure(face, &photos, verifications).await?),
    };

    let access = match args.tokens {
        0 => None,
        tokens => Some(Access::measure(face, args.redis.as_deref(), tokens).await?),
    };

    let compliance = match args.erasures {
        0 => None,
        erasures => Some(Compliance::measure(face, &photos[0], erasures).await?),
    };

    let console = match args.persons {
        0 => None,
        persons => Some(Console::measure(face, persons).await?),
    };

    let workshop = Workshop::open(face)?;
    let stages = Stages::measure(&workshop.pipeline, &workshop.keys, &photos[0].bytes, args.runs.max(1))?;
    let rekeying = match args.templates {
        0 => None,
        templates => {
            let image = UploadedImage::new(Zeroizing::new(photos[0].bytes.clone()))?;
            let face = workshop.pipeline.embed(image, MultipleFaces::Refuse)?.embedding;
            Some(Rekeying::measure(&workshop.pipeline.card().match_spec(), &face, &workshop.keys, templates)?)
        }
    };
    let Workshop { pipeline, keys, evaluation_key_bytes } = workshop;

    if args.json {
        let mut json = json!({
            "decision_cpu_ms": stages.decision_cpu_ms(),
            "probe_encrypt_ms": stages.cpu_ms("probe encryption"),
            "template_bytes": stages.template_bytes,
            "evaluation_key_bytes": evaluation_key_bytes,
            "evaluation_key_memory_bytes": keys.evaluation.memory_bytes(),
            "stages_cpu_ms": stages.to_json(),
        });
        if let Some(object) = json.as_object_mut() {
            object.extend(service.iter().flat_map(Service::to_json));
            object.extend(access.iter().flat_map(Access::to_json));
            object.extend(compliance.iter().flat_map(Compliance::to_json));
            object.extend(console.iter().flat_map(Console::to_json));
            object.extend(rekeying.iter().flat_map(Rekeying::to_json));
        }
        println!("{}", serde_json::to_string_pretty(&json)?);
        return Ok(());
    }

    print!("{}", stages.to_text());
    println!("  encrypted decision, product to opened bit {:>8.2} ms CPU", stages.decision_cpu_ms());
    println!("\nbytes");
    println!("  template at rest            {:>11}", stages.template_bytes);
    println!("  public key                  {:>11}", keys.public.to_bytes().len());
    println!("  evaluation key at rest      {evaluation_key_bytes:>11}");
    println!("  evaluation key in memory    {:>11}", keys.evaluation.memory_bytes());
    let spec = pipeline.card().match_spec();
    println!("\nnoise of a decision, in {} units", spec.metric.as_str());
    println!("  standard deviation          {:>11.5}", noise::deviation(&spec)?.decision);
    for (rate, &threshold) in &spec.thresholds {
        let zone = noise::grey_zone(&spec, threshold)?;
        println!("  grey zone at {rate}           {:>11.4} ± {zone:.4}", threshold.0);
    }
    if let Some(rekeying) = &rekeying {
        print!("{}", rekeying.to_text());
    }
    if let Some(service) = &service {
        print!("{}", service.to_text());
    }
    if let Some(access) = &access {
        print!("{}", access.to_text());
    }
    if let Some(compliance) = &compliance {
        print!("{}", compliance.to_text());
    }
    if let Some(console) = &console {
        print!("{}", console.to_text());
    }
    Ok(())
}

/// Models and fresh keys of all parties, in this process.
pub struct Workshop {
    pub pipeline: FacePipeline,
    pub keys: stages::Keys,
    /// At rest.
    evaluation_key_bytes: usize,
}

impl Workshop {
    pub fn open(face: &FaceSettings) -> Result<Self> {
        let spinner = progress::spinner("making keys, loading models");
        let runtime = Runtime::open(&face.onnxruntime)?;
        let pipeline = FacePipeline::load(&runtime, &face.models_dir, face.embedder.as_ref(), 1)?;
        let set = keys::generate();
        let evaluation_key_bytes = set.evaluation.to_bytes().len();
        let keys = stages::Keys { public: set.public, secret: set.secret, evaluation: set.evaluation.expand() };
        spinner.finish_and_clear();
        Ok(Self { pipeline, keys, evaluation_key_bytes })
    }
}

/// The value below which `share` of the sorted values lie.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let index = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(index.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::percentile;

    #[test]
    fn percentiles_are_measured_values() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(
            (percentile(&values, 0.5), percentile(&values, 0.95), percentile(&values, 1.0)),
            (50.0, 95.0, 100.0)
        );
        assert_eq!(percentile(&[7.0], 0.5), 7.0);
    }
}
