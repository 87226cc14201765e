//! The shapes of access tokens: bought, and asked about.

use serde::Serialize;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        ObjectBuilder, RefOr, Schema,
        schema::{SchemaType, Type},
    },
};

use crate::auth::{
    Scope,
    jwt::{TokenConfig, VerifiedToken},
};

/// An access token (RFC 6749, section 5.1).
#[derive(Serialize, ToSchema)]
pub struct TokenBody {
    pub access_token: String,
    #[schema(example = "Bearer")]
    pub token_type: &'static str,
    /// Seconds.
    pub expires_in: u64,
    /// Space-separated; absent where the client has none.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schema(required = false)]
    pub scope: String,
}

/// What an access token says (RFC 7662, section 2.2); of one that is not good, nothing but that.
#[derive(Serialize, ToSchema)]
pub struct IntrospectionBody {
    pub active: bool,
    #[serde(flatten)]
    #[schema(value_type = IntrospectedToken)]
    pub token: Option<IntrospectedToken>,
}

/// There only of a token that is good: none of it is required.
#[derive(Serialize, ToSchema)]
pub struct IntrospectedToken {
    /// Space-separated; absent where the token has none.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schema(required = false)]
    scope: String,
    #[schema(required = false)]
    client_id: String,
    #[schema(required = false, example = "Bearer")]
    token_type: &'static str,
    /// Seconds since 1970, UTC; `iat` as well.
    #[schema(required = false)]
    exp: i64,
    #[schema(required = false)]
    iat: i64,
    /// The client: there is no user behind client credentials.
    #[schema(required = false)]
    sub: String,
    #[schema(required = false)]
    aud: String,
    #[schema(required = false)]
    iss: String,
    #[schema(required = false)]
    jti: String,
    #[schema(required = false)]
    tenant: String,
}

impl IntrospectionBody {
    pub fn of(token: Option<VerifiedToken>, config: &TokenConfig) -> Self {
        let token = token.map(|token| IntrospectedToken {
            scope: token.principal.scopes.to_string(),
            client_id: token.principal.client.to_string(),
            token_type: "Bearer",
            exp: token.expires_at,
            iat: token.issued_at,
            sub: token.principal.client.to_string(),
            aud: config.audience.clone(),
            iss: config.issuer.clone(),
            jti: token.token_id,
            tenant: token.principal.tenant.to_string(),
        });
        Self { active: token.is_some(), token }
    }
}

/// The name of a scope, for the document.
pub struct ScopeName;

impl PartialSchema for ScopeName {
    fn schema() -> RefOr<Schema> {
        let names = Scope::ALL.map(Scope::as_str);
        ObjectBuilder::new().schema_type(SchemaType::Type(Type::String)).enum_values(Some(names)).into()
    }
}

impl ToSchema for ScopeName {}
