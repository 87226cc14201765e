//! Work that is done later, by whichever worker comes first.

use std::{fmt, str::FromStr};

use time::Duration;

/// What is to be done. A kind without a handler in `flows::jobs` does not compile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobKind {
    /// A controller is told how its request stands.
    Callback,
    /// Audit logs that have grown are signed.
    Checkpoints,
    /// A person is erased.
    Erasure,
    /// A package that answered an access request is taken away.
    PackageExpiry,
    /// What was kept long enough is deleted.
    Retention,
}

impl JobKind {
    pub const ALL: [Self; 5] = [Self::Callback, Self::Checkpoints, Self::Erasure, Self::PackageExpiry, Self::Retention];

    /// Whether somebody outside is waited for, who may take his time.
    pub fn waits_for_others(self) -> bool {
        self == Self::Callback
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Callback => "callback",
            Self::Checkpoints => "checkpoints",
            Self::Erasure => "erasure",
            Self::PackageExpiry => "package_expiry",
            Self::Retention => "retention",
        }
    }
}

impl fmt::Display for JobKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for JobKind {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or(())
    }
}

/// How often a job is begun before it is given up: about twelve hours, which outlast a bad night.
pub const ATTEMPTS_MAX: u32 = 24;

/// How long after its `attempt`th failure a job is tried again: twice as long each time, up to an hour. `chance`, from 0 to 1,
/// takes up to half of it away, so that what failed together is not tried together.
pub fn delay_after(attempt: u32, chance: f64) -> Duration {
    const FIRST: Duration = Duration::seconds(10);
    const LONGEST: Duration = Duration::HOUR;
    let doublings = attempt.saturating_sub(1).min(10); // ten are past an hour
    let delay = (FIRST * 2_i32.pow(doublings)).min(LONGEST);
    delay * (1.0 - chance.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_doubles_up_to_an_hour_and_is_shortened_by_half_at_most() {
        let delays = [1, 2, 3, 9, 10, 20, u32::MAX].map(|attempt| delay_after(attempt, 0.0).whole_seconds());
        assert_eq!(delays, [10, 20, 40, 2_560, 3_600, 3_600, 3_600]);
        assert_eq!(delay_after(1, 1.0), Duration::seconds(5));
        assert_eq!(delay_after(20, 7.0), Duration::minutes(30));
    }

    #[test]
    fn a_job_that_fails_all_night_is_not_given_up_before_morning() {
        let least: Duration = (1..ATTEMPTS_MAX).map(|attempt| delay_after(attempt, 1.0)).sum();
        assert!(least > Duration::hours(6), "{least}");
    }

    #[test]
    fn every_kind_is_read_from_its_name() {
        for kind in JobKind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(kind));
        }
        assert_eq!("rekey".parse::<JobKind>(), Err(()));
    }
}
