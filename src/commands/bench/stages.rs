//! CPU time of each stage of a verification, on one core, in this process.

use std::{hint::black_box, time::Duration};

use anyhow::Result;
use cpu_time::ThreadTime;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::percentile;
use crate::{
    commands::progress,
    domain::{
        decision::FalseMatchRate,
        face::{MultipleFaces, UploadedImage},
    },
    face::{FacePipeline, FaceReading},
    fhe::{
        decide,
        encode::{QuantizedProbe, QuantizedTemplate},
        encrypt::EncryptedTemplate,
        keys::{EvaluationKey, PublicKey, SecretKeys},
    },
};

/// All parties' keys in one hand.
pub struct Keys {
    pub public: PublicKey,
    pub secret: SecretKeys,
    pub evaluation: EvaluationKey,
}

/// Stages in the order of a verification, each with its times in milliseconds, sorted.
pub struct Stages {
    times_ms: Vec<(&'static str, Vec<f64>)>,
    pub template_bytes: usize,
}

/// From the external product to the opened bit.
const DECISION: [&str; 4] = ["external product", "key switch", "bootstrap", "opening"];

impl Stages {
    pub fn measure(pipeline: &FacePipeline, keys: &Keys, photo: &[u8], runs: usize) -> Result<Self> {
        let bar = progress::counted("timing stages", runs);
        let mut stages = Self { times_ms: vec![], template_bytes: 0 };
        // One run more, not counted: plans and caches are made in it.
        for run in 0..=runs {
            if run == 1 {
                stages.times_ms.clear();
            }
            stages.run_once(pipeline, keys, photo)?;
            bar.inc(1);
        }
        bar.finish_and_clear();
        stages.times_ms.iter_mut().for_each(|(_, times)| times.sort_by(f64::total_cmp));
        Ok(stages)
    }

    fn run_once(&mut self, pipeline: &FacePipeline, keys: &Keys, photo: &[u8]) -> Result<()> {
        let image = UploadedImage::new(Zeroizing::new(photo.to_vec()))?;
        let FaceReading { embedding, stages, .. } = pipeline.embed(image, MultipleFaces::Refuse)?;
        self.push("decode", stages.decode);
        self.push("detect", stages.detect);
        self.push("align and quality", stages.align);
        self.push("embed", stages.embed);

        let spec = pipeline.card().match_spec();
        let template = QuantizedTemplate::encode(&spec, &embedding)?;
        let template = self.time("template encryption", || keys.public.encrypt_template(template));
        let bytes = self.time("template to bytes", || template.to_bytes());
        self.template_bytes = bytes.len();
        let template = self.time("template from bytes", || EncryptedTemplate::from_bytes(&bytes, template.key_id()))?;

        let probe = QuantizedProbe::encode(&spec, &embedding)?;
        let probe = self.time("probe encryption", || keys.public.encrypt_probe(probe));
        let threshold = spec.thresholds[&FalseMatchRate::E3];
        let shifted = self.time("external product", || {
            keys.evaluation.score(&probe, &template).and_then(|score| decide::shift(&score, threshold))
        })?;
        let small = self.time("key switch", || keys.evaluation.switch_key(&shifted));
        let decision = self.time("bootstrap", || keys.evaluation.bootstrap(&small));
        self.time("opening", || keys.secret.open(&decision))?;
        Ok(())
    }

    fn time<T>(&mut self, stage: &'static str, work: impl FnOnce() -> T) -> T {
        let start = ThreadTime::now();
        let result = black_box(work());
        self.push(stage, start.elapsed());
        result
    }

    fn push(&mut self, stage: &'static str, time: Duration) {
        let time_ms = time.as_secs_f64() * 1e3;
        match self.times_ms.iter_mut().find(|(name, _)| *name == stage) {
            Some((_, times)) => times.push(time_ms),
            None => self.times_ms.push((stage, vec![time_ms])),
        }
    }

    /// Median of one stage.
    pub fn cpu_ms(&self, stage: &str) -> f64 {
        self.times_ms.iter().find(|(name, _)| *name == stage).map_or(f64::NAN, |(_, times)| percentile(times, 0.5))
    }

    pub fn decision_cpu_ms(&self) -> f64 {
        DECISION.iter().map(|stage| self.cpu_ms(stage)).sum()
    }

    pub fn to_json(&self) -> Map<String, Value> {
        self.times_ms.iter().map(|(name, times)| ((*name).to_owned(), percentile(times, 0.5).into())).collect()
    }

    pub fn to_text(&self) -> String {
        let mut text = format!("{:<28}{:>11}{:>11}\n", "stage, one core", "median ms", "p95 ms");
        for (name, times) in &self.times_ms {
            text += &format!("  {name:<26}{:>11.3}{:>11.3}\n", percentile(times, 0.5), percentile(times, 0.95));
        }
        text
    }
}
