//! Consents of people who do not come by the door.

use time::OffsetDateTime;
use velum::domain::{
    consent::{Consent, GivenBy, Purpose, ShownNotice, Statement},
    id::{ConsentId, SubjectId},
    notice::Generation,
};

/// To face verification, as the store takes it.
pub fn consent_of(subject: SubjectId, now: OffsetDateTime) -> Consent {
    Consent {
        id: ConsentId::generate(),
        subject,
        purpose: Purpose::face_verification(),
        notice: ShownNotice { version: "2026-11".to_owned(), id: None, generation: Generation(0) },
        granted: Statement { at: now, by: None, method: None, evidence: None },
        given_by: GivenBy::Oneself,
        guardian: None,
        expires_at: None,
        withdrawn: None,
        superseded: false,
    }
}
