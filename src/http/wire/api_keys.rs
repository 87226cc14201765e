//! The shapes of API keys.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ScopeName, Timestamp, checked_text};
use crate::{
    auth::{Scope, Scopes},
    domain::network::{Network, Networks},
    flows::api_keys::{ApiKeyRow, IssuedApiKey, NewApiKey},
    http::problem::Problem,
};

/// A new API key.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewApiKeyBody {
    /// What people call it. 1 to 100 characters.
    #[schema(min_length = 1, max_length = 100, pattern = "^[^\\x00-\\x1F\\x7F-\\x9F]*$", example = "back office")]
    pub name: String,
    /// What it may do, nothing that its maker may not; none at all opens what needs no scope.
    #[schema(value_type = Vec<ScopeName>, example = json!(["faces:verify"]))]
    pub scopes: Vec<String>,
    /// When it ends by itself, in the future; absent: never.
    #[schema(example = "2099-12-31T23:59:59Z")]
    pub expires_at: Option<Timestamp>,
    /// From where it may be used: 1 to 20 addresses or CIDR networks, IPv4 or IPv6; absent: from everywhere.
    #[schema(min_items = 1, max_items = 20, example = json!(["203.0.113.0/24", "2001:db8::/32"]))]
    pub allowed_networks: Option<Vec<String>>,
}

impl TryFrom<NewApiKeyBody> for NewApiKey {
    type Error = Problem;

    fn try_from(body: NewApiKeyBody) -> Result<Self, Problem> {
        const NAME_LENGTH_MAX: usize = 100;
        let scopes = body.scopes.iter().map(|scope| scope.parse::<Scope>()).collect::<Result<Scopes, _>>();
        let scopes = scopes.map_err(|error| Problem::invalid_field("scopes", &error))?;
        let name = checked_text("name", body.name, NAME_LENGTH_MAX)?;
        let allowed_networks = body.allowed_networks.map(|networks| checked_networks(&networks)).transpose()?;
        Ok(Self { name, scopes, expires_at: body.expires_at.map(|moment| moment.0), allowed_networks })
    }
}

fn checked_networks(texts: &[String]) -> Result<Networks, Problem> {
    const NETWORKS_MAX: usize = 20;
    let invalid = |reason: &dyn ToString| Problem::invalid_field("allowed_networks", reason.to_string());
    if !(1..=NETWORKS_MAX).contains(&texts.len()) {
        return Err(invalid(&format!("names 1 to {NETWORKS_MAX} networks, or is left out")));
    }
    let networks = texts.iter().map(|text| text.parse::<Network>()).collect::<Result<Networks, _>>();
    networks.map_err(|error| invalid(&error))
}

/// How a key is rolled.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RollBody {
    /// For how many seconds the old key lives on: 0 to 604800, a week.
    // JSON knows one kind of number: 60.0 is as whole as 60.
    #[schema(value_type = i64, minimum = 0, maximum = 604800, example = 86400)]
    pub overlap_s: f64,
}

impl RollBody {
    const OVERLAP_S_MAX: f64 = 604_800.0;

    pub fn overlap(&self) -> Result<time::Duration, Problem> {
        if (0.0..=Self::OVERLAP_S_MAX).contains(&self.overlap_s) && self.overlap_s.fract() == 0.0 {
            Ok(time::Duration::seconds(self.overlap_s as i64))
        } else {
            Err(Problem::invalid_field("overlap_s", "is not a whole number within 0 to 604800"))
        }
    }
}

/// An API key, but for the key itself.
#[derive(Debug, Serialize, ToSchema)]
pub struct ApiKeyBody {
    #[schema(example = "key_0193512ab4c87d0e8f6a5b4c3d2e1f00")]
    pub id: String,
    pub name: String,
    /// Its first characters.
    #[schema(example = "velum_live_3f9a02")]
    pub prefix: String,
    pub scopes: Vec<String>,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    pub revoked_at: Option<Timestamp>,
    /// To the minute.
    pub last_used_at: Option<Timestamp>,
    /// The key that took its place, once it was rolled.
    pub successor_id: Option<String>,
    /// From where it may be used; `null`: from everywhere.
    #[schema(example = json!(["203.0.113.0/24", "2001:db8::/32"]))]
    pub allowed_networks: Option<Vec<String>>,
}

impl From<ApiKeyRow> for ApiKeyBody {
    fn from(key: ApiKeyRow) -> Self {
        Self {
            id: key.id.to_string(),
            name: key.name,
            prefix: key.prefix,
            scopes: key.scopes,
            created_at: key.created_at.into(),
            expires_at: key.expires_at.map(Timestamp),
            revoked_at: key.revoked_at.map(Timestamp),
            last_used_at: key.last_used_at.map(Timestamp),
            successor_id: key.successor.map(|id| id.to_string()),
            allowed_networks: key.allowed_networks.map(|networks| networks.iter().map(|one| one.to_string()).collect()),
        }
    }
}

/// A fresh API key: the only answer that holds it.
#[derive(Serialize, ToSchema)]
pub struct IssuedApiKeyBody {
    #[serde(flatten)]
    pub about: ApiKeyBody,
    /// Send it as `Authorization: Bearer …`. Keep it where your server reads its secrets.
    pub key: String,
}

impl From<&IssuedApiKey> for IssuedApiKeyBody {
    fn from(issued: &IssuedApiKey) -> Self {
        Self { key: issued.key.expose_text().to_owned(), about: issued.row.clone().into() }
    }
}
