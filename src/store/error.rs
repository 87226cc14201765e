//! What can go wrong in the store, by what a caller does about it.

use diesel::result::{DatabaseErrorKind, Error as DieselError};

use crate::vault::{KeyringError, VaultError};

type Source = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No such row for this tenant; another tenant's row looks the same.
    #[error("not found")]
    NotFound,
    /// At the moment of writing there was no active consent for the purpose: nothing was written.
    #[error("no active consent for this purpose")]
    NoConsent,
    /// There was one, for a notice that has changed materially since: nothing was written.
    #[error("the consent for this purpose is superseded")]
    ConsentSuperseded,
    /// The person's data are restricted: nothing was written.
    #[error("the subject's data are restricted")]
    Restricted,
    #[error("conflict: {0}")]
    Conflict(Conflict),
    /// The database was migrated by a newer program, in a way that this one cannot live with.
    #[error(
        "the {database} database has schema version {found}, which this program does not know (its newest is {newest})"
    )]
    UnknownSchema { database: &'static str, found: String, newest: String },
    /// The database lacks migrations that this program needs.
    #[error("the {database} database lacks schema version {missing}; run: velum migrate")]
    SchemaBehind { database: &'static str, missing: String },
    /// The second wall between tenants would not stand.
    #[error(
        "the database role {role} bypasses row-level security; connect as one that is no superuser and has no BYPASSRLS"
    )]
    RowSecurityBypassed { role: String },
    /// The database is away or overloaded; the same call may succeed in a moment.
    #[error("the database is unavailable")]
    Unavailable(#[source] Source),
    #[error("a stored field cannot be sealed or opened")]
    Sealed(#[from] VaultError),
    #[error("the key-encryption keys cannot be used")]
    Keyring(#[from] KeyringError),
    /// Rows are still wrapped by it: without it they would be lost.
    #[error("key-encryption key {kek} wraps {rows} rows still; re-wrap them first")]
    KeyInUse { kek: String, rows: u64 },
    #[error("{0}")]
    BadUrl(&'static str),
    #[error("a migration failed")]
    Migration(#[source] Source),
    /// An entry of the ledger of erasures was changed, removed, inserted or moved, here or just before.
    #[error("the ledger of erasures is not what was written, at entry {sequence}")]
    LedgerBroken { sequence: i64 },
    /// A stored value that this program could not have written.
    #[error("column {column} holds a value that cannot be read")]
    Corrupt { column: &'static str },
    #[error("the database refused a query")]
    Database(#[source] DieselError),
}

/// What a write collided with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conflict {
    /// The tenant already has a subject with this external reference.
    ExternalRef,
    /// The same id was written before.
    Id,
    /// The subject has as many templates of this kind as it may have.
    TooManyTemplates,
    /// As many consents of the subject to this purpose stand as may.
    TooManyConsents,
    /// The API key has a successor already.
    ApiKeyRolled,
    /// The tenant has this version of a notice in this language already.
    NoticeVersion,
    /// In another language this version is marked otherwise as to whether it changes anything material.
    NoticeMateriality,
    /// The notice has changed materially since: nobody can agree to it any more.
    NoticeSuperseded,
    /// Another call took over what this one was to do.
    ClaimLost,
    /// Another worker has the job by now, or nobody has.
    LeaseLost,
    /// A job of this kind and key waits already.
    JobQueued,
    /// Another officer, maybe of another tenant, has this name.
    OfficerName,
    /// The person has an open erasure request.
    ErasureOpen,
    /// The erasure request is in a state that does not allow it.
    ErasureState,
    /// The access request is in a state that does not allow it.
    AccessState,
    /// The tenant has a request of this id from its controller already.
    SubjectRequestId,
    /// The subject has a data key already.
    DataKey,
    /// The subject's data key was destroyed; it never gets another.
    DataKeyDestroyed,
}

impl Conflict {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ExternalRef => "external_ref_taken",
            Self::Id => "id_taken",
            Self::TooManyTemplates => "too_many_templates",
            Self::TooManyConsents => "too_many_consents",
            Self::ApiKeyRolled => "api_key_rolled",
            Self::NoticeVersion => "notice_version_taken",
            Self::NoticeMateriality => "notice_materiality",
            Self::NoticeSuperseded => "notice_superseded",
            Self::ClaimLost => "claim_lost",
            Self::LeaseLost => "lease_lost",
            Self::JobQueued => "job_queued",
            Self::OfficerName => "officer_name_taken",
            Self::ErasureOpen => "erasure_open",
            Self::ErasureState => "erasure_state",
            Self::AccessState => "access_state",
            Self::SubjectRequestId => "subject_request_id_taken",
            Self::DataKey => "data_key_exists",
            Self::DataKeyDestroyed => "data_key_destroyed",
        }
    }
}

impl std::fmt::Display for Conflict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl StoreError {
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::NoConsent => "no_active_consent",
            Self::ConsentSuperseded => "consent_superseded",
            Self::Restricted => "subject_restricted",
            Self::Conflict(conflict) => conflict.as_str(),
            Self::UnknownSchema { .. } => "schema_unknown",
            Self::SchemaBehind { .. } => "schema_behind",
            Self::RowSecurityBypassed { .. } => "row_security_bypassed",
            Self::Unavailable(_) => "database_unavailable",
            Self::Sealed(error) => error.code(),
            Self::Keyring(_) => "keyring_unusable",
            Self::KeyInUse { .. } => "key_encryption_key_in_use",
            Self::BadUrl(_) => "database_url_invalid",
            Self::Migration(_) => "migration_failed",
            Self::LedgerBroken { .. } => "ledger_broken",
            Self::Corrupt { .. } => "stored_value_corrupt",
            Self::Database(_) => "database_error",
        }
    }

    /// `conflict` instead of a bare unique violation.
    pub(super) fn or_conflict(self, conflict: Conflict) -> Self {
        match self {
            Self::Database(DieselError::DatabaseError(DatabaseErrorKind::UniqueViolation, _)) => {
                Self::Conflict(conflict)
            }
            other => other,
        }
    }

    /// A row that refers to another which is not there: the parent was not found.
    pub(super) fn or_parent_not_found(self) -> Self {
        match self {
            Self::Database(DieselError::DatabaseError(DatabaseErrorKind::ForeignKeyViolation, _)) => Self::NotFound,
            other => other,
        }
    }
}

impl From<DieselError> for StoreError {
    fn from(error: DieselError) -> Self {
        match &error {
            DieselError::NotFound => Self::NotFound,
            DieselError::BrokenTransactionManager => Self::Unavailable(error.into()),
            DieselError::DatabaseError(kind, information) if is_outage(kind, information.message()) => {
                Self::Unavailable(error.into())
            }
            _ => Self::Database(error),
        }
    }
}

/// Diesel names a lost PostgreSQL connection, but not a busy SQLite file nor a server that is shutting down.
fn is_outage(kind: &DatabaseErrorKind, message: &str) -> bool {
    const OUTAGES: [&str; 9] = [
        "deadlock detected",
        "database is locked",
        "database or disk is full",
        "disk I/O error",
        "terminating connection",
        "server closed the connection",
        "canceling statement due to",
        "no connection to the server",
        "the database system is",
    ];
    matches!(kind, DatabaseErrorKind::ClosedConnection | DatabaseErrorKind::SerializationFailure)
        || OUTAGES.iter().any(|outage| message.contains(outage))
}
