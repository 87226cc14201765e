-- Requests to erase a person. They outlive the person: from the end on only a keyed digest of the id is left of whom.

CREATE TABLE erasure_requests (
    id TEXT PRIMARY KEY NOT NULL,
    tenant_id TEXT NOT NULL REFERENCES tenants (id),
    subject_id TEXT, -- as long as the request is open
    subject_digest BLOB NOT NULL,
    regulation TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT, -- of a rejection or a hold
    received_at INTEGER NOT NULL,
    due_at INTEGER NOT NULL,
    verified_at INTEGER,
    begun_at INTEGER,
    ended_at INTEGER, -- completed, rejected or cancelled
    removed TEXT, -- JSON: what was removed where, and the audit checkpoint of that moment
    certificate TEXT,
    UNIQUE (tenant_id, subject_id) -- one open request for each person
) STRICT;
CREATE INDEX erasure_requests_of_tenant ON erasure_requests (tenant_id, id);
CREATE INDEX erasure_requests_open ON erasure_requests (due_at) WHERE ended_at IS NULL;

-- One row: up to which entry of the ledger this database is known to agree with it.
CREATE TABLE ledger_mark (
    id INTEGER PRIMARY KEY NOT NULL CHECK (id = 1),
    sequence INTEGER NOT NULL,
    hash BLOB NOT NULL
) STRICT;
INSERT INTO ledger_mark (id, sequence, hash) VALUES (1, 0, x'0000000000000000000000000000000000000000000000000000000000000000');
