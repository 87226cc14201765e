-- The main database. Instants are microseconds since 1970-01-01 UTC. Sealed columns are described in src/vault/field.rs.

CREATE TABLE tenants (
    id TEXT COLLATE "C" PRIMARY KEY NOT NULL,
    name TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE clients (
    id TEXT COLLATE "C" PRIMARY KEY NOT NULL,
    tenant_id TEXT COLLATE "C" NOT NULL REFERENCES tenants (id),
    name TEXT NOT NULL,
    secret_hash BYTEA NOT NULL,
    scopes TEXT NOT NULL, -- joined by spaces
    created_at BIGINT NOT NULL,
    disabled_at BIGINT
);
CREATE INDEX clients_of_tenant ON clients (tenant_id, id);

CREATE TABLE subjects (
    id TEXT COLLATE "C" PRIMARY KEY NOT NULL,
    tenant_id TEXT COLLATE "C" NOT NULL REFERENCES tenants (id),
    external_ref BYTEA NOT NULL, -- sealed
    external_ref_index BYTEA NOT NULL, -- blind index
    created_at BIGINT NOT NULL, -- without an index: writers touch it to hold the row
    UNIQUE (tenant_id, external_ref_index),
    UNIQUE (tenant_id, id) -- what the rows below refer to, so that none can name another tenant's subject
);

CREATE TABLE consents (
    id TEXT COLLATE "C" PRIMARY KEY NOT NULL,
    tenant_id TEXT COLLATE "C" NOT NULL,
    subject_id TEXT COLLATE "C" NOT NULL,
    purpose TEXT NOT NULL,
    notice_version TEXT NOT NULL,
    granted_at BIGINT NOT NULL,
    expires_at BIGINT,
    withdrawn_at BIGINT,
    FOREIGN KEY (tenant_id, subject_id) REFERENCES subjects (tenant_id, id) ON DELETE CASCADE
);
CREATE INDEX consents_of_subject ON consents (tenant_id, subject_id, purpose);

CREATE TABLE enrolments (
    id TEXT COLLATE "C" PRIMARY KEY NOT NULL,
    tenant_id TEXT COLLATE "C" NOT NULL,
    subject_id TEXT COLLATE "C" NOT NULL,
    model_id TEXT NOT NULL,
    parameter_id TEXT NOT NULL,
    fhe_key_id TEXT NOT NULL,
    template BYTEA NOT NULL, -- sealed TFHE ciphertext
    created_at BIGINT NOT NULL,
    FOREIGN KEY (tenant_id, subject_id) REFERENCES subjects (tenant_id, id) ON DELETE CASCADE
);
CREATE INDEX enrolments_of_subject ON enrolments (tenant_id, subject_id, id);

CREATE TABLE verifications (
    id TEXT COLLATE "C" PRIMARY KEY NOT NULL,
    tenant_id TEXT COLLATE "C" NOT NULL,
    subject_id TEXT COLLATE "C" NOT NULL,
    model_id TEXT NOT NULL,
    false_match_rate TEXT NOT NULL,
    threshold DOUBLE PRECISION NOT NULL,
    decision BYTEA NOT NULL, -- sealed
    created_at BIGINT NOT NULL,
    FOREIGN KEY (tenant_id, subject_id) REFERENCES subjects (tenant_id, id) ON DELETE CASCADE
);
CREATE INDEX verifications_of_subject ON verifications (tenant_id, subject_id, id);
