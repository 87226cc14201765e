//! Templates brought under another key: what it costs, and what the old ones are worth afterwards.

use std::{hint::black_box, thread};

use anyhow::{Result, bail};
use cpu_time::ThreadTime;
use serde_json::{Map, Value, json};

use super::{percentile, stages::Keys};
use crate::{
    commands::progress,
    domain::{decision::FalseMatchRate, face::Embedding, matching::MatchSpec},
    fhe::{
        Matcher as _,
        encode::{QuantizedProbe, QuantizedTemplate},
        encrypt::EncryptedTemplate,
        keys,
        rekey::Rekey,
        twin::EncryptedMatcher,
    },
};

/// Of the renewed templates, one in so many is compared with its person.
const COMPARED_EVERY: usize = 50;

pub struct Rekeying {
    pub templates: usize,
    /// Sorted milliseconds of CPU for one key switch, from bytes to bytes.
    times_ms: Vec<f64>,
    /// Old templates that the new key took, of all.
    pub old_accepted: usize,
    /// Renewed templates that matched their person, of those compared.
    pub matched: usize,
    pub compared: usize,
}

impl Rekeying {
    /// Enrols one face `templates` times under the old key, and brings each of them under a new one.
    pub fn measure(spec: &MatchSpec, embedding: &Embedding, old: &Keys, templates: usize) -> Result<Self> {
        let set = keys::generate();
        let new = Keys { public: set.public, secret: set.secret, evaluation: set.evaluation.expand() };
        let rekey = old.secret.rekey_to(&new.secret);
        let bar = progress::counted("re-keying", templates);
        let workers = thread::available_parallelism().map_or(1, usize::from);
        let (bar_of_all, new, rekey) = (&bar, &new, &rekey);
        let parts: Vec<Result<Self>> = thread::scope(|scope| {
            let work = |first: usize| {
                move || {
                    let mut part = Self::nothing();
                    for index in (first..templates).step_by(workers) {
                        part.rekey_one(spec, embedding, old, new, rekey, index)?;
                        bar_of_all.inc(1);
                    }
                    Ok(part)
                }
            };
            let threads: Vec<_> = (0..workers).map(|first| scope.spawn(work(first))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| bail!("a thread ended early"))).collect()
        });
        bar.finish_and_clear();
        let mut all = Self::nothing();
        for part in parts {
            let part = part?;
            all.templates += part.templates;
            all.times_ms.extend(part.times_ms);
            all.old_accepted += part.old_accepted;
            (all.matched, all.compared) = (all.matched + part.matched, all.compared + part.compared);
        }
        all.times_ms.sort_by(f64::total_cmp);
        Ok(all)
    }

    fn nothing() -> Self {
        Self { templates: 0, times_ms: vec![], old_accepted: 0, matched: 0, compared: 0 }
    }

    fn rekey_one(
        &mut self,
        spec: &MatchSpec,
        embedding: &Embedding,
        old: &Keys,
        new: &Keys,
        rekey: &Rekey,
        index: usize,
    ) -> Result<()> {
        let template = old.public.encrypt_template(QuantizedTemplate::encode(spec, embedding)?);
        let bytes = template.to_bytes();
        let start = ThreadTime::now();
        let renewed = rekey.apply(&EncryptedTemplate::from_bytes(&bytes, rekey.from())?, &new.public)?;
        let renewed = black_box(renewed.to_bytes());
        self.times_ms.push(start.elapsed().as_secs_f64() * 1e3);
        self.templates += 1;

        let compare = index.is_multiple_of(COMPARED_EVERY);
        self.old_accepted += usize::from(EncryptedTemplate::from_bytes(&bytes, rekey.to()).is_ok());
        if compare {
            let matcher = EncryptedMatcher { public: &new.public, evaluation: &new.evaluation, secret: &new.secret };
            let probe = new.public.encrypt_probe(QuantizedProbe::encode(spec, embedding)?);
            let threshold = spec.thresholds[&FalseMatchRate::E3];
            self.old_accepted += usize::from(matcher.decide(&probe, &template, threshold).is_ok());
            let renewed = EncryptedTemplate::from_bytes(&renewed, rekey.to())?;
            self.matched += usize::from(matcher.decide(&probe, &renewed, threshold)?.is_match());
            self.compared += 1;
        }
        Ok(())
    }

    pub fn to_json(&self) -> Map<String, Value> {
        let figures = json!({
            "rekeyed_templates": self.templates,
            "rekey_cpu_ms": percentile(&self.times_ms, 0.5),
            "old_templates_accepted": self.old_accepted,
            "renewed_templates_compared": self.compared,
            "renewed_templates_matched": self.matched,
        });
        figures.as_object().cloned().unwrap_or_default()
    }

    pub fn to_text(&self) -> String {
        let Self { templates, times_ms, old_accepted, matched, compared } = self;
        format!(
            "\nre-keying, from bytes to bytes\n  one template, one core      {:>11.3} ms\n  \
             old templates accepted under the new key: {old_accepted} of {templates}\n  \
             renewed templates that match their person: {matched} of {compared}\n",
            percentile(times_ms, 0.5)
        )
    }
}
