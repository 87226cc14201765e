//! How failed verifications slow down the next one.

use time::Duration;

/// So many failures in a row cost nothing; each one after that doubles the wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttemptRule {
    pub free: u32,
}

impl AttemptRule {
    /// After the first failure too many.
    const FIRST_DELAY: Duration = Duration::seconds(30);
    const LONGEST_DELAY: Duration = Duration::DAY;

    /// How long after the `failures`th failure in a row there is no further attempt.
    pub fn delay(self, failures: i64) -> Duration {
        match u32::try_from(failures - i64::from(self.free)) {
            Err(_) | Ok(0) => Duration::ZERO,
            // Twelve doublings are past a day.
            Ok(beyond) => (Self::FIRST_DELAY * 2_i32.pow((beyond - 1).min(12))).min(Self::LONGEST_DELAY),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_grows_from_the_first_failure_too_many_up_to_a_day() {
        let rule = AttemptRule { free: 5 };
        let delays: Vec<i64> =
            [0, 1, 5, 6, 7, 8, 17, 18, 1_000_000].map(|failures| rule.delay(failures).whole_seconds()).into();
        assert_eq!(delays, [0, 0, 0, 30, 60, 120, 61_440, 86_400, 86_400]);
    }
}
