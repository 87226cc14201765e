-- The main database. Instants are microseconds since 1970-01-01 UTC. Sealed columns are described in src/vault/field.rs.

CREATE TABLE tenants (
    id TEXT PRIMARY KEY NOT NULL,
    name TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE clients (
    id TEXT PRIMARY KEY NOT NULL,
    tenant_id TEXT NOT NULL REFERENCES tenants (id),
    name TEXT NOT NULL,
    secret_hash BLOB NOT NULL,
    scopes TEXT NOT NULL, -- joined by spaces
    created_at INTEGER NOT NULL,
    disabled_at INTEGER
) STRICT;
CREATE INDEX clients_of_tenant ON clients (tenant_id, id);

CREATE TABLE subjects (
    id TEXT PRIMARY KEY NOT NULL,
    tenant_id TEXT NOT NULL REFERENCES tenants (id),
    external_ref BLOB NOT NULL, -- sealed
    external_ref_index BLOB NOT NULL, -- blind index
    created_at INTEGER NOT NULL, -- without an index: writers touch it to hold the row
    UNIQUE (tenant_id, external_ref_index),
    UNIQUE (tenant_id, id) -- what the rows below refer to, so that none can name another tenant's subject
) STRICT;

CREATE TABLE consents (
    id TEXT PRIMARY KEY NOT NULL,
    tenant_id TEXT NOT NULL,
    subject_id TEXT NOT NULL,
    purpose TEXT NOT NULL,
    notice_version TEXT NOT NULL,
    granted_at INTEGER NOT NULL,
    expires_at INTEGER,
    withdrawn_at INTEGER,
    FOREIGN KEY (tenant_id, subject_id) REFERENCES subjects (tenant_id, id) ON DELETE CASCADE
) STRICT;
CREATE INDEX consents_of_subject ON consents (tenant_id, subject_id, purpose);

CREATE TABLE enrolments (
    id TEXT PRIMARY KEY NOT NULL,
    tenant_id TEXT NOT NULL,
    subject_id TEXT NOT NULL,
    model_id TEXT NOT NULL,
    parameter_id TEXT NOT NULL,
    fhe_key_id TEXT NOT NULL,
    template BLOB NOT NULL, -- sealed TFHE ciphertext
    created_at INTEGER NOT NULL,
    FOREIGN KEY (tenant_id, subject_id) REFERENCES subjects (tenant_id, id) ON DELETE CASCADE
) STRICT;
CREATE INDEX enrolments_of_subject ON enrolments (tenant_id, subject_id, id);

CREATE TABLE verifications (
    id TEXT PRIMARY KEY NOT NULL,
    tenant_id TEXT NOT NULL,
    subject_id TEXT NOT NULL,
    model_id TEXT NOT NULL,
    false_match_rate TEXT NOT NULL,
    threshold REAL NOT NULL,
    decision BLOB NOT NULL, -- sealed
    created_at INTEGER NOT NULL,
    FOREIGN KEY (tenant_id, subject_id) REFERENCES subjects (tenant_id, id) ON DELETE CASCADE
) STRICT;
CREATE INDEX verifications_of_subject ON verifications (tenant_id, subject_id, id);
