-- The audit log of each tenant (src/audit): entries, the end of the log, and what was signed of it.

CREATE TABLE audit_events (
    tenant_id TEXT NOT NULL REFERENCES tenants (id),
    sequence INTEGER NOT NULL, -- from 1, without gaps
    at INTEGER NOT NULL,
    action TEXT NOT NULL,
    actor TEXT NOT NULL,
    request_id TEXT,
    subject_digest BLOB, -- keyed hash of a subject's id
    object TEXT,
    reason TEXT,
    hash BLOB NOT NULL, -- over the entry and all before it
    PRIMARY KEY (tenant_id, sequence)
) STRICT;
CREATE INDEX audit_events_of_subject ON audit_events (tenant_id, subject_digest, sequence);

-- One row for each tenant: each writer takes it, last of all.
CREATE TABLE audit_heads (
    tenant_id TEXT PRIMARY KEY NOT NULL REFERENCES tenants (id),
    size INTEGER NOT NULL,
    hash BLOB NOT NULL,
    peaks BLOB NOT NULL -- of the Merkle tree
) STRICT;
INSERT INTO audit_heads (tenant_id, size, hash, peaks) SELECT id, 0, x'', x'' FROM tenants;

CREATE TABLE audit_checkpoints (
    tenant_id TEXT NOT NULL REFERENCES tenants (id),
    size INTEGER NOT NULL,
    at INTEGER NOT NULL,
    jws TEXT NOT NULL,
    PRIMARY KEY (tenant_id, size)
) STRICT;

-- Entries and checkpoints are only ever appended.
CREATE TRIGGER audit_events_no_update BEFORE UPDATE ON audit_events
BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;
CREATE TRIGGER audit_events_no_delete BEFORE DELETE ON audit_events
BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;
CREATE TRIGGER audit_checkpoints_no_update BEFORE UPDATE ON audit_checkpoints
BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;
CREATE TRIGGER audit_checkpoints_no_delete BEFORE DELETE ON audit_checkpoints
BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;
