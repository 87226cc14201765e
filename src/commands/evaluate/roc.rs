//! Error rates of a comparison, in the terms of ISO/IEC 19795-1: false-match rate (FMR), false-non-match rate (FNMR),
//! and the threshold where they cross (EER). TAR is 1 - FNMR.

use serde::Serialize;

/// Scores of genuine and of impostor pairs; larger means more alike.
pub struct Scores {
    genuine: Vec<f64>,
    impostor: Vec<f64>,
}

/// One operating point.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    pub score: f64,
    pub fmr: f64,
    pub fnmr: f64,
}

/// A measured share with its 95 % Wilson interval. Pairs that share a photo are not independent, so the interval is a
/// lower bound of the doubt.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Share {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

impl Share {
    pub fn of(successes: usize, trials: usize) -> Self {
        const Z: f64 = 1.959_964;
        if trials == 0 {
            return Self { value: f64::NAN, low: 0.0, high: 1.0 };
        }
        let (n, p) = (trials as f64, successes as f64 / trials as f64);
        let centre = p + Z * Z / (2.0 * n);
        let spread = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
        let scale = 1.0 + Z * Z / n;
        Self { value: p, low: ((centre - spread) / scale).max(0.0), high: ((centre + spread) / scale).min(1.0) }
    }
}

impl Scores {
    /// None where there is nothing to compare: one of the two kinds of pairs is missing.
    pub fn new(mut genuine: Vec<f64>, mut impostor: Vec<f64>) -> Option<Self> {
        if genuine.is_empty() || impostor.is_empty() {
            return None;
        }
        genuine.sort_by(f64::total_cmp);
        impostor.sort_by(f64::total_cmp);
        Some(Self { genuine, impostor })
    }

    pub fn genuine_count(&self) -> usize {
        self.genuine.len()
    }

    pub fn impostor_count(&self) -> usize {
        self.impostor.len()
    }

    /// What happens when pairs scoring `score` or more are accepted.
    pub fn at(&self, score: f64) -> Point {
        let below = |sorted: &[f64]| sorted.partition_point(|&x| x < score);
        let accepted_impostors = self.impostor.len() - below(&self.impostor);
        Point {
            score,
            fmr: accepted_impostors as f64 / self.impostor.len() as f64,
            fnmr: below(&self.genuine) as f64 / self.genuine.len() as f64,
        }
    }

    /// The most permissive threshold that accepts at most `fmr` of the impostors, and the share of genuine pairs it
    /// accepts. With fewer than 1/fmr impostors this is the threshold that accepts none.
    pub fn tar_at(&self, fmr: f64) -> (f64, Share) {
        let allowed = (fmr * self.impostor.len() as f64 + 1e-9).floor() as usize;
        let worst = self.impostor[self.impostor.len() - 1 - allowed.min(self.impostor.len() - 1)];
        let score = if allowed >= self.impostor.len() { worst } else { worst.next_up() };
        let accepted = self.genuine.len() - self.genuine.partition_point(|&x| x < score);
        (score, Share::of(accepted, self.genuine.len()))
    }

    /// Equal error rate: where FMR and FNMR cross, the mean of the two at the nearest threshold.
    pub fn eer(&self) -> Point {
        let mut best = self.at(self.genuine[0]);
        for point in self.curve() {
            if (point.fmr - point.fnmr).abs() < (best.fmr - best.fnmr).abs() {
                best = point;
            }
        }
        best
    }

    /// Operating points at every distinct score, most permissive first.
    pub fn curve(&self) -> impl Iterator<Item = Point> + '_ {
        let mut scores: Vec<f64> = self.genuine.iter().chain(&self.impostor).copied().collect();
        scores.sort_by(f64::total_cmp);
        scores.dedup();
        scores.into_iter().map(|score| self.at(score))
    }
}

impl Point {
    pub fn equal_error_rate(&self) -> f64 {
        (self.fmr + self.fnmr) / 2.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separated_scores_have_no_error() {
        let scores = Scores::new(vec![0.8, 0.9], vec![0.1, 0.2, 0.3]).unwrap();
        assert_eq!(scores.eer().equal_error_rate(), 0.0);
        let (threshold, tar) = scores.tar_at(1e-3);
        assert!(threshold > 0.3 && threshold <= 0.8);
        assert_eq!(tar.value, 1.0);
    }

    #[test]
    fn tar_at_a_false_match_rate_counts_exactly() {
        let impostor: Vec<f64> = (0..100).map(f64::from).collect();
        let scores = Scores::new(vec![10.0, 98.5, 99.0, 200.0], impostor).unwrap();
        let (threshold, tar) = scores.tar_at(0.01);
        assert_eq!(scores.at(threshold).fmr, 0.01);
        assert_eq!(tar.value, 0.75);
        let (threshold, tar) = scores.tar_at(0.0);
        assert_eq!(scores.at(threshold).fmr, 0.0);
        assert_eq!(tar.value, 0.25);
    }

    #[test]
    fn the_equal_error_rate_lies_where_the_rates_cross() {
        let scores = Scores::new(vec![1.0, 3.0, 5.0, 7.0], vec![0.0, 2.0, 4.0, 6.0]).unwrap();
        let eer = scores.eer();
        assert!((eer.equal_error_rate() - 0.5).abs() < 0.13, "{eer:?}");
        assert!((eer.fmr - eer.fnmr).abs() < 0.26);
    }

    #[test]
    fn wilson_intervals_hold_their_share_and_stay_in_range() {
        let share = Share::of(41, 41);
        assert!(share.value == 1.0 && share.low > 0.9 && share.high == 1.0);
        // Wilson 1927: 5 of 10 gives 0.2366 to 0.7634.
        let share = Share::of(5, 10);
        assert!((share.low - 0.2366).abs() < 1e-3 && (share.high - 0.7634).abs() < 1e-3);
    }

    #[test]
    fn one_kind_of_pair_alone_gives_no_rates() {
        assert!(Scores::new(vec![1.0], vec![]).is_none());
        assert!(Scores::new(vec![], vec![1.0]).is_none());
    }
}
