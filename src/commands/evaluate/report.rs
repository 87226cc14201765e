//! The results in words and as JSON.

use std::{collections::BTreeMap, fmt::Write as _};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use super::{
    Compared, Reading,
    pairs::PairList,
    roc::{Point, Scores, Share},
};
use crate::domain::{
    decision::FalseMatchRate,
    matching::{MatchSpec, Metric, Threshold},
};

/// An encrypted decision that differs from the unencrypted one.
pub struct Disagreement {
    pub rate: FalseMatchRate,
    pub outside_grey_zone: bool,
}

pub struct Report {
    spec: MatchSpec,
    images: usize,
    pairs: usize,
    /// Photos without an embedding, by the code of the refusal.
    refused: BTreeMap<&'static str, usize>,
    /// Photos that the quality gate would refuse, by the code of the reason.
    shortcomings: BTreeMap<&'static str, usize>,
    below_quality: usize,
    scores: Scores,
    groups: BTreeMap<String, Group>,
    disagreements: Option<Vec<Disagreement>>,
    encrypted_decisions: usize,
}

/// Pairs of one value of the group column.
#[derive(Default)]
struct Group {
    genuine: Vec<f64>,
    impostor: Vec<f64>,
}

impl Report {
    pub fn new(
        spec: &MatchSpec,
        list: &PairList,
        readings: &[Reading],
        compared: &[Compared<'_>],
        disagreements: Option<Vec<Disagreement>>,
    ) -> Result<Self> {
        let (mut refused, mut shortcomings, mut below_quality) = (BTreeMap::new(), BTreeMap::new(), 0);
        for reading in readings {
            match reading {
                Reading::Refused(code) => *refused.entry(*code).or_default() += 1,
                Reading::Embedded { shortcomings: reasons, .. } => {
                    below_quality += usize::from(!reasons.is_empty());
                    reasons.iter().for_each(|reason| *shortcomings.entry(*reason).or_default() += 1);
                }
            }
        }
        let mut groups: BTreeMap<String, Group> = BTreeMap::new();
        let mut all = Group::default();
        for pair in compared {
            let score = likeness(spec, pair.value);
            let named = pair.pair.group.as_ref().map(|name| groups.entry(name.clone()).or_default());
            for group in std::iter::once(&mut all).chain(named) {
                if pair.pair.genuine { group.genuine.push(score) } else { group.impostor.push(score) }
            }
        }
        let scores = Scores::new(all.genuine, all.impostor)
            .context("error rates need both pairs of one person and pairs of two; one kind is missing")?;
        Ok(Self {
            spec: spec.clone(),
            images: list.images.len(),
            pairs: list.pairs.len(),
            refused,
            shortcomings,
            below_quality,
            scores,
            groups,
            encrypted_decisions: disagreements.as_ref().map_or(0, |_| compared.len() * spec.thresholds.len()),
            disagreements,
        })
    }

    pub fn scores(&self) -> &Scores {
        &self.scores
    }

    /// Where the model card's thresholds lie on this data.
    pub fn card_points(&self) -> Vec<Point> {
        self.spec.thresholds.values().map(|&threshold| self.scores.at(self.boundary(threshold))).collect()
    }

    fn boundary(&self, threshold: Threshold) -> f64 {
        likeness(&self.spec, threshold.0)
    }

    fn undetected(&self) -> usize {
        self.refused.values().sum()
    }

    fn outside_grey_zone(&self) -> Option<usize> {
        let count = |found: &Vec<Disagreement>| found.iter().filter(|one| one.outside_grey_zone).count();
        self.disagreements.as_ref().map(count)
    }

    pub fn to_json(&self) -> Value {
        let by_rate = |value: &dyn Fn(FalseMatchRate) -> Value| -> Map<String, Value> {
            FalseMatchRate::ALL.iter().map(|&rate| (rate.to_string(), value(rate))).collect()
        };
        let tar = |rate: FalseMatchRate| self.scores.tar_at(rate.value());
        let card = self.spec.thresholds.iter().map(|(rate, &threshold)| {
            let Point { fmr, fnmr, .. } = self.scores.at(self.boundary(threshold));
            (rate.to_string(), json!({ "threshold": threshold.0, "fmr": fmr, "tar": 1.0 - fnmr }))
        });
        json!({
            "model": self.spec.model.as_str(),
            "metric": self.spec.metric.as_str(),
            "images": self.images,
            "undetected": self.undetected(),
            "refused": self.refused,
            "below_quality": self.below_quality,
            "pairs": self.pairs,
            "genuine": self.scores.genuine_count(),
            "impostor": self.scores.impostor_count(),
            "eer": self.scores.eer().equal_error_rate(),
            "tar": by_rate(&|rate| json!(tar(rate).1.value)),
            "tar_interval_95": by_rate(&|rate| json!([tar(rate).1.low, tar(rate).1.high])),
            "thresholds": by_rate(&|rate| json!(value(&self.spec, tar(rate).0))),
            "card": card.collect::<Map<_, _>>(),
            "encrypted_decisions": self.encrypted_decisions,
            "disagreements": self.disagreements.as_ref().map(Vec::len),
            "outside_grey_zone": self.outside_grey_zone(),
            "groups": self.groups.iter().map(|(name, group)| (name.clone(), self.group_json(group))).collect::<Map<_, _>>(),
        })
    }

    fn group_json(&self, group: &Group) -> Value {
        let rates = self.spec.thresholds.iter().map(|(rate, &threshold)| {
            let (fmr, tar) = self.group_rates(group, threshold);
            (rate.to_string(), json!({ "fmr": finite(fmr), "tar": finite(tar) }))
        });
        json!({
            "genuine": group.genuine.len(),
            "impostor": group.impostor.len(),
            "card": rates.collect::<Map<_, _>>(),
        })
    }

    fn group_rates(&self, group: &Group, threshold: Threshold) -> (Share, Share) {
        let accepted = |scores: &[f64]| {
            Share::of(scores.iter().filter(|&&score| score >= self.boundary(threshold)).count(), scores.len())
        };
        (accepted(&group.impostor), accepted(&group.genuine))
    }

    pub fn to_text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.write_text(&mut text);
        text
    }

    fn write_text(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "model               {} ({})", self.spec.model, self.spec.metric.as_str())?;
        writeln!(out, "photos              {}, {} without an embedding", self.images, self.undetected())?;
        for (code, count) in &self.refused {
            writeln!(out, "                    {count:>6}  {code}")?;
        }
        writeln!(out, "below quality gate  {} (used here all the same)", self.below_quality)?;
        for (code, count) in &self.shortcomings {
            writeln!(out, "                    {count:>6}  {code}")?;
        }
        let (genuine, impostor) = (self.scores.genuine_count(), self.scores.impostor_count());
        writeln!(
            out,
            "pairs compared      {} of {} ({genuine} genuine, {impostor} impostor)",
            genuine + impostor,
            self.pairs
        )?;
        writeln!(out, "equal error rate    {}", percent(self.scores.eer().equal_error_rate()))?;
        writeln!(out, "\non this data        threshold     TAR   95 % interval")?;
        for rate in FalseMatchRate::ALL {
            let (score, tar) = self.scores.tar_at(rate.value());
            let few = (impostor as f64) < 1.0 / rate.value();
            let note = if few { "  (too few impostors: at no false match)" } else { "" };
            let threshold = value(&self.spec, score);
            writeln!(out, "  FAR {rate}          {threshold:>9.4} {}   {}{note}", percent(tar.value), interval(tar))?;
        }
        writeln!(out, "\nat the card's       threshold     FMR      TAR")?;
        for (rate, &threshold) in &self.spec.thresholds {
            let point = self.scores.at(self.boundary(threshold));
            let (fmr, tar) = (percent(point.fmr), percent(1.0 - point.fnmr));
            writeln!(out, "  {rate}              {:>9.4} {fmr} {tar}", threshold.0)?;
        }
        self.write_groups(out)?;
        self.write_disagreements(out)
    }

    fn write_groups(&self, out: &mut String) -> std::fmt::Result {
        if self.groups.is_empty() {
            return Ok(());
        }
        write!(out, "\n{:<20}{:>8}{:>10}", "group", "genuine", "impostor")?;
        for rate in self.spec.thresholds.keys() {
            write!(out, "{:>11}{:>11}", format!("FMR {rate}"), format!("TAR {rate}"))?;
        }
        writeln!(out)?;
        for (name, group) in &self.groups {
            write!(out, "{name:<20}{:>8}{:>10}", group.genuine.len(), group.impostor.len())?;
            for &threshold in self.spec.thresholds.values() {
                let (fmr, tar) = self.group_rates(group, threshold);
                write!(out, "{:>11}{:>11}", percent(fmr.value), percent(tar.value))?;
            }
            writeln!(out)?;
        }
        Ok(())
    }

    fn write_disagreements(&self, out: &mut String) -> std::fmt::Result {
        let Some(found) = &self.disagreements else { return Ok(()) };
        writeln!(out, "\nencrypted decisions {}", self.encrypted_decisions)?;
        writeln!(out, "differ from plain   {}", found.len())?;
        for rate in FalseMatchRate::ALL {
            let count = found.iter().filter(|one| one.rate == rate).count();
            writeln!(out, "                    {count:>6}  at {rate}")?;
        }
        writeln!(out, "outside grey zone   {}", self.outside_grey_zone().unwrap_or_default())
    }
}

/// Larger means more alike, whatever the metric.
fn likeness(spec: &MatchSpec, value: f64) -> f64 {
    match spec.metric {
        Metric::SquaredEuclid => -value,
        Metric::Cosine => value,
    }
}

/// Back from a likeness to the metric.
fn value(spec: &MatchSpec, likeness: f64) -> f64 {
    match spec.metric {
        Metric::SquaredEuclid => -likeness,
        Metric::Cosine => likeness,
    }
}

fn finite(share: Share) -> Option<f64> {
    share.value.is_finite().then_some(share.value)
}

fn percent(share: f64) -> String {
    if share.is_finite() { format!("{:>6.2} %", 100.0 * share) } else { format!("{:>8}", "-") }
}

fn interval(share: Share) -> String {
    format!("{:.1} to {:.1} %", 100.0 * share.low, 100.0 * share.high)
}
