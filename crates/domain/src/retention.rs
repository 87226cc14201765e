//! How long what is kept. Whatever is not in this list is kept as long as the person or the tenant it belongs to.

use time::Duration;

use super::consent::Purpose;

/// Rows that go when they are old enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RecordKind {
    /// Templates of persons whom nobody enrols or verifies any more.
    UnusedTemplates,
    /// Templates whose purpose nobody consents to any more.
    TemplatesWithoutConsent,
    /// Consents that were withdrawn or have expired.
    EndedConsents,
    Verifications,
    /// The oldest entries of the audit log, where a signed checkpoint stands for them.
    AuditEvents,
    /// How much a tenant used on a day.
    UsageDays,
    IdempotencyRecords,
    /// Assertions that clients have signed in with.
    UsedAssertions,
    Revocations,
}

impl RecordKind {
    pub const ALL: [Self; 9] = [
        Self::UnusedTemplates,
        Self::TemplatesWithoutConsent,
        Self::EndedConsents,
        Self::Verifications,
        Self::AuditEvents,
        Self::UsageDays,
        Self::IdempotencyRecords,
        Self::UsedAssertions,
        Self::Revocations,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnusedTemplates => "unused_templates",
            Self::TemplatesWithoutConsent => "templates_without_consent",
            Self::EndedConsents => "ended_consents",
            Self::Verifications => "verifications",
            Self::AuditEvents => "audit_events",
            Self::UsageDays => "usage_days",
            Self::IdempotencyRecords => "idempotency_records",
            Self::UsedAssertions => "used_assertions",
            Self::Revocations => "revocations",
        }
    }

    /// What its time is counted from.
    pub fn counted_from(self) -> &'static str {
        match self {
            Self::UnusedTemplates => "the person's last enrolment or verification",
            Self::TemplatesWithoutConsent => "the end of the last consent for the purpose",
            Self::EndedConsents => "withdrawal or expiry, whichever came first",
            Self::Verifications => "the verification",
            Self::AuditEvents => "the signature of the first checkpoint after the event",
            Self::UsageDays => "the day",
            Self::IdempotencyRecords => "the first call with the key",
            Self::UsedAssertions => "the assertion's own end",
            Self::Revocations => "the own end of what was revoked",
        }
    }

    /// The purpose that its rows serve; `None` where they serve the running of the service.
    pub fn purpose(self) -> Option<Purpose> {
        match self {
            Self::UnusedTemplates | Self::TemplatesWithoutConsent | Self::EndedConsents | Self::Verifications => {
                Some(Purpose::face_verification())
            }
            Self::AuditEvents
            | Self::UsageDays
            | Self::IdempotencyRecords
            | Self::UsedAssertions
            | Self::Revocations => None,
        }
    }

    /// Whether it is recorded that its rows went: what said something about persons, or about what was done to them.
    pub fn is_missed(self) -> bool {
        self.purpose().is_some() || self == Self::AuditEvents
    }

    /// Whether its rows belong to a tenant.
    pub fn of_tenants(self) -> bool {
        !matches!(self, Self::UsedAssertions | Self::Revocations)
    }
}

/// What the operator decides about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetentionSchedule {
    pub unused_templates: Duration,
    pub templates_without_consent: Duration,
    pub ended_consents: Duration,
    pub verifications: Duration,
    pub audit_events: Duration,
    pub usage_days: Duration,
}

impl RetentionSchedule {
    pub fn kept(&self, kind: RecordKind) -> Duration {
        match kind {
            RecordKind::UnusedTemplates => self.unused_templates,
            RecordKind::TemplatesWithoutConsent => self.templates_without_consent,
            RecordKind::EndedConsents => self.ended_consents,
            RecordKind::Verifications => self.verifications,
            RecordKind::AuditEvents => self.audit_events,
            RecordKind::UsageDays => self.usage_days,
            RecordKind::IdempotencyRecords => Duration::DAY,
            RecordKind::UsedAssertions => Duration::ZERO,
            // A process whose clock is behind must not bring a token back to life.
            RecordKind::Revocations => Duration::HOUR,
        }
    }
}
