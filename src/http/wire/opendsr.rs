//! The shapes of OpenDSR 2.0. Its names are the specification's; a member that we do not know is no mistake here, for others
//! extend them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Timestamp, checked_text, parsed, parsed_if_given};
use crate::{
    domain::opendsr::RequestStatus,
    flows::{
        Flows,
        opendsr::{self, API_VERSION, NewRequest, Standing},
    },
    http::problem::{FieldProblem, Problem},
};

const IDENTITIES_MAX: usize = 10;
const CALLBACKS_MAX: usize = 5;
/// The one kind of identity that a person can be found by: others are not kept.
const IDENTITY_TYPE: &str = "controller_customer_id";
const IDENTITY_FORMAT: &str = "raw";
const REQUEST_TYPE: &str = "erasure";

/// The wish of a person, passed on by a controller.
#[derive(Debug, Deserialize, ToSchema)]
pub struct OpenDsrRequestBody {
    /// Made by you: a UUID of version 4. The same request sent again is the same request.
    #[schema(
        pattern = "^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$",
        example = "a7551968-d5d6-44b2-9831-815ac9017798"
    )]
    pub subject_request_id: String,
    /// `erasure`; others are refused.
    #[schema(example = "erasure")]
    pub subject_request_type: String,
    /// When the person asked you (RFC 3339).
    #[schema(example = "2026-11-20T12:00:00Z")]
    pub submitted_time: Timestamp,
    /// `gdpr`, `ccpa` or `dpdp`: says until when; absent: the service's own.
    #[serde(default)]
    #[schema(pattern = "^(gdpr|dpdp|ccpa)$", example = "gdpr")]
    pub regulation: Option<String>,
    /// Of one person, 1 to 10. Those of a type or format that is not supported are passed over, as long as one is.
    #[schema(min_items = 1, max_items = 10)]
    pub subject_identities: Vec<IdentityBody>,
    #[serde(default)]
    #[schema(example = "2.0")]
    pub api_version: Option<String>,
    /// Told of every change of the request. At most 5, https alone, on the public Internet.
    #[serde(default)]
    #[schema(max_items = 5)]
    pub status_callback_urls: Vec<String>,
}

/// What a person is called.
#[derive(Debug, Deserialize, ToSchema)]
pub struct IdentityBody {
    /// `controller_customer_id`.
    #[schema(example = "controller_customer_id")]
    pub identity_type: String,
    /// Your `external_ref` of the person, or our id.
    #[schema(min_length = 1, max_length = 255, example = "member-4711")]
    pub identity_value: String,
    /// `raw`.
    #[schema(example = "raw")]
    pub identity_format: String,
}

impl OpenDsrRequestBody {
    pub fn read(self, flows: &Flows, body: Vec<u8>) -> Result<NewRequest, Problem> {
        match self.subject_request_type.as_str() {
            REQUEST_TYPE => {}
            "access" | "portability" => {
                return Err(Problem::unprocessable("request_type_unsupported", "Erasure alone can be asked for here."));
            }
            _ => return Err(Problem::invalid_field("subject_request_type", "is none of erasure, access, portability")),
        }
        let major = self.api_version.as_deref().and_then(|version| version.split('.').next());
        if !matches!(major, None | Some("1" | "2")) {
            return Err(Problem::invalid_field("api_version", "is none that is spoken here; 2.0 is"));
        }
        check_addresses(flows, &self.status_callback_urls)?;
        Ok(NewRequest {
            id: parsed("subject_request_id", &self.subject_request_id)?,
            names: names(self.subject_identities)?,
            regulation: parsed_if_given("regulation", self.regulation.as_deref())?,
            submitted_at: self.submitted_time.0,
            callback_urls: self.status_callback_urls,
            body,
        })
    }
}

fn names(identities: Vec<IdentityBody>) -> Result<Vec<String>, Problem> {
    if !(1..=IDENTITIES_MAX).contains(&identities.len()) {
        return Err(Problem::invalid_field("subject_identities", format!("has 1 to {IDENTITIES_MAX} members")));
    }
    let supported = |identity: &IdentityBody| {
        identity.identity_type == IDENTITY_TYPE && identity.identity_format == IDENTITY_FORMAT
    };
    let names = identities.into_iter().filter(supported);
    let names: Vec<String> = names
        .map(|identity| checked_text("subject_identities", identity.identity_value, 255))
        .collect::<Result<_, _>>()?;
    if names.is_empty() {
        let detail = format!("No identity is of type {IDENTITY_TYPE} in format {IDENTITY_FORMAT}.");
        return Err(Problem::unprocessable("identity_unsupported", detail));
    }
    Ok(names)
}

fn check_addresses(flows: &Flows, addresses: &[String]) -> Result<(), Problem> {
    if addresses.len() > CALLBACKS_MAX {
        return Err(Problem::invalid_field("status_callback_urls", format!("has at most {CALLBACKS_MAX} members")));
    }
    for (place, address) in addresses.iter().enumerate() {
        opendsr::check_address(flows, address).map_err(|refusal| {
            let (pointer, code) = (format!("/status_callback_urls/{place}"), "address_refused".to_owned());
            Problem::invalid(FieldProblem { pointer, code, detail: refusal.to_string() })
        })?;
    }
    Ok(())
}

/// A request was taken.
#[derive(Debug, Serialize, ToSchema)]
pub struct OpenDsrReceiptBody {
    /// Your tenant.
    #[schema(example = "ten_0193512ab4c87d0e8f6a5b4c3d2e1f00")]
    pub controller_id: String,
    /// Until when the law wants it done; it is done sooner.
    pub expected_completion_time: Timestamp,
    pub received_time: Timestamp,
    /// Base64 of the body that you sent.
    pub encoded_request: String,
    pub subject_request_id: String,
}

/// Where a request is.
#[derive(Debug, Serialize, ToSchema)]
pub struct OpenDsrStatusBody {
    pub controller_id: String,
    pub expected_completion_time: Timestamp,
    pub subject_request_id: String,
    /// `pending`, `in_progress`, `completed` or `cancelled`.
    #[schema(example = "completed")]
    pub request_status: &'static str,
    pub api_version: &'static str,
    /// The certificate of the erasure, when there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub results_url: Option<String>,
    /// What the specification has no word for, under the service's domain.
    pub extensions: BTreeMap<String, OpenDsrExtensionBody>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct OpenDsrExtensionBody {
    /// Of the erasure request: also says that it is on hold, or was rejected.
    #[schema(example = "completed")]
    pub state: &'static str,
    /// Of a rejection or a hold.
    pub reason: Option<String>,
    /// `null`: nobody was found under these identities, and nothing was to be done.
    pub erasure_request_id: Option<String>,
}

impl OpenDsrStatusBody {
    pub fn of(flows: &Flows, standing: Standing) -> Self {
        let (state, erasure) = (standing.state(), standing.erasure);
        let certified = erasure.as_ref().filter(|erasure| erasure.certificate.is_some());
        let issuer = &flows.tokens().config().issuer;
        Self {
            controller_id: standing.request.tenant.to_string(),
            expected_completion_time: standing.request.due_at.into(),
            subject_request_id: standing.request.id.to_string(),
            request_status: RequestStatus::from(state).as_str(),
            api_version: API_VERSION,
            results_url: certified.map(|erasure| format!("{issuer}/v1/erasure-requests/{}/certificate", erasure.id)),
            extensions: [(
                flows.opendsr().domain.clone(),
                OpenDsrExtensionBody {
                    state: state.as_str(),
                    erasure_request_id: erasure.as_ref().map(|erasure| erasure.id.to_string()),
                    reason: erasure.and_then(|erasure| erasure.reason),
                },
            )]
            .into(),
        }
    }
}

/// A request was cancelled.
#[derive(Debug, Serialize, ToSchema)]
pub struct OpenDsrCancellationBody {
    pub controller_id: String,
    pub subject_request_id: String,
    /// Of the cancellation.
    pub received_time: Timestamp,
    pub api_version: &'static str,
}

/// What can be asked for here, and what signatures are checked with.
#[derive(Debug, Serialize, ToSchema)]
pub struct OpenDsrDiscoveryBody {
    #[schema(example = "2.0")]
    pub api_version: &'static str,
    pub supported_identities: Vec<SupportedIdentityBody>,
    pub supported_subject_request_types: Vec<&'static str>,
    /// Absent where the operator had none issued: then the key set alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub processor_certificate: Option<String>,
    /// Not of the specification: the public keys as a JWK set, each named as in the header `X-OpenDSR-Key-Id`.
    pub processor_jwks: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct SupportedIdentityBody {
    pub identity_type: &'static str,
    pub identity_format: &'static str,
}

impl OpenDsrDiscoveryBody {
    pub fn of(flows: &Flows) -> Self {
        let issuer = &flows.tokens().config().issuer;
        Self {
            api_version: API_VERSION,
            supported_identities: vec![SupportedIdentityBody {
                identity_type: IDENTITY_TYPE,
                identity_format: IDENTITY_FORMAT,
            }],
            supported_subject_request_types: vec![REQUEST_TYPE],
            processor_certificate: flows
                .opendsr()
                .certificate
                .is_some()
                .then(|| format!("{issuer}/opendsr/v1/certificate.pem")),
            processor_jwks: format!("{issuer}/.well-known/evidence-jwks.json"),
        }
    }
}
