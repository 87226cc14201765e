//! People who do not exist: embeddings as the model's would be, made from a seed.
//!
//! A person is a direction drawn at random in the model's space; each photo of that person is the direction with normal noise
//! in every component, so that two photos of one person lie half a threshold apart and two persons almost at right angles.
//! Real faces of two persons are more alike and photos of one more different: for who wants to link or to guess, this crowd is
//! the easier one.

use std::f64::consts::TAU;

use anyhow::{Context, Result};
use fastrand::Rng;
use zeroize::Zeroizing;

use crate::domain::{
    decision::FalseMatchRate,
    face::Embedding,
    matching::{MatchSpec, Metric},
};

/// Length of a prepared vector, as a share of the norm bound: about what the default model's photos have.
const NORM_SHARE: f64 = 0.75;

pub struct Crowd {
    spec: MatchSpec,
    seed: u64,
    /// Direction of the card's mean vector, and how far along it and across it an embedding lies.
    mean: Vec<f64>,
    along: f64,
    across: f64,
    /// Of a photo, in relation to the person's direction.
    noise: f64,
}

impl Crowd {
    pub fn new(spec: &MatchSpec, seed: u64) -> Result<Self> {
        let threshold = spec.thresholds.get(&FalseMatchRate::E3).context("the model card has no threshold at 1e-3")?.0;
        let mean: Vec<f64> = spec.mean.iter().flatten().map(|&x| f64::from(x)).collect();
        let length = norm(&mean);
        let (along, across) = match spec.metric {
            Metric::SquaredEuclid if length > 0.0 => {
                // |mean + c| = 1 for a vector c of this length: so far along the mean, so far across it.
                let centred = NORM_SHARE * spec.norm_bound;
                let along = (1.0 - length * length - centred * centred) / (2.0 * length);
                (length + along, (centred * centred - along * along).max(0.0).sqrt())
            }
            _ => (0.0, 1.0),
        };
        let cosine = match spec.metric {
            Metric::SquaredEuclid => 1.0 - threshold / (4.0 * across * across),
            Metric::Cosine => (1.0 + threshold) / 2.0,
        };
        anyhow::ensure!(across > 0.0 && cosine > 0.0, "no crowd can be made for this model card");
        let mean = mean.iter().map(|x| x / length).collect();
        Ok(Self { spec: spec.clone(), seed, mean, along, across, noise: (1.0 / cosine - 1.0).sqrt() })
    }

    pub fn spec(&self) -> &MatchSpec {
        &self.spec
    }

    /// The same for the same numbers.
    pub fn photo(&self, person: u64, photo: u64) -> Result<Embedding> {
        let direction = self.direction(person, 0);
        let noise = self.direction(person, photo + 1);
        let mut turned: Vec<f64> = direction.iter().zip(&noise).map(|(x, y)| x + self.noise * y).collect();
        scale_to(&mut turned, self.across);
        let along = self.mean.iter().map(|x| x * self.along).chain(std::iter::repeat(0.0));
        let components = turned.iter().zip(along).map(|(x, y)| (x + y) as f32).collect();
        Ok(Embedding::normalised(self.spec.model.clone(), Zeroizing::new(components))?)
    }

    /// A direction at right angles to the mean.
    fn direction(&self, person: u64, number: u64) -> Vec<f64> {
        let mut rng = Rng::with_seed(self.seed ^ (person << 20) ^ number);
        let mut vector: Vec<f64> = (0..self.spec.dimension).map(|_| gauss(&mut rng)).collect();
        let along: f64 = vector.iter().zip(&self.mean).map(|(x, y)| x * y).sum();
        vector.iter_mut().zip(&self.mean).for_each(|(x, y)| *x -= along * y);
        scale_to(&mut vector, 1.0);
        vector
    }
}

/// A draw of the standard normal distribution (Box and Muller).
pub fn gauss(rng: &mut Rng) -> f64 {
    (-2.0 * (1.0 - rng.f64()).ln()).sqrt() * (TAU * rng.f64()).cos()
}

fn norm(vector: &[f64]) -> f64 {
    vector.iter().map(|x| x * x).sum::<f64>().sqrt()
}

fn scale_to(vector: &mut [f64], length: f64) {
    let factor = length / norm(vector);
    vector.iter_mut().for_each(|x| *x *= factor);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::matching::Threshold;

    fn card(metric: Metric, mean: Option<Vec<f32>>) -> MatchSpec {
        let threshold = if metric == Metric::Cosine { 0.3 } else { 0.135 };
        MatchSpec {
            model: "crowd-test".parse().unwrap(),
            metric,
            dimension: 128,
            mean,
            scale: 220.0,
            component_max: 31,
            norm_bound: 0.30f64.sqrt(),
            thresholds: [(FalseMatchRate::E3, Threshold(threshold))].into(),
        }
    }

    #[test]
    fn photos_of_one_person_match_and_photos_of_two_do_not() {
        let mean: Vec<f32> = (0..128).map(|index| if index % 2 == 0 { 0.1 } else { 0.05 }).collect();
        for spec in [card(Metric::SquaredEuclid, Some(mean)), card(Metric::Cosine, None)] {
            let (crowd, threshold) = (Crowd::new(&spec, 1).unwrap(), spec.thresholds[&FalseMatchRate::E3]);
            for person in 0..50 {
                let [one, other] = [0, 1].map(|photo| crowd.photo(person, photo).unwrap());
                assert!(spec.accepts(spec.compare(&one, &other), threshold), "{person}");
                let stranger = crowd.photo(person + 50, 0).unwrap();
                assert!(!spec.accepts(spec.compare(&one, &stranger), threshold), "{person}");
            }
            let again = Crowd::new(&spec, 1).unwrap().photo(7, 1).unwrap();
            assert_eq!(again.expose_components(), crowd.photo(7, 1).unwrap().expose_components());
        }
    }
}
