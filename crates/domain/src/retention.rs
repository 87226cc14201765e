//! How long what is kept. Whatever is not in this list is kept as long as the person or the tenant it belongs to.

use std::collections::BTreeMap;

use time::{Duration, OffsetDateTime};

use super::consent::Purpose;

/// Rows that go when they are old enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RecordKind {
    /// Templates of persons whom nobody enrols or verifies any more.
    UnusedTemplates,
    /// Templates whose purpose the person consents to no more.
    TemplatesWithoutConsent,
    /// Consents that were withdrawn, have expired, or were given under a notice that has changed materially since.
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
            Self::EndedConsents => "withdrawal, expiry or the notice that superseded it, whichever came first",
            Self::Verifications => "the verification",
            Self::AuditEvents => "the signature of the first checkpoint after the event",
            Self::UsageDays => "the day",
            Self::IdempotencyRecords => "the first call with the key",
            Self::UsedAssertions => "the assertion's own end",
            Self::Revocations => "the own end of what was revoked",
        }
    }

    /// Whether its rows say something about persons; the others serve the running of the service.
    pub fn about_persons(self) -> bool {
        match self {
            Self::UnusedTemplates | Self::TemplatesWithoutConsent | Self::EndedConsents | Self::Verifications => true,
            Self::AuditEvents
            | Self::UsageDays
            | Self::IdempotencyRecords
            | Self::UsedAssertions
            | Self::Revocations => false,
        }
    }

    /// Whether it is recorded that its rows went: what said something about persons, or about what was done to them.
    pub fn is_missed(self) -> bool {
        self.about_persons() || self == Self::AuditEvents
    }

    /// Whether its rows belong to a tenant.
    pub fn of_tenants(self) -> bool {
        !matches!(self, Self::UsedAssertions | Self::Revocations)
    }
}

/// Which purposes rows serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Serves {
    /// None of a person's: the running of the service.
    Service,
    One(Purpose),
    /// Every purpose but these, which have lines of their own.
    EveryBut(Vec<Purpose>),
}

impl Serves {
    /// `*`, which is no purpose's name, for every purpose that has no line of its own.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Service => None,
            Self::One(purpose) => Some(purpose.as_str()),
            Self::EveryBut(_) => Some("*"),
        }
    }
}

/// A line of the schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub kind: RecordKind,
    pub serves: Serves,
    pub kept: Duration,
}

impl Line {
    /// What began to be old then, or before, has been kept long enough at `now`.
    pub fn cutoff(&self, now: OffsetDateTime) -> OffsetDateTime {
        now - self.kept
    }
}

/// What the operator decides about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetentionSchedule {
    pub unused_templates: Duration,
    pub templates_without_consent: Duration,
    pub ended_consents: Duration,
    /// Of purposes whose consents have a time of their own.
    pub ended_consents_of: BTreeMap<Purpose, Duration>,
    pub verifications: Duration,
    pub audit_events: Duration,
    pub usage_days: Duration,
}

impl RetentionSchedule {
    /// What is kept for a time: who tells it and who keeps to it both go by this list.
    pub fn lines(&self) -> Vec<Line> {
        RecordKind::ALL.into_iter().flat_map(|kind| self.lines_of(kind)).collect()
    }

    /// Faces are taken for one purpose alone, so that what is made of them has one time; consents are given to any.
    fn lines_of(&self, kind: RecordKind) -> Vec<Line> {
        let kept = self.kept(kind);
        if kind == RecordKind::EndedConsents {
            let own = self.ended_consents_of.iter();
            let own = own.map(|(purpose, kept)| Line { kind, serves: Serves::One(purpose.clone()), kept: *kept });
            let others = Serves::EveryBut(self.ended_consents_of.keys().cloned().collect());
            return own.chain([Line { kind, serves: others, kept }]).collect();
        }
        let serves = if kind.about_persons() { Serves::One(Purpose::face_verification()) } else { Serves::Service };
        vec![Line { kind, serves, kept }]
    }

    /// What no line of its own says otherwise about.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consents_of_a_purpose_may_have_a_time_of_their_own_and_no_row_has_two() {
        let day = Duration::DAY;
        let newsletter: Purpose = "newsletter".parse().unwrap();
        let schedule = RetentionSchedule {
            unused_templates: day,
            templates_without_consent: day,
            ended_consents: day * 2,
            ended_consents_of: [(newsletter.clone(), day * 3)].into(),
            verifications: day,
            audit_events: day,
            usage_days: day,
        };
        let lines = schedule.lines();
        let told: Vec<_> = lines.iter().filter(|line| line.kind == RecordKind::EndedConsents).collect();
        assert_eq!(told.len(), 2);
        assert_eq!((told[0].serves.as_str(), told[0].kept), (Some("newsletter"), day * 3));
        assert_eq!((told[1].serves.as_str(), told[1].kept), (Some("*"), day * 2));
        assert_eq!(told[1].serves, Serves::EveryBut(vec![newsletter]));
        assert!("*".parse::<Purpose>().is_err());
        for kind in RecordKind::ALL {
            let serves = lines.iter().filter(|line| line.kind == kind).map(|line| line.serves.as_str().is_some());
            assert!(serves.eq(lines.iter().filter(|line| line.kind == kind).map(|_| kind.about_persons())), "{kind:?}");
        }
    }
}
