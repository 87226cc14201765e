-- The keyholder's journal. Instants are microseconds since 1970-01-01 UTC, days are counted from there.

CREATE TABLE opened_verifications (
    verification_id TEXT PRIMARY KEY NOT NULL,
    opened_at INTEGER NOT NULL
) STRICT;

CREATE TABLE budget_counters (
    day INTEGER NOT NULL,
    scope TEXT NOT NULL,
    id TEXT NOT NULL, -- digest of the subject, id of the tenant, or 'all'
    opened INTEGER NOT NULL,
    PRIMARY KEY (day, scope, id)
) STRICT;

CREATE TABLE forgotten_subjects (
    subject_digest BLOB PRIMARY KEY NOT NULL,
    forgotten_at INTEGER NOT NULL
) STRICT;

CREATE TABLE audit_lines (
    sequence INTEGER PRIMARY KEY NOT NULL,
    at INTEGER NOT NULL,
    event TEXT NOT NULL,
    reason TEXT NOT NULL,
    caller TEXT NOT NULL,
    tenant_id TEXT NOT NULL,
    subject_digest BLOB NOT NULL,
    verification_id TEXT NOT NULL,
    hash BLOB NOT NULL
) STRICT;

-- One row: the end of the chain. Each writer takes it first.
CREATE TABLE audit_head (
    id INTEGER PRIMARY KEY NOT NULL CHECK (id = 1),
    sequence INTEGER NOT NULL,
    hash BLOB NOT NULL
) STRICT;
INSERT INTO audit_head (id, sequence, hash) VALUES (1, 0, x'0000000000000000000000000000000000000000000000000000000000000000');

-- Lines are only ever appended.
CREATE TRIGGER audit_lines_no_update BEFORE UPDATE ON audit_lines
BEGIN
    SELECT RAISE(ABORT, 'audit lines are append-only');
END;
CREATE TRIGGER audit_lines_no_delete BEFORE DELETE ON audit_lines
BEGIN
    SELECT RAISE(ABORT, 'audit lines are append-only');
END;
