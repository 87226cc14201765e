//! The shapes of persons.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{RestrictionBody, Timestamp, checked_text};
use crate::{flows::subjects::Subject, http::problem::Problem};

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

impl From<Subject> for SubjectBody {
    fn from(subject: Subject) -> Self {
        Self {
            id: subject.id.to_string(),
            external_ref: subject.external_ref,
            created_at: subject.created_at.into(),
            restriction: subject.restriction.map(RestrictionBody::from),
        }
    }
}
