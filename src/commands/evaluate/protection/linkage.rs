//! How well a score tells pairs of one person from pairs of two: D_sys of M. Gomez-Barrero, J. Galbally, C. Rathgeb and
//! C. Busch, "General Framework to Evaluate Unlinkability in Biometric Template Protection Systems", IEEE Transactions on
//! Information Forensics and Security 13(6), 2018.
//!
//! With the two kinds of pairs equally likely before the score is seen, LR(s) = p(s | mated) / p(s | non-mated) and
//!
//! ```text
//! D(s)  = 2·LR / (1 + LR) - 1 where LR > 1, else 0        how far a score of s gives the pair away
//! D_sys = ∫ p(s | mated)·D(s) ds                          0: not at all; 1: always
//! ```
//!
//! The densities are histograms here, with bins of equally many scores. A histogram of few scores differs from another one by
//! chance, and D_sys counts every difference: it is never quite 0. So the same is done with the pairs' labels shuffled, where
//! there is nothing to find, and a figure says something as far as it stands out of those.

use fastrand::Rng;
use serde::Serialize;

/// Mated scores of one bin, about: fewer see chance, more see nothing.
const SCORES_OF_BIN: usize = 100;
const BINS_MAX: usize = 100;
/// Samples of the bootstrap, and shufflings.
const REPETITIONS: usize = 200;

/// What a thief's best guess at "the same person?" is worth.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Linkage {
    pub d_sys: f64,
    /// 95 % of the bootstrap's samples.
    pub low: f64,
    pub high: f64,
    /// Of shuffled labels: the mean, and what one in forty exceeds.
    pub shuffled: f64,
    pub shuffled_high: f64,
    pub mated_pairs: usize,
    pub non_mated_pairs: usize,
}

impl Linkage {
    /// `None` where one of the two kinds of pairs is missing.
    pub fn measure(mated: &[f64], non_mated: &[f64], seed: u64) -> Option<Self> {
        let d_sys = d_sys(mated, non_mated)?;
        let mut rng = Rng::with_seed(seed);
        let mut resample =
            |scores: &[f64]| -> Vec<f64> { scores.iter().map(|_| scores[rng.usize(..scores.len())]).collect() };
        let bootstrapped = (0..REPETITIONS).filter_map(|_| self::d_sys(&resample(mated), &resample(non_mated)));
        let bootstrapped = sorted(bootstrapped.collect());
        let mut rng = Rng::with_seed(seed + 1);
        let mut all = [mated, non_mated].concat();
        let shuffled = (0..REPETITIONS).filter_map(|_| {
            rng.shuffle(&mut all);
            self::d_sys(&all[..mated.len()], &all[mated.len()..])
        });
        let shuffled = sorted(shuffled.collect());
        Some(Self {
            d_sys,
            low: quantile(&bootstrapped, 0.025),
            high: quantile(&bootstrapped, 0.975),
            shuffled: shuffled.iter().sum::<f64>() / shuffled.len() as f64,
            shuffled_high: quantile(&shuffled, 0.975),
            mated_pairs: mated.len(),
            non_mated_pairs: non_mated.len(),
        })
    }
}

/// `None` where one of the two kinds of scores is missing.
pub fn d_sys(mated: &[f64], non_mated: &[f64]) -> Option<f64> {
    if mated.is_empty() || non_mated.is_empty() {
        return None;
    }
    let edges = edges(mated, non_mated);
    let shares = |scores: &[f64]| {
        let mut counts = vec![0u32; edges.len() + 1];
        scores.iter().for_each(|score| counts[edges.partition_point(|edge| edge <= score)] += 1);
        counts.into_iter().map(|count| f64::from(count) / scores.len() as f64).collect::<Vec<_>>()
    };
    let bins = shares(mated).into_iter().zip(shares(non_mated));
    // 2·LR/(1 + LR) - 1 = (m - n)/(m + n), which needs no quotient of an empty bin.
    Some(bins.filter(|(m, n)| m > n).map(|(m, n)| m * (m - n) / (m + n)).sum())
}

/// Between bins of equally many scores of both kinds together; equal scores share a bin.
fn edges(mated: &[f64], non_mated: &[f64]) -> Vec<f64> {
    let all = sorted([mated, non_mated].concat());
    let bins = (mated.len().min(non_mated.len()) / SCORES_OF_BIN).clamp(2, BINS_MAX);
    let mut edges: Vec<f64> = (1..bins).map(|bin| all[bin * all.len() / bins]).collect();
    edges.dedup();
    edges
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

fn quantile(sorted: &[f64], share: f64) -> f64 {
    sorted.get((share * sorted.len() as f64) as usize).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::evaluate::protection::crowd::gauss;

    fn normal(count: usize, mean: f64, seed: u64) -> Vec<f64> {
        let mut rng = Rng::with_seed(seed);
        (0..count).map(|_| mean + gauss(&mut rng)).collect()
    }

    #[test]
    fn scores_that_never_overlap_give_every_pair_away() {
        let linkage = Linkage::measure(&normal(5_000, 100.0, 1), &normal(5_000, 0.0, 2), 3).unwrap();
        assert!((linkage.d_sys - 1.0).abs() < 1e-9, "{linkage:?}");
        assert!(linkage.low > 0.98 && linkage.shuffled_high < 0.1, "{linkage:?}");
        // Whichever way round they lie.
        let other_way = d_sys(&normal(5_000, -100.0, 1), &normal(5_000, 0.0, 2)).unwrap();
        assert!((other_way - 1.0).abs() < 1e-9, "{other_way}");
    }

    #[test]
    fn scores_of_one_distribution_give_nothing_away() {
        let linkage = Linkage::measure(&normal(20_000, 0.0, 1), &normal(20_000, 0.0, 2), 3).unwrap();
        assert!(linkage.d_sys < 0.05, "{linkage:?}");
        assert!((linkage.d_sys - linkage.shuffled).abs() < 0.01, "as much as shuffled ones: {linkage:?}");
        assert_eq!(d_sys(&[7.0; 500], &[7.0; 500]), Some(0.0));
    }

    #[test]
    fn half_overlapping_uniform_scores_give_half_of_the_pairs_away() {
        let uniform = |seed, from: f64| {
            let mut rng = Rng::with_seed(seed);
            (0..40_000).map(|_| from + rng.f64()).collect::<Vec<_>>()
        };
        let found = d_sys(&uniform(1, 0.0), &uniform(2, 0.5)).unwrap();
        assert!((found - 0.5).abs() < 0.03, "{found}");
    }

    #[test]
    fn two_normal_distributions_give_what_the_integral_says() {
        for shift in [0.5, 1.0, 2.0] {
            // (m - n)/(m + n) = tanh(shift·(s - shift/2)/2), by the midpoint rule over p(s | mated).
            let density = |s: f64| (-0.5 * (s - shift).powi(2)).exp() / std::f64::consts::TAU.sqrt();
            let step = 1e-3;
            let points = (0..20_000).map(|index| shift / 2.0 + (f64::from(index) + 0.5) * step);
            let exact: f64 = points.map(|s| density(s) * (shift * (s - shift / 2.0) / 2.0).tanh() * step).sum();
            let linkage = Linkage::measure(&normal(20_000, shift, 1), &normal(20_000, 0.0, 2), 3).unwrap();
            assert!((linkage.d_sys - exact).abs() < 0.02, "{} against {exact}", linkage.d_sys);
            assert!(linkage.low - 0.01 < exact && exact < linkage.high + 0.01, "{linkage:?} against {exact}");
        }
    }

    #[test]
    fn one_kind_of_pairs_alone_says_nothing() {
        assert!(d_sys(&[1.0], &[]).is_none() && d_sys(&[], &[1.0]).is_none());
        assert!(Linkage::measure(&[], &[1.0], 1).is_none());
    }
}
