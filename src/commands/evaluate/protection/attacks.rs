//! The thief: holds stored rows past their seal, the public key, the evaluation key and photos of everybody. What is missing is
//! the keyholder's secret.

use anyhow::Result;
use serde::Serialize;

use super::{
    super::{on_all_cores, roc::Share},
    crowd::Crowd,
    regression::Regression,
};
use crate::{
    commands::{bench::stages::Keys, progress},
    domain::decision::FalseMatchRate,
    fhe::{
        encode::{QuantizedProbe, QuantizedTemplate},
        encrypt::EncryptedTemplate,
    },
};

/// Persons among whom the owner of a stolen row is looked for.
pub const CANDIDATES: usize = 10;

/// How often an attack succeeded, and how often it does with the keyholder's secret.
#[derive(Debug, Serialize)]
pub struct Attack {
    pub name: &'static str,
    pub trials: usize,
    pub chance: f64,
    pub success: Share,
    /// How many standard deviations of pure chance above chance.
    pub deviations: f64,
    pub with_the_secret: Share,
}

impl Attack {
    fn new(name: &'static str, trials: usize, chance: f64, successes: usize, with_the_secret: usize) -> Self {
        let expected = chance * trials as f64;
        Self {
            name,
            trials,
            chance,
            success: Share::of(successes, trials),
            deviations: (successes as f64 - expected) / (expected * (1.0 - chance)).sqrt(),
            with_the_secret: Share::of(with_the_secret, trials),
        }
    }
}

pub struct Thief<'a> {
    pub crowd: &'a Crowd,
    pub keys: &'a Keys,
    pub people: usize,
    pub cores: usize,
}

/// Of the three: the row, what the secret makes of it, and what is in it.
struct Seen {
    stolen: Vec<f32>,
    read: Vec<f32>,
    truth: Vec<f32>,
}

impl Thief<'_> {
    /// As it rests in the database, after its seal was opened.
    pub fn template(&self, keys: &Keys, person: usize, photo: u64) -> Result<EncryptedTemplate> {
        let quantised = QuantizedTemplate::encode(self.crowd.spec(), &self.crowd.photo(person as u64, photo)?)?;
        let fresh = keys.public.encrypt_template(quantised);
        Ok(EncryptedTemplate::from_bytes(&fresh.to_bytes(), keys.public.key_id())?)
    }

    fn seen(&self, what: &'static str, people: std::ops::Range<usize>, photo: u64) -> Result<Vec<Seen>> {
        let bar = progress::counted(what, people.len());
        on_all_cores(people.len(), self.cores, &bar, |index| {
            let person = people.start + index;
            let template = self.template(self.keys, person, photo)?;
            let (stolen, read) = (template.stolen(), self.keys.secret.read_stolen(&template));
            Ok(Seen { stolen, read, truth: self.face(person, photo)? })
        })
    }

    /// The quantised components, without the norm.
    fn face(&self, person: usize, photo: u64) -> Result<Vec<f32>> {
        let spec = self.crowd.spec();
        let mut face = QuantizedTemplate::encode(spec, &self.crowd.photo(person as u64, photo)?)?.unprotected();
        face.truncate(spec.dimension);
        Ok(face)
    }

    /// Encrypts faces of the thief's own, learns to draw a face from a ciphertext, draws the stolen ones, and looks for the
    /// person who is most like each drawing.
    pub fn learns_faces(&self) -> Result<Attack> {
        // People whom nobody else is asked about.
        let own = 2 * self.people..2 * self.people + self.people.div_ceil(2);
        let (own, victims) = (self.seen("a thief learns", own, 0)?, self.seen("a thief draws", 0..self.people, 0)?);
        let photos = (0..self.people).map(|person| self.face(person, 1)).collect::<Result<Vec<_>>>()?;
        let faces: Vec<_> = own.iter().map(|seen| seen.truth.clone()).collect();
        let picked = |view: fn(&Seen) -> &Vec<f32>| {
            let examples: Vec<_> = own.iter().map(|seen| view(seen).clone()).collect();
            let regression = Regression::learn(&examples, &faces);
            let drawn: Vec<_> = victims.iter().map(|seen| regression.guess(view(seen))).collect();
            picked_right(self.people, |victim, candidate| {
                let pairs = drawn[victim].iter().zip(&photos[candidate]);
                pairs.map(|(x, y)| (x - f64::from(*y)).powi(2)).sum()
            })
        };
        let chance = 1.0 / CANDIDATES as f64;
        let name = "regression from stolen row to face, then the most similar of ten persons";
        Ok(Attack::new(name, self.people, chance, picked(|seen| &seen.stolen), picked(|seen| &seen.read)))
    }

    /// Encrypts a photo of each candidate under the public key, and takes the one whose ciphertext is nearest to the stolen row.
    pub fn guesses_and_compares(&self) -> Result<Attack> {
        let victims = self.seen("a thief guesses", 0..self.people, 0)?;
        let guesses = self.seen("a thief compares", 0..self.people, 1)?;
        let picked = |view: fn(&Seen) -> &Vec<f32>| {
            picked_right(self.people, |victim, candidate| {
                length(&distances(view(&victims[victim]), view(&guesses[candidate])))
            })
        };
        let chance = 1.0 / CANDIDATES as f64;
        let name = "encryption of a photo of each of ten persons, then the ciphertext nearest to the stolen row";
        Ok(Attack::new(name, self.people, chance, picked(|seen| &seen.stolen), picked(|seen| &seen.read)))
    }

    /// Compares stolen rows with photos, as an edge does, and tries to learn from decisions whose outcome is known (faces of the
    /// thief's own) how to read those that only the keyholder can open.
    pub fn asks_without_the_keyholder(&self) -> Result<Attack> {
        let asked = self.people.div_ceil(2);
        let own = self.decisions(2 * self.people, asked)?;
        let stolen = self.decisions(0, asked)?;
        let examples: Vec<_> = own.iter().map(|decision| decision.stolen.clone()).collect();
        let outcomes: Vec<_> = own.iter().map(|decision| vec![if decision.same { 1.0 } else { -1.0 }]).collect();
        let regression = Regression::learn(&examples, &outcomes);
        let read = |decision: &&Known| (regression.guess(&decision.stolen)[0] > 0.0) == decision.same;
        let successes = stolen.iter().filter(read).count();
        let opened = stolen.iter().filter(|decision| decision.opened == decision.same).count();
        let name = "comparison with a photo, then regression from encrypted decision to outcome";
        Ok(Attack::new(name, asked, 0.5, successes, opened))
    }

    fn decisions(&self, first: usize, count: usize) -> Result<Vec<Known>> {
        let spec = self.crowd.spec();
        let bar = progress::counted("a thief asks", count);
        on_all_cores(count, self.cores, &bar, |index| {
            let (person, same) = (first + index, index % 2 == 0);
            let shown = if same { person } else { person + self.people };
            let probe = QuantizedProbe::encode(spec, &self.crowd.photo(shown as u64, 1)?)?;
            let probe = self.keys.public.encrypt_probe(probe);
            let score = self.keys.evaluation.score(&probe, &self.template(self.keys, person, 0)?)?;
            let decision = self.keys.evaluation.decide(score, spec.thresholds[&FalseMatchRate::E3])?;
            let opened = self.keys.secret.open(&decision)?.is_match();
            Ok(Known { stolen: decision.stolen(), same, opened })
        })
    }
}

/// An encrypted decision about a pair of photos.
struct Known {
    stolen: Vec<f32>,
    /// Whether both were of one person.
    same: bool,
    /// What the keyholder would say.
    opened: bool,
}

/// Of how many victims the nearest of ten candidates is the right one. Who is as near as another one is not picked.
fn picked_right(people: usize, distance: impl Fn(usize, usize) -> f64) -> usize {
    let right = |victim: &usize| {
        let own = distance(*victim, *victim);
        (1..CANDIDATES).all(|step| distance(*victim, (victim + step) % people) > own)
    };
    (0..people).filter(right).count()
}

/// Between coefficients: the shorter way round, in turns.
pub fn distances(one: &[f32], other: &[f32]) -> Vec<f32> {
    one.iter().zip(other).map(|(x, y)| (x - y - (x - y).round()).abs()).collect()
}

pub fn length(distances: &[f32]) -> f64 {
    distances.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()
}

/// What a regression that has learnt from a third of the pairs says about the others: larger is more alike.
pub fn learnt_scores(mated: &[Vec<f32>], non_mated: &[Vec<f32>]) -> (Vec<f64>, Vec<f64>) {
    let own = mated.len() / 3;
    let examples = [&mated[..own], &non_mated[..own]].concat();
    let outcomes: Vec<_> = (0..2 * own).map(|index| vec![if index < own { 1.0 } else { -1.0 }]).collect();
    let regression = Regression::learn(&examples, &outcomes);
    let score = |pairs: &[Vec<f32>]| pairs[own..].iter().map(|pair| regression.guess(pair)[0]).collect();
    (score(mated), score(non_mated))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_go_the_shorter_way_round() {
        let found = distances(&[0.4, -0.1, 0.0], &[-0.4, 0.2, 0.5]);
        for (found, expected) in found.iter().zip([0.2, 0.3, 0.5]) {
            assert!((found - expected).abs() < 1e-6, "{found} against {expected}");
        }
    }

    #[test]
    fn the_owner_is_picked_only_when_nearer_than_all_others() {
        assert_eq!(picked_right(20, |victim, candidate| if victim == candidate { 0.0 } else { 1.0 }), 20);
        assert_eq!(picked_right(20, |_, _| 1.0), 0, "a draw is no success");
        assert_eq!(picked_right(20, |victim, candidate| if victim == candidate { 1.0 } else { 0.5 }), 0);
    }

    #[test]
    fn success_is_told_in_deviations_from_chance() {
        let attack = Attack::new("", 10_000, 0.1, 1_060, 10_000);
        assert!((attack.deviations - 2.0).abs() < 1e-9 && attack.with_the_secret.value == 1.0);
    }
}
