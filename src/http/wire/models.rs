//! The shapes of the models in use.

use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::{decision::FalseMatchRate, matching::MatchSpec};

/// A model in use, with the error rates at which it may be asked.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelBody {
    #[schema(example = "dlib-resnet29-v1+daddffdb")]
    pub id: String,
    pub metric: &'static str,
    /// Length of the embedding.
    pub dimension: usize,
    /// The encryption parameters that templates are made under.
    pub parameters: String,
    pub thresholds: Vec<ThresholdBody>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ThresholdBody {
    #[schema(example = "1e-3")]
    pub false_match_rate: &'static str,
    pub threshold: f64,
    /// Taken when a request names no rate.
    pub is_default: bool,
}

impl ModelBody {
    pub fn new(spec: &MatchSpec, parameters: &str, default: FalseMatchRate) -> Self {
        let thresholds = spec.thresholds.iter().map(|(rate, threshold)| ThresholdBody {
            false_match_rate: rate.as_str(),
            threshold: threshold.0,
            is_default: *rate == default,
        });
        Self {
            id: spec.model.to_string(),
            metric: spec.metric.as_str(),
            dimension: spec.dimension,
            parameters: parameters.to_owned(),
            thresholds: thresholds.collect(),
        }
    }
}
