//! The answer of a comparison, and the error rate at which it was asked.

use std::{fmt, str::FromStr};

/// What comes out of a comparison. There is no score: d + 1 scores against chosen vectors solve for a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    Match,
    NoMatch,
}

impl Decision {
    pub fn is_match(self) -> bool {
        self == Self::Match
    }
}

/// The false-match rates (ISO/IEC 19795-1) at which a model card states a threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FalseMatchRate {
    /// One impostor in 100.
    E2,
    /// One impostor in 1,000.
    E3,
    /// One impostor in 10,000.
    E4,
}

impl FalseMatchRate {
    pub const ALL: [Self; 3] = [Self::E2, Self::E3, Self::E4];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::E2 => "1e-2",
            Self::E3 => "1e-3",
            Self::E4 => "1e-4",
        }
    }

    pub fn value(self) -> f64 {
        match self {
            Self::E2 => 1e-2,
            Self::E3 => 1e-3,
            Self::E4 => 1e-4,
        }
    }
}

impl fmt::Display for FalseMatchRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a false-match rate is one of 1e-2, 1e-3, 1e-4")]
pub struct InvalidFalseMatchRate;

impl FromStr for FalseMatchRate {
    type Err = InvalidFalseMatchRate;

    fn from_str(text: &str) -> Result<Self, InvalidFalseMatchRate> {
        Self::ALL.into_iter().find(|rate| rate.as_str() == text).ok_or(InvalidFalseMatchRate)
    }
}
