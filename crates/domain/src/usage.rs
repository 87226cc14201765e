//! What is counted against a tenant's day.

/// The two operations that work on a face.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Enrolment,
    Verification,
}
