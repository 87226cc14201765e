//! The shapes of the health checks.

use serde::Serialize;
use utoipa::ToSchema;

/// How the service is doing.
#[derive(Debug, Serialize, ToSchema)]
pub struct HealthBody {
    /// `ok`, `degraded`, `unavailable` or `stopping`.
    #[schema(example = "ok")]
    pub status: &'static str,
    /// By dependency.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<CheckBody>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct CheckBody {
    #[schema(example = "store")]
    pub name: &'static str,
    /// `ok` or `unavailable`.
    pub status: &'static str,
}
