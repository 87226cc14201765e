//! The shapes of a restriction: a person's data that rest.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Timestamp, parsed};
use crate::{
    domain::restriction::{Ground, Restriction},
    http::problem::Problem,
};

/// Since when, and why, a person's data rest.
#[derive(Debug, Serialize, ToSchema)]
pub struct RestrictionBody {
    /// `accuracy_contested`, `unlawful_processing`, `legal_claims`, `objection` or `other`.
    #[schema(example = "accuracy_contested")]
    pub reason: String,
    pub since: Timestamp,
}

impl From<Restriction> for RestrictionBody {
    fn from(restriction: Restriction) -> Self {
        Self { reason: restriction.ground.as_str().to_owned(), since: restriction.since.into() }
    }
}

/// Why a person's data are to rest.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRestrictionBody {
    /// `accuracy_contested`, `unlawful_processing`, `legal_claims`, `objection` (GDPR, Art. 18(1)(a) to (d)) or `other`.
    #[schema(
        pattern = "^(accuracy_contested|unlawful_processing|legal_claims|objection|other)$",
        example = "accuracy_contested"
    )]
    pub reason: String,
}

impl NewRestrictionBody {
    pub fn ground(&self) -> Result<Ground, Problem> {
        parsed("reason", &self.reason)
    }
}
