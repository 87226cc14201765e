//! The shapes of consents, and of the notices that they are given under.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};

use super::{PageQuery, Timestamp, checked_text, parsed};
use crate::{
    domain::{
        consent::{Consent, ConsentState, GivenBy, Method, Purpose, Reference},
        notice::{Controller, Language, Notice},
    },
    flows::{
        PageRequest,
        consents::{How, NewConsent},
        notices::{NamedNotice, NewNotice, NoticeInFull},
    },
    http::problem::Problem,
};

/// A consent that a person has given.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewConsentBody {
    /// What was agreed to; `face_verification` permits enrolment and 1:1 verification.
    #[schema(pattern = "^[a-z][a-z0-9_]{0,63}$", example = "face_verification")]
    pub purpose: String,
    /// Version of the notice that the person was shown, 1 to 64 characters: one of yours, once you have published a notice for this
    /// purpose. Left out where `notice_id` says it.
    #[schema(min_length = 1, max_length = 64, pattern = "^[^\\x00-\\x1F\\x7F-\\x9F]*$", example = "2026-11")]
    pub notice_version: Option<String>,
    /// The published notice that the person was shown, in the language that it was shown in.
    #[schema(pattern = "^ntc_[0-9a-f]{32}$")]
    pub notice_id: Option<String>,
    /// When the consent ends by itself (RFC 3339), in the future; absent: it lasts until it is withdrawn.
    #[serde(default)]
    #[schema(example = "2099-12-31T23:59:59Z")]
    pub expires_at: Option<Timestamp>,
    /// How the person said yes: `in_person`, `paper`, `web_form`, `app` or `phone`.
    #[schema(pattern = "^(in_person|paper|web_form|app|phone)$", example = "web_form")]
    pub method: Option<String>,
    /// What you find the evidence by: a form's number, a recording's name. Stored sealed. 1 to 255 characters.
    #[schema(min_length = 1, max_length = 255, pattern = "^[^\\x00-\\x1F\\x7F-\\x9F]*$", example = "form 4711")]
    pub evidence_ref: Option<String>,
    /// Who said yes: `self`, or for a minor `parent` or `guardian`. `self` unless told.
    #[schema(pattern = "^(self|parent|guardian)$", example = "self")]
    pub given_by: Option<String>,
    /// What you know the parent or guardian by; needed with either, and with nobody else. Stored sealed. 1 to 255 characters.
    #[schema(min_length = 1, max_length = 255, pattern = "^[^\\x00-\\x1F\\x7F-\\x9F]*$")]
    pub guardian_ref: Option<String>,
}

impl TryFrom<NewConsentBody> for NewConsent {
    type Error = Problem;

    fn try_from(body: NewConsentBody) -> Result<Self, Problem> {
        let given_by = body.given_by.map(|word| parsed("given_by", &word)).transpose()?.unwrap_or(GivenBy::Oneself);
        let new = Self {
            purpose: parsed("purpose", &body.purpose)?,
            notice: named_notice(body.notice_id, body.notice_version)?,
            expires_at: body.expires_at.map(|Timestamp(moment)| moment),
            how: how(body.method, body.evidence_ref)?,
            given_by,
            guardian: reference("guardian_ref", body.guardian_ref)?,
        };
        match (given_by, &new.guardian) {
            (GivenBy::Oneself, Some(_)) => Err(Problem::invalid_field("guardian_ref", "is for a parent or guardian")),
            (GivenBy::Parent | GivenBy::Guardian, None) => {
                Err(Problem::invalid_field("guardian_ref", "is needed where a parent or guardian agrees"))
            }
            _ => Ok(new),
        }
    }
}

fn named_notice(id: Option<String>, version: Option<String>) -> Result<NamedNotice, Problem> {
    match (id, version) {
        (Some(_), Some(_)) => Err(Problem::invalid_field("notice_version", "is said by `notice_id` already")),
        (Some(id), None) => parsed("notice_id", &id).map(NamedNotice::Registered),
        (None, Some(version)) => checked_text("notice_version", version, 64).map(NamedNotice::Version),
        (None, None) => Err(Problem::invalid_field("notice_version", "is needed, or `notice_id`")),
    }
}

fn reference(name: &str, text: Option<String>) -> Result<Option<Reference>, Problem> {
    text.map(|text| checked_text(name, text, 255).map(Reference::new)).transpose()
}

fn how(method: Option<String>, evidence_ref: Option<String>) -> Result<How, Problem> {
    let method = method.map(|word| parsed::<Method>("method", &word)).transpose()?;
    Ok(How { method, evidence: reference("evidence_ref", evidence_ref)? })
}

/// How a person said no, where there is something to say about it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WithdrawalBody {
    /// `in_person`, `paper`, `web_form`, `app` or `phone`.
    #[schema(pattern = "^(in_person|paper|web_form|app|phone)$", example = "app")]
    pub method: Option<String>,
    /// What you find the evidence by. Stored sealed. 1 to 255 characters.
    #[schema(min_length = 1, max_length = 255, pattern = "^[^\\x00-\\x1F\\x7F-\\x9F]*$", example = "call 0815")]
    pub evidence_ref: Option<String>,
}

impl TryFrom<WithdrawalBody> for How {
    type Error = Problem;

    fn try_from(body: WithdrawalBody) -> Result<Self, Problem> {
        how(body.method, body.evidence_ref)
    }
}

/// One person's permission for one purpose.
#[derive(Debug, Serialize, ToSchema)]
pub struct ConsentBody {
    #[schema(example = "con_0193512ab4c87d0e8f6a5b4c3d2e1f00")]
    pub id: String,
    pub subject_id: String,
    #[schema(example = "face_verification")]
    pub purpose: String,
    pub notice_version: String,
    /// The published notice that the person was shown; `null` where none was published for the purpose.
    pub notice_id: Option<String>,
    /// At the moment of the answer. `superseded`: the notice has changed materially since; ask the person again.
    pub state: ConsentStateWord,
    pub granted_at: Timestamp,
    /// The credential that recorded it; `null` of consents from before this was kept.
    pub granted_by: Option<String>,
    #[schema(example = "web_form")]
    pub method: Option<&'static str>,
    pub evidence_ref: Option<String>,
    /// `self`, `parent` or `guardian`.
    #[schema(example = "self")]
    pub given_by: &'static str,
    pub guardian_ref: Option<String>,
    pub expires_at: Option<Timestamp>,
    pub withdrawn_at: Option<Timestamp>,
    pub withdrawn_by: Option<String>,
    #[schema(example = "app")]
    pub withdrawal_method: Option<&'static str>,
    pub withdrawal_evidence_ref: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConsentStateWord {
    Granted,
    Withdrawn,
    Expired,
    Superseded,
}

impl From<ConsentState> for ConsentStateWord {
    fn from(state: ConsentState) -> Self {
        match state {
            ConsentState::Granted => Self::Granted,
            ConsentState::Withdrawn => Self::Withdrawn,
            ConsentState::Expired => Self::Expired,
            ConsentState::Superseded => Self::Superseded,
        }
    }
}

impl ConsentBody {
    pub fn at(now: OffsetDateTime, consent: Consent) -> Self {
        let shown = |reference: Option<Reference>| reference.map(|reference| reference.expose_text().to_owned());
        let state = consent.state(now).into();
        let (granted, withdrawn) = (consent.granted, consent.withdrawn);
        Self {
            id: consent.id.to_string(),
            subject_id: consent.subject.to_string(),
            purpose: consent.purpose.to_string(),
            notice_version: consent.notice.version,
            notice_id: consent.notice.id.map(|id| id.to_string()),
            state,
            granted_at: granted.at.into(),
            granted_by: granted.by,
            method: granted.method.map(Method::as_str),
            evidence_ref: shown(granted.evidence),
            given_by: consent.given_by.as_str(),
            guardian_ref: shown(consent.guardian),
            expires_at: consent.expires_at.map(Timestamp),
            withdrawn_at: withdrawn.as_ref().map(|said| said.at.into()),
            withdrawn_by: withdrawn.as_ref().and_then(|said| said.by.clone()),
            withdrawal_method: withdrawn.as_ref().and_then(|said| said.method).map(Method::as_str),
            withdrawal_evidence_ref: shown(withdrawn.and_then(|said| said.evidence)),
        }
    }
}

/// Longest body that a notice may come in: its text in the longest form that JSON has for it.
pub const NOTICE_BYTES_MAX: usize = 256 * 1024;

/// A version of a notice, in one language.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewNoticeBody {
    /// What is agreed to; `face_verification` permits enrolment and 1:1 verification.
    #[schema(pattern = "^[a-z][a-z0-9_]{0,63}$", example = "face_verification")]
    pub purpose: String,
    /// Your name for it, the same in every language. 1 to 64 characters.
    #[schema(min_length = 1, max_length = 64, pattern = "^[^\\x00-\\x1F\\x7F-\\x9F]*$", example = "2026-11")]
    pub version: String,
    /// A BCP 47 tag.
    #[schema(max_length = 35, pattern = "^[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8})*$", example = "en")]
    pub language: String,
    /// What the person reads, word for word. 1 to 20,000 characters; of control characters, line ends and tabs alone.
    #[schema(
        min_length = 1,
        max_length = 20000,
        pattern = "^[^\\x00-\\x08\\x0B\\x0C\\x0E-\\x1F\\x7F-\\x9F]*$",
        example = "We compare a photo of your face with …"
    )]
    pub text: String,
    pub controller: ControllerBody,
    /// How long what is collected is kept, in words or as an ISO 8601 duration. 1 to 255 characters.
    #[schema(min_length = 1, max_length = 255, pattern = "^[^\\x00-\\x1F\\x7F-\\x9F]*$", example = "P3Y")]
    pub retention: String,
    /// What is collected: 1 to 20 entries of 1 to 255 characters.
    #[schema(min_items = 1, max_items = 20, example = json!(["face image, not kept", "encrypted face template"]))]
    pub data_categories: Vec<String>,
    /// Who else is given it: up to 20 entries; none unless told.
    #[serde(default)]
    #[schema(max_items = 20, example = json!([]))]
    pub recipients: Vec<String>,
    /// Whose law, such as `DE` or `US-IL`. 1 to 64 characters.
    #[schema(min_length = 1, max_length = 64, pattern = "^[^\\x00-\\x1F\\x7F-\\x9F]*$", example = "DE")]
    pub jurisdiction: Option<String>,
    /// Where your privacy policy stands. 1 to 255 characters.
    #[schema(
        min_length = 1,
        max_length = 255,
        pattern = "^[^\\x00-\\x1F\\x7F-\\x9F]*$",
        example = "https://bank.example/privacy"
    )]
    pub policy_url: Option<String>,
    /// How a person withdraws. 1 to 255 characters.
    #[schema(
        min_length = 1,
        max_length = 255,
        pattern = "^[^\\x00-\\x1F\\x7F-\\x9F]*$",
        example = "in the app, under Privacy"
    )]
    pub withdrawal_method: Option<String>,
    /// Whether what was agreed to under earlier versions ends with this one; the same in every language. `false` unless told.
    #[serde(default)]
    pub material_change: bool,
}

/// Who decides why and how the data is used.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ControllerBody {
    /// 1 to 255 characters.
    #[schema(min_length = 1, max_length = 255, pattern = "^[^\\x00-\\x1F\\x7F-\\x9F]*$", example = "Example Bank AG")]
    pub name: String,
    /// How a person reaches them. 1 to 255 characters.
    #[schema(
        min_length = 1,
        max_length = 255,
        pattern = "^[^\\x00-\\x1F\\x7F-\\x9F]*$",
        example = "privacy@bank.example"
    )]
    pub contact: String,
}

impl TryFrom<NewNoticeBody> for NewNotice {
    type Error = Problem;

    fn try_from(body: NewNoticeBody) -> Result<Self, Problem> {
        let optional = |name: &str, text: Option<String>, length_max| {
            text.map(|text| checked_text(name, text, length_max)).transpose()
        };
        Ok(Self {
            purpose: parsed("purpose", &body.purpose)?,
            version: checked_text("version", body.version, 64)?,
            language: parsed::<Language>("language", &body.language)?,
            text: notice_text(body.text)?,
            controller: Controller {
                name: checked_text("controller/name", body.controller.name, 255)?,
                contact: checked_text("controller/contact", body.controller.contact, 255)?,
            },
            retention: checked_text("retention", body.retention, 255)?,
            data_categories: checked_lines("data_categories", 1, body.data_categories)?,
            recipients: checked_lines("recipients", 0, body.recipients)?,
            jurisdiction: optional("jurisdiction", body.jurisdiction, 64)?,
            policy_url: optional("policy_url", body.policy_url, 255)?,
            withdrawal_method: optional("withdrawal_method", body.withdrawal_method, 255)?,
            material_change: body.material_change,
        })
    }
}

/// The one text that has paragraphs.
fn notice_text(text: String) -> Result<String, Problem> {
    const LENGTH_MAX: usize = 20_000;
    if !(1..=LENGTH_MAX).contains(&text.chars().count()) {
        return Err(Problem::invalid_field("text", format!("is 1 to {LENGTH_MAX} characters long")));
    }
    if text.chars().any(|one| one.is_control() && !matches!(one, '\n' | '\r' | '\t')) {
        return Err(Problem::invalid_field("text", "holds no control characters but line ends and tabs"));
    }
    Ok(text)
}

fn checked_lines(name: &str, entries_min: usize, entries: Vec<String>) -> Result<Vec<String>, Problem> {
    const ENTRIES_MAX: usize = 20;
    if !(entries_min..=ENTRIES_MAX).contains(&entries.len()) {
        return Err(Problem::invalid_field(name, format!("has {entries_min} to {ENTRIES_MAX} entries")));
    }
    entries.into_iter().map(|entry| checked_text(name, entry, 255)).collect()
}

/// Which notices.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct NoticeQuery {
    /// Only those for this purpose.
    #[param(pattern = "^[a-z][a-z0-9_]{0,63}$")]
    pub purpose: Option<String>,
    /// Items on a page, 1 to 100; 20 unless told.
    #[param(minimum = 1, maximum = 100)]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

impl NoticeQuery {
    pub fn parts(self) -> Result<(Option<Purpose>, PageRequest), Problem> {
        let purpose = self.purpose.map(|purpose| parsed("purpose", &purpose)).transpose()?;
        Ok((purpose, PageQuery { limit: self.limit, cursor: self.cursor }.try_into()?))
    }
}

/// A published notice, but for its text.
#[derive(Debug, Serialize, ToSchema)]
pub struct NoticeBody {
    #[schema(example = "ntc_0193512ab4c87d0e8f6a5b4c3d2e1f00")]
    pub id: String,
    pub purpose: String,
    pub version: String,
    pub language: String,
    /// Of the text's UTF-8 bytes, in hexadecimal.
    pub text_sha256: String,
    pub controller: ControllerBody,
    pub retention: String,
    pub data_categories: Vec<String>,
    pub recipients: Vec<String>,
    pub jurisdiction: Option<String>,
    pub policy_url: Option<String>,
    pub withdrawal_method: Option<String>,
    pub material_change: bool,
    pub published_at: Timestamp,
    /// The credential that published it.
    pub published_by: String,
}

impl From<Notice> for NoticeBody {
    fn from(notice: Notice) -> Self {
        Self {
            id: notice.id.to_string(),
            purpose: notice.purpose.to_string(),
            version: notice.version,
            language: notice.language.to_string(),
            text_sha256: hex::encode(notice.text_sha256),
            controller: ControllerBody { name: notice.controller.name, contact: notice.controller.contact },
            retention: notice.retention,
            data_categories: notice.data_categories,
            recipients: notice.recipients,
            jurisdiction: notice.jurisdiction,
            policy_url: notice.policy_url,
            withdrawal_method: notice.withdrawal_method,
            material_change: notice.material_change,
            published_at: notice.published_at.into(),
            published_by: notice.published_by,
        }
    }
}

/// A published notice with its text.
#[derive(Debug, Serialize, ToSchema)]
pub struct NoticeInFullBody {
    #[serde(flatten)]
    pub about: NoticeBody,
    pub text: String,
}

impl From<NoticeInFull> for NoticeInFullBody {
    fn from(notice: NoticeInFull) -> Self {
        Self { about: notice.notice.into(), text: notice.text }
    }
}
