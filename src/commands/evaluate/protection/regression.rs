//! The thief's teacher: linear regression with a small ridge, from what was seen to what is sought. Solved in its dual form,
//! for there are more things seen than examples.

/// Share of a coordinate's own variance that is added: keeps the system solvable.
const RIDGE: f64 = 1e-2;

pub struct Regression {
    /// Of each coordinate of what was seen, over the examples.
    means: Vec<f32>,
    deviations: Vec<f32>,
    /// Of what is sought.
    offsets: Vec<f64>,
    /// For each thing sought, the weight of each coordinate.
    weights: Vec<Vec<f32>>,
}

impl Regression {
    /// From examples: what was seen, and what was behind it. At least one.
    pub fn learn(seen: &[Vec<f32>], sought: &[Vec<f32>]) -> Self {
        let (means, deviations) = spread(seen);
        let rows: Vec<Vec<f32>> = seen.iter().map(|row| standardised(row, &means, &deviations)).collect();
        let outputs = sought.first().map_or(0, Vec::len);
        let count = sought.len().max(1) as f64;
        let offsets: Vec<f64> =
            (0..outputs).map(|output| sought.iter().map(|row| f64::from(row[output])).sum::<f64>() / count).collect();
        let lower = cholesky(&rows, RIDGE * means.len() as f64);
        let weights = (0..outputs).map(|output| {
            let targets = sought.iter().map(|row| f64::from(row[output]) - offsets[output]).collect();
            let shares = solve(&lower, targets);
            let mut weights = vec![0f32; means.len()];
            for (row, share) in rows.iter().zip(shares) {
                weights.iter_mut().zip(row).for_each(|(weight, x)| *weight += share as f32 * x);
            }
            weights
        });
        Self { weights: weights.collect(), means, deviations, offsets }
    }

    pub fn guess(&self, seen: &[f32]) -> Vec<f64> {
        let row = standardised(seen, &self.means, &self.deviations);
        self.weights.iter().zip(&self.offsets).map(|(weights, offset)| offset + dot(weights, &row)).collect()
    }
}

fn spread(rows: &[Vec<f32>]) -> (Vec<f32>, Vec<f32>) {
    let columns = rows.first().map_or(0, Vec::len);
    let count = rows.len().max(1) as f64;
    let of_column = |column: usize| {
        let mean = rows.iter().map(|row| f64::from(row[column])).sum::<f64>() / count;
        let variance = rows.iter().map(|row| (f64::from(row[column]) - mean).powi(2)).sum::<f64>() / count;
        (mean as f32, variance.sqrt() as f32)
    };
    (0..columns).map(of_column).unzip()
}

/// A coordinate that never changes says nothing.
fn standardised(row: &[f32], means: &[f32], deviations: &[f32]) -> Vec<f32> {
    let scaled = row.iter().zip(means).zip(deviations);
    scaled.map(|((x, mean), deviation)| if *deviation > 0.0 { (x - mean) / deviation } else { 0.0 }).collect()
}

fn dot(one: &[f32], other: &[f32]) -> f64 {
    f64::from(one.iter().zip(other).map(|(x, y)| x * y).sum::<f32>())
}

/// The lower triangle L with L·Lᵀ = rows·rowsᵀ + ridge.
fn cholesky(rows: &[Vec<f32>], ridge: f64) -> Vec<Vec<f64>> {
    let mut lower: Vec<Vec<f64>> = Vec::with_capacity(rows.len());
    for (i, row) in rows.iter().enumerate() {
        let mut line = Vec::with_capacity(i + 1);
        for j in 0..=i {
            let before: f64 = if j < i {
                line.iter().zip(&lower[j]).take(j).map(|(x, y): (&f64, &f64)| x * y).sum()
            } else {
                line.iter().map(|x| x * x).sum()
            };
            let rest = dot(row, &rows[j]) - before;
            line.push(if j < i { rest / lower[j][j] } else { (rest + ridge).sqrt() });
        }
        lower.push(line);
    }
    lower
}

/// x with L·Lᵀ·x = targets.
fn solve(lower: &[Vec<f64>], mut targets: Vec<f64>) -> Vec<f64> {
    for i in 0..targets.len() {
        let known: f64 = lower[i][..i].iter().zip(&targets).map(|(x, y)| x * y).sum();
        targets[i] = (targets[i] - known) / lower[i][i];
    }
    for i in (0..targets.len()).rev() {
        targets[i] /= lower[i][i];
        let solved = targets[i];
        targets[..i].iter_mut().zip(&lower[i]).for_each(|(target, x)| *target -= solved * x);
    }
    targets
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;

    fn draw(rng: &mut Rng, count: usize) -> Vec<f32> {
        (0..count).map(|_| rng.f32() - 0.5).collect()
    }

    #[test]
    fn what_hangs_together_linearly_is_learnt_and_what_does_not_is_not() {
        let mut rng = Rng::with_seed(1);
        let truth = |seen: &[f32]| vec![3.0 + seen[0] - 2.0 * seen[7], 10.0 * seen[3]];
        let seen: Vec<_> = (0..300).map(|_| draw(&mut rng, 40)).collect();
        let sought: Vec<_> = seen.iter().map(|row| truth(row)).collect();
        let regression = Regression::learn(&seen, &sought);
        let unrelated: Vec<_> = (0..300).map(|_| draw(&mut rng, 2)).collect();
        let lost = Regression::learn(&seen, &unrelated);
        let (mut near, mut correlated) = (0, 0.0);
        for _ in 0..200 {
            let new = draw(&mut rng, 40);
            let (guess, truth) = (regression.guess(&new), truth(&new));
            near += usize::from(guess.iter().zip(&truth).all(|(guess, truth)| (guess - f64::from(*truth)).abs() < 0.2));
            correlated += lost.guess(&new)[0] * f64::from(draw(&mut rng, 1)[0]);
        }
        assert_eq!(near, 200);
        assert!((correlated / 200.0).abs() < 0.02, "{correlated}");
    }

    #[test]
    fn fewer_examples_than_coordinates_are_remembered_exactly_but_for_the_ridge() {
        let mut rng = Rng::with_seed(2);
        let seen: Vec<_> = (0..20).map(|_| draw(&mut rng, 100)).collect();
        let sought: Vec<_> = (0..20).map(|_| draw(&mut rng, 1)).collect();
        let regression = Regression::learn(&seen, &sought);
        for (seen, sought) in seen.iter().zip(&sought) {
            assert!((regression.guess(seen)[0] - f64::from(sought[0])).abs() < 0.05);
        }
    }
}
