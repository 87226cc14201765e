//! The JSON shapes of requests and answers. Requests refuse unknown members and become domain types by `TryFrom`;
//! answers are made from domain types by `From`. No domain type is ever serialised itself.

mod access_requests;
mod consents;
mod opendsr;

use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use time::{Duration, OffsetDateTime, serde::rfc3339};
use utoipa::{
    IntoParams, PartialSchema, ToSchema,
    openapi::{
        ObjectBuilder, RefOr, Schema,
        schema::{SchemaType, Type},
    },
};

pub use self::{access_requests::*, consents::*, opendsr::*};
use super::problem::Problem;
use crate::{
    audit::Entry,
    auth::{
        Scope, Scopes,
        jwt::{TokenConfig, VerifiedToken},
    },
    domain::{
        decision::{Decision, FalseMatchRate},
        matching::MatchSpec,
        network::{Network, Networks},
        restriction::{Ground, Restriction},
    },
    flows::{
        self, Page, PageRequest,
        account::{HistoryEntry, HistoryKind, TenantCounts},
        api_keys::{ApiKeyRow, IssuedApiKey, NewApiKey},
        erasures::ErasureRequest,
        quality::Quality,
        retention::Kept,
        usage::{Usage, UsageDay},
    },
};

/// A moment, as RFC 3339 writes it; ours are in UTC.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[schema(value_type = String, format = DateTime, example = "2026-11-20T12:00:00Z")]
pub struct Timestamp(#[serde(serialize_with = "rfc3339::serialize", deserialize_with = "in_utc")] pub OffsetDateTime);

/// The last second of the year 9999 in New York is one that UTC has no name for. To the microsecond: what a store keeps, so
/// that an answer says the same later.
fn in_utc<'de, D: Deserializer<'de>>(given: D) -> Result<OffsetDateTime, D::Error> {
    let moment = rfc3339::deserialize(given)?;
    let moment = moment.checked_to_utc().ok_or_else(|| D::Error::custom("a moment beyond the year 9999"))?;
    let moment = OffsetDateTime::from(moment);
    Ok(moment - Duration::nanoseconds(i64::from(moment.nanosecond() % 1_000)))
}

impl From<OffsetDateTime> for Timestamp {
    fn from(moment: OffsetDateTime) -> Self {
        Self(moment)
    }
}

/// A new person.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewSubjectBody {
    /// Your own name for this person. Stored sealed; unique within your tenant. 1 to 255 characters.
    #[schema(min_length = 1, max_length = 255, pattern = "^[^\\x00-\\x1F\\x7F-\\x9F]*$", example = "member-4711")]
    pub external_ref: String,
}

/// What is put right about a person.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SubjectPatchBody {
    /// As for a new person; nobody else of yours has it.
    #[schema(min_length = 1, max_length = 255, pattern = "^[^\\x00-\\x1F\\x7F-\\x9F]*$", example = "member-4711")]
    pub external_ref: String,
}

/// The tenant's own name for a person, checked.
pub struct ExternalRef(pub String);

impl ExternalRef {
    const LENGTH_MAX: usize = 255;

    pub fn parse(text: String) -> Result<Self, Problem> {
        checked_text("external_ref", text, Self::LENGTH_MAX).map(Self)
    }
}

/// Printable, not empty, not too long: what will be shown to an officer one day must be showable. The pattern beside each
/// such member says the same to readers of the document.
fn checked_text(name: &str, text: String, length_max: usize) -> Result<String, Problem> {
    if !(1..=length_max).contains(&text.chars().count()) {
        return Err(Problem::invalid_field(name, format!("is 1 to {length_max} characters long")));
    }
    if text.chars().any(char::is_control) {
        return Err(Problem::invalid_field(name, "holds no control characters"));
    }
    Ok(text)
}

fn parsed<T: FromStr<Err: ToString>>(name: &str, text: &str) -> Result<T, Problem> {
    text.parse().map_err(|error: T::Err| Problem::invalid_field(name, error))
}

/// A parameter or member that may be left out.
pub fn parsed_if_given<T: FromStr<Err: ToString>>(name: &str, text: Option<&str>) -> Result<Option<T>, Problem> {
    text.map(|text| parsed(name, text)).transpose()
}

/// Which page of a list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// Items on a page, 1 to 100; 20 unless told.
    #[param(minimum = 1, maximum = 100)]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

impl TryFrom<PageQuery> for PageRequest {
    type Error = Problem;

    fn try_from(query: PageQuery) -> Result<Self, Problem> {
        PageRequest::new(query.limit, query.cursor.as_deref())
            .map_err(|error| Problem::invalid_field(error.field(), &error))
    }
}

/// Which subjects.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SubjectQuery {
    /// Only the subject of this name.
    #[param(min_length = 1, max_length = 255, pattern = "^[^\\x00-\\x1F\\x7F-\\x9F]*$")]
    pub external_ref: Option<String>,
    /// Items on a page, 1 to 100; 20 unless told.
    #[param(minimum = 1, maximum = 100)]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

/// One page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct PageBody<T> {
    pub data: Vec<T>,
    pub has_more: bool,
    /// Where the next page begins; `null` on the last one.
    pub next_cursor: Option<String>,
}

impl<T> PageBody<T> {
    pub fn of<U>(page: Page<U>, to: impl FnMut(U) -> T) -> Self {
        let Page { items, next_cursor } = page.map(to);
        Self { data: items, has_more: next_cursor.is_some(), next_cursor }
    }
}

/// A person's wish to be erased.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewErasureBody {
    #[schema(example = "sub_0193512ab4c87d0e8f6a5b4c3d2e1f00")]
    pub subject_id: String,
    /// `gdpr`, `dpdp` or `ccpa`: says until when; absent: the service's own.
    #[serde(default)]
    #[schema(pattern = "^(gdpr|dpdp|ccpa)$", example = "gdpr")]
    pub regulation: Option<String>,
    /// When the person asked you (RFC 3339), not in the future; absent: now.
    #[serde(default)]
    #[schema(example = "2026-11-20T12:00:00Z")]
    pub received_at: Option<Timestamp>,
    /// You know already that it was the person who asked: the erasure begins at once.
    #[serde(default)]
    pub verified: bool,
}

/// Why.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReasonBody {
    /// For the record and for the person asked about; it outlives the erasure, so let it name nobody. 1 to 200 characters.
    #[schema(
        min_length = 1,
        max_length = 200,
        pattern = "^[^\\x00-\\x1F\\x7F-\\x9F]*$",
        example = "tax record, until 2031"
    )]
    pub reason: String,
}

impl ReasonBody {
    pub fn reason(self) -> Result<String, Problem> {
        checked_text("reason", self.reason, 200)
    }
}

/// The end of the audit log at a moment, signed.
#[derive(Debug, Serialize, ToSchema)]
pub struct CheckpointBody {
    /// RS256, checked with `/.well-known/evidence-jwks.json`; says tenant, size, last hash, Merkle root and moment.
    pub jws: String,
}

/// Which erasure requests.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ErasureQuery {
    /// Only those in this state.
    #[param(pattern = "^(received|verified|in_progress|completed|rejected|on_hold|cancelled)$")]
    pub state: Option<String>,
    /// Only those for this person; also after the erasure.
    pub subject_id: Option<String>,
    /// Items on a page, 1 to 100; 20 unless told.
    #[param(minimum = 1, maximum = 100)]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

/// A request to erase a person.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErasureRequestBody {
    #[schema(example = "ers_0193512ab4c87d0e8f6a5b4c3d2e1f00")]
    pub id: String,
    /// `null` when the request has ended.
    pub subject_id: Option<String>,
    /// The person, as a keyed hash of the id: in the certificate, and in the audit log.
    pub subject_digest: String,
    #[schema(example = "gdpr")]
    pub regulation: String,
    /// `received`, `verified`, `in_progress`, `completed`, `rejected`, `on_hold` or `cancelled`.
    #[schema(example = "completed")]
    pub state: String,
    /// Of a rejection or a hold.
    pub reason: Option<String>,
    pub received_at: Timestamp,
    /// Until when the law wants it answered.
    pub due_at: Timestamp,
    pub verified_at: Option<Timestamp>,
    pub begun_at: Option<Timestamp>,
    /// When it was completed, rejected or cancelled.
    pub ended_at: Option<Timestamp>,
    /// Rows of the database that were removed, by table; `null` before.
    pub removed: Option<RemovedRowsBody>,
}

/// Rows of the database that were removed, by table. Everything that was destroyed stands in the certificate.
#[derive(Debug, Serialize, ToSchema)]
pub struct RemovedRowsBody {
    pub subjects: usize,
    pub consents: usize,
    pub enrolments: usize,
    pub verifications: usize,
    pub attempts: usize,
    pub idempotency_records: usize,
    /// With their packages.
    pub access_requests: usize,
}

impl From<ErasureRequest> for ErasureRequestBody {
    fn from(request: ErasureRequest) -> Self {
        Self {
            id: request.id.to_string(),
            subject_id: request.subject.map(|subject| subject.to_string()),
            subject_digest: request.subject_digest.to_string(),
            regulation: request.regulation.to_string(),
            state: request.state.to_string(),
            reason: request.reason,
            received_at: request.received_at.into(),
            due_at: request.due_at.into(),
            verified_at: request.verified_at.map(Timestamp),
            begun_at: request.begun_at.map(Timestamp),
            ended_at: request.ended_at.map(Timestamp),
            removed: request.removed.map(|removed| RemovedRowsBody {
                subjects: removed.rows.subjects,
                consents: removed.rows.consents,
                enrolments: removed.rows.enrolments,
                verifications: removed.rows.verifications,
                attempts: removed.rows.attempts,
                idempotency_records: removed.rows.idempotency_records,
                access_requests: removed.rows.access_requests,
            }),
        }
    }
}

/// Which entries of the audit log.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AuditQuery {
    /// Only what concerned this person; also after the erasure.
    pub subject_id: Option<String>,
    /// Only this kind of act.
    #[param(example = "consent.withdrawn")]
    pub action: Option<String>,
    /// Items on a page, 1 to 100; 20 unless told.
    #[param(minimum = 1, maximum = 100)]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

/// One entry of the audit log.
#[derive(Debug, Serialize, ToSchema)]
pub struct AuditEventBody {
    /// Its place in your tenant's log, from 1 without gaps.
    pub sequence: u64,
    /// By our clock, to the microsecond. The order of the log is that of `sequence`.
    #[schema(format = DateTime)]
    pub at: String,
    #[schema(example = "consent.withdrawn")]
    pub action: String,
    /// The id of a credential; `operator` for a command on the host; `service` for what the program does by itself.
    pub actor: String,
    /// The `X-Request-Id` of the request.
    pub request_id: Option<String>,
    /// The person, as a keyed hash of the id.
    pub subject_digest: Option<String>,
    /// The id of what was made, changed or removed.
    pub object: Option<String>,
    /// A code, where there is something to explain.
    pub reason: Option<String>,
}

impl From<Entry> for AuditEventBody {
    fn from(entry: Entry) -> Self {
        Self {
            sequence: entry.sequence,
            at: entry.at,
            action: entry.action,
            actor: entry.actor,
            request_id: entry.request,
            subject_digest: entry.subject,
            object: entry.object,
            reason: entry.reason,
        }
    }
}

/// A person, known to you by `external_ref`.
#[derive(Debug, Serialize, ToSchema)]
pub struct SubjectBody {
    #[schema(example = "sub_0193512ab4c87d0e8f6a5b4c3d2e1f00")]
    pub id: String,
    pub external_ref: String,
    pub created_at: Timestamp,
    /// `null` unless what is known of the person is kept and nothing else may be done with it.
    pub restriction: Option<RestrictionBody>,
}

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

impl From<flows::subjects::Subject> for SubjectBody {
    fn from(subject: flows::subjects::Subject) -> Self {
        Self {
            id: subject.id.to_string(),
            external_ref: subject.external_ref,
            created_at: subject.created_at.into(),
            restriction: subject.restriction.map(RestrictionBody::from),
        }
    }
}

/// A stored, encrypted template.
#[derive(Debug, Serialize, ToSchema)]
pub struct EnrolmentBody {
    #[schema(example = "enr_0193512ab4c87d0e8f6a5b4c3d2e1f00")]
    pub id: String,
    pub subject_id: String,
    /// The model that made the embedding.
    pub model: String,
    /// The encryption parameters.
    pub parameters: String,
    /// Made under another model, parameters or key than those in use: it takes no part in verifications; enrol again.
    pub stale: bool,
    /// What was seen in the image; only in the answer to an enrolment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quality: Option<QualityBody>,
    pub created_at: Timestamp,
}

/// Measured on the face; it says whether another photo would do better, and nothing about whose face it is.
#[derive(Debug, Serialize, ToSchema)]
pub struct QualityBody {
    /// Distance between the eyes in the image as sent, in pixels.
    pub eye_distance_px: f64,
    /// Higher is sharper.
    pub sharpness: f64,
    /// Mean luma of the aligned face, 0 to 255.
    pub brightness: f64,
    /// Standard deviation of that luma.
    pub contrast: f64,
    pub yaw_degrees: f64,
    pub pitch_degrees: f64,
    pub roll_degrees: f64,
    /// Plausible faces in the image, this one included.
    pub faces_seen: usize,
}

impl From<Quality> for QualityBody {
    fn from(quality: Quality) -> Self {
        let Quality { report, faces_seen } = quality;
        // Three decimals say all there is to say.
        let rounded = |value: f64| (value * 1000.0).round() / 1000.0;
        Self {
            eye_distance_px: rounded(report.eye_distance_px),
            sharpness: rounded(report.sharpness),
            brightness: rounded(report.brightness),
            contrast: rounded(report.contrast),
            yaw_degrees: rounded(report.yaw_degrees),
            pitch_degrees: rounded(report.pitch_degrees),
            roll_degrees: rounded(report.roll_degrees),
            faces_seen,
        }
    }
}

impl From<flows::enrol::Enrolment> for EnrolmentBody {
    fn from(enrolment: flows::enrol::Enrolment) -> Self {
        Self {
            id: enrolment.id.to_string(),
            subject_id: enrolment.subject.to_string(),
            model: enrolment.model.to_string(),
            parameters: enrolment.parameters,
            stale: enrolment.stale,
            quality: enrolment.quality.map(QualityBody::from),
            created_at: enrolment.created_at.into(),
        }
    }
}

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

impl From<flows::verify::Verification> for VerificationBody {
    fn from(verification: flows::verify::Verification) -> Self {
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

/// A list that fits one answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct ListBody<T> {
    pub data: Vec<T>,
}

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

/// Who is asking.
#[derive(Debug, Serialize, ToSchema)]
pub struct MeBody {
    /// Of the client or of the API key.
    #[schema(example = "cli_0193512ab4c87d0e8f6a5b4c3d2e1f00")]
    pub id: String,
    pub tenant_id: String,
    pub tenant_name: String,
    pub scopes: Vec<String>,
    /// `live` or `test`.
    #[schema(example = "live")]
    pub environment: &'static str,
}

/// How far back.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct UsageQuery {
    /// Days, today included: 1 to 90; 30 unless told.
    #[param(minimum = 1, maximum = 90)]
    pub days: Option<u32>,
}

impl UsageQuery {
    pub fn days(&self) -> Result<u32, Problem> {
        let days = self.days.unwrap_or(30);
        if (1..=90).contains(&days) { Ok(days) } else { Err(Problem::invalid_field("days", "is not within 1 to 90")) }
    }
}

/// What your tenant used: enrolments and verifications together count against the day's quota.
#[derive(Debug, Serialize, ToSchema)]
pub struct UsageBody {
    pub quota_per_day: u32,
    pub used: i64,
    pub remaining: u64,
    /// The next midnight UTC.
    pub resets_at: Timestamp,
    /// Newest first; days without use are left out.
    pub days: Vec<UsageDayBody>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct UsageDayBody {
    /// UTC.
    #[schema(example = "2026-11-21")]
    pub day: String,
    pub enrolments: i64,
    pub verifications: i64,
}

impl From<Usage> for UsageBody {
    fn from(usage: Usage) -> Self {
        Self {
            quota_per_day: usage.quota_per_day,
            used: usage.today.total(),
            remaining: usage.remaining(),
            resets_at: usage.resets_at.into(),
            days: usage.days.into_iter().map(UsageDayBody::from).collect(),
        }
    }
}

impl From<UsageDay> for UsageDayBody {
    fn from(day: UsageDay) -> Self {
        let UsageDay { day, enrolments, verifications } = day;
        Self { day: flows::usage::date(day).to_string(), enrolments, verifications }
    }
}

/// Which part of the history.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct HistoryQuery {
    /// Only what was done about this person.
    #[param(pattern = "^sub_[0-9a-f]{32}$")]
    pub subject_id: Option<String>,
    /// Items on a page, 1 to 100; 20 unless told.
    #[param(minimum = 1, maximum = 100)]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

/// That something was done, to whom and when; not how it came out.
#[derive(Debug, Serialize, ToSchema)]
pub struct HistoryBody {
    #[schema(example = "ver_0193512ab4c87d0e8f6a5b4c3d2e1f00")]
    pub id: String,
    /// `enrolment` or `verification`.
    #[schema(example = "verification")]
    pub kind: &'static str,
    pub subject_id: String,
    pub model: String,
    /// Of a verification.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub false_match_rate: Option<&'static str>,
    pub created_at: Timestamp,
}

impl From<HistoryEntry> for HistoryBody {
    fn from(entry: HistoryEntry) -> Self {
        let (id, kind, rate) = match entry.kind {
            HistoryKind::Enrolment(id) => (id.to_string(), "enrolment", None),
            HistoryKind::Verification(id, rate) => (id.to_string(), "verification", Some(rate.as_str())),
        };
        Self {
            id,
            kind,
            subject_id: entry.subject.to_string(),
            model: entry.model.to_string(),
            false_match_rate: rate,
            created_at: entry.created_at.into(),
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub struct RetentionBody {
    /// What is kept for a time. Everything else goes with the person or the tenant it belongs to.
    pub records: Vec<RetainedBody>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct RetainedBody {
    #[schema(example = "unused_templates")]
    pub record: &'static str,
    /// Whom it serves; `*`: every purpose without a line of its own; absent for the running of the service.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "face_verification")]
    pub purpose: Option<String>,
    /// ISO 8601; deleted within a day after it.
    #[schema(example = "P1095D")]
    pub kept_for: String,
    #[schema(example = "the person's last enrolment or verification")]
    pub counted_from: &'static str,
}

impl From<Vec<Kept>> for RetentionBody {
    fn from(kept: Vec<Kept>) -> Self {
        let body = |kept: Kept| RetainedBody {
            record: kept.record,
            purpose: kept.serves.as_str().map(str::to_owned),
            kept_for: iso_8601(kept.time),
            counted_from: kept.counted_from,
        };
        Self { records: kept.into_iter().map(body).collect() }
    }
}

/// Whole days where it is days, else seconds.
fn iso_8601(duration: time::Duration) -> String {
    let seconds = duration.whole_seconds();
    if seconds % 86_400 == 0 { format!("P{}D", seconds / 86_400) } else { format!("PT{seconds}S") }
}

/// How much your tenant holds.
#[derive(Debug, Serialize, ToSchema)]
pub struct StatsBody {
    pub subjects: i64,
    /// Consents that permit something now.
    pub active_consents: i64,
    pub enrolments: i64,
    pub verifications: i64,
}

impl From<TenantCounts> for StatsBody {
    fn from(counts: TenantCounts) -> Self {
        let TenantCounts { subjects, active_consents, enrolments, verifications } = counts;
        Self { subjects, active_consents, enrolments, verifications }
    }
}

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
