//! The shapes of verifications.

use serde::Serialize;
use utoipa::ToSchema;

use super::{QualityBody, Timestamp};
use crate::{domain::decision::Decision, flows::verify::Verification};

/// The answer of a 1:1 comparison: yes or no, and under which rule. There is no score, here or anywhere.
#[derive(Debug, Serialize, ToSchema)]
pub struct VerificationBody {
    #[schema(example = "ver_0193512ab4c87d0e8f6a5b4c3d2e1f00")]
    pub id: String,
    pub subject_id: String,
    pub decision: DecisionWord,
    pub model: String,
    /// `squared_euclid` or `cosine`.
    /// Absent for a past verification under a model that is no longer loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric: Option<&'static str>,
    /// The decision boundary in the unit of the metric.
    pub threshold: f64,
    /// One impostor in how many passes at this threshold, measured as the model card says.
    #[schema(example = "1e-3")]
    pub false_match_rate: &'static str,
    /// What was seen in the image; only in the answer to a verification.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quality: Option<QualityBody>,
    pub created_at: Timestamp,
}

impl From<Verification> for VerificationBody {
    fn from(verification: Verification) -> Self {
        Self {
            id: verification.id.to_string(),
            subject_id: verification.subject.to_string(),
            decision: verification.decision.into(),
            model: verification.model.to_string(),
            metric: verification.metric.map(|metric| metric.as_str()),
            threshold: verification.threshold.0,
            false_match_rate: verification.false_match_rate.as_str(),
            quality: verification.quality.map(QualityBody::from),
            created_at: verification.created_at.into(),
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DecisionWord {
    Match,
    NoMatch,
}

impl From<Decision> for DecisionWord {
    fn from(decision: Decision) -> Self {
        match decision {
            Decision::Match => Self::Match,
            Decision::NoMatch => Self::NoMatch,
        }
    }
}
