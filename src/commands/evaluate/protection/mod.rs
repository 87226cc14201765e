//! `velum evaluate --protection`: what stolen templates are worth to a thief who has everything of an edge and nothing of the
//! keyholder, in the three terms of ISO/IEC 24745: irreversibility, unlinkability, renewability.
//!
//! Every attack is also made with the keyholder's secret in hand, or on templates that are not encrypted. It succeeds there, so
//! that failing here says something about the protection and not about the attack.

mod attacks;
mod crowd;
mod linkage;
mod regression;
mod report;

use anyhow::{Context, Result};
use serde::Serialize;

use self::{
    attacks::{Attack, Thief},
    crowd::Crowd,
    linkage::Linkage,
};
use super::{super::bench::rekey::Rekeying, on_all_cores};
use crate::{
    commands::{bench::stages::Keys, progress},
    domain::decision::FalseMatchRate,
    face::manifest::Manifest,
    fhe::{
        encode::{QuantizedProbe, QuantizedTemplate},
        keys,
        twin::PlaintextTwin,
    },
    settings::FaceSettings,
};

/// Of the people and of the resampling. What is encrypted has randomness of its own, so figures differ a little each time.
const SEED: u64 = 24_745;

#[derive(Debug, Serialize)]
pub struct Protection {
    model: String,
    dimension: usize,
    /// Persons of the crowd whose templates are attacked.
    people: usize,
    seed: u64,
    irreversibility: Vec<Attack>,
    unlinkability: Unlinkability,
    renewability: Renewability,
}

/// Two templates of two photos, each in the hands of another tenant: is it one person?
#[derive(Debug, Serialize)]
struct Unlinkability {
    /// Tenants of one installation have one key of the encryption.
    one_key: Scores,
    /// Two installations have two.
    two_keys: Scores,
    /// The control: the same pairs without encryption.
    unprotected: Linkage,
}

#[derive(Debug, Serialize)]
struct Scores {
    /// How near the two ciphertexts are to each other, over all coefficients.
    nearness: Linkage,
    /// The same with weights for each coefficient that a regression learnt from pairs of the thief's own.
    learnt: Linkage,
}

#[derive(Debug, Serialize)]
struct Renewability {
    templates: usize,
    old_accepted: usize,
    renewed_matched: usize,
    renewed_compared: usize,
}

impl Protection {
    pub fn measure(settings: &FaceSettings, people: usize, templates: usize) -> Result<Self> {
        anyhow::ensure!(people >= attacks::CANDIDATES, "fewer people than a thief chooses from");
        let manifest = Manifest::read(&settings.models_dir)?;
        let spec = manifest.embedder(settings.embedder.as_ref())?.match_spec();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let crowd = Crowd::new(&spec, SEED)?;
        let [ours, theirs] = [fresh_keys(), fresh_keys()];
        let thief = Thief { crowd: &crowd, keys: &ours, people, cores };
        let renewed = Rekeying::measure(&spec, &crowd.photo(0, 0)?, &ours, templates)?;
        Ok(Self {
            model: spec.model.to_string(),
            dimension: spec.dimension,
            people,
            seed: SEED,
            irreversibility: vec![
                thief.learns_faces()?,
                thief.guesses_and_compares()?,
                thief.asks_without_the_keyholder()?,
            ],
            unlinkability: Unlinkability {
                one_key: link(&thief, &ours)?,
                two_keys: link(&thief, &theirs)?,
                unprotected: link_unprotected(&crowd, people)?,
            },
            renewability: Renewability {
                templates: renewed.templates,
                old_accepted: renewed.old_accepted,
                renewed_matched: renewed.matched,
                renewed_compared: renewed.compared,
            },
        })
    }
}

fn fresh_keys() -> Keys {
    let spinner = progress::spinner("making keys");
    let set = keys::generate();
    let keys = Keys { public: set.public, secret: set.secret, evaluation: set.evaluation.expand() };
    spinner.finish_and_clear();
    keys
}

/// Of each person, how far apart the coefficients of a template here lie from those of one there, and from a stranger's.
fn link(thief: &Thief<'_>, theirs: &Keys) -> Result<Scores> {
    let bar = progress::counted("linking tenants", thief.people);
    let distances = on_all_cores(thief.people, thief.cores, &bar, |person| {
        let here = thief.template(thief.keys, person, 0)?.stolen();
        let there = |person| anyhow::Ok(attacks::distances(&here, &thief.template(theirs, person, 1)?.stolen()));
        Ok((there(person)?, there(person + thief.people)?))
    })?;
    let (mated, non_mated): (Vec<_>, Vec<_>) = distances.into_iter().unzip();
    let nearness = |rows: &[Vec<f32>]| rows.iter().map(|row| -attacks::length(row)).collect::<Vec<_>>();
    let (mated_learnt, non_mated_learnt) = attacks::learnt_scores(&mated, &non_mated);
    Ok(Scores {
        nearness: measured(&nearness(&mated), &nearness(&non_mated))?,
        learnt: measured(&mated_learnt, &non_mated_learnt)?,
    })
}

fn link_unprotected(crowd: &Crowd, people: usize) -> Result<Linkage> {
    let spec = crowd.spec();
    let score = |one: usize, other: usize| {
        let probe = QuantizedProbe::encode(spec, &crowd.photo(one as u64, 0)?)?;
        let template = QuantizedTemplate::encode(spec, &crowd.photo(other as u64, 1)?)?;
        anyhow::Ok(PlaintextTwin.score(&probe, &template, spec.thresholds[&FalseMatchRate::E3]) as f64)
    };
    let mated = (0..people).map(|person| score(person, person)).collect::<Result<Vec<_>>>()?;
    let non_mated = (0..people).map(|person| score(person, person + people)).collect::<Result<Vec<_>>>()?;
    measured(&mated, &non_mated)
}

fn measured(mated: &[f64], non_mated: &[f64]) -> Result<Linkage> {
    Linkage::measure(mated, non_mated, SEED).context("there are no pairs to link")
}
