-- Requests to erase a person. They outlive the person: from the end on only a keyed digest of the id is left of whom.

CREATE TABLE erasure_requests (
    id TEXT COLLATE "C" PRIMARY KEY NOT NULL,
    tenant_id TEXT COLLATE "C" NOT NULL REFERENCES tenants (id),
    subject_id TEXT COLLATE "C", -- as long as the request is open
    subject_digest BYTEA NOT NULL,
    regulation TEXT COLLATE "C" NOT NULL,
    state TEXT COLLATE "C" NOT NULL,
    reason TEXT, -- of a rejection or a hold
    received_at BIGINT NOT NULL,
    due_at BIGINT NOT NULL,
    verified_at BIGINT,
    begun_at BIGINT,
    ended_at BIGINT, -- completed, rejected or cancelled
    removed TEXT, -- JSON: what was removed where, and the audit checkpoint of that moment
    certificate TEXT,
    UNIQUE (tenant_id, subject_id) -- one open request for each person
);
CREATE INDEX erasure_requests_of_tenant ON erasure_requests (tenant_id, id);
CREATE INDEX erasure_requests_open ON erasure_requests (due_at) WHERE ended_at IS NULL;

-- One row: up to which entry of the ledger this database is known to agree with it.
CREATE TABLE ledger_mark (
    id BIGINT PRIMARY KEY NOT NULL CHECK (id = 1),
    sequence BIGINT NOT NULL,
    hash BYTEA NOT NULL
);
INSERT INTO ledger_mark (id, sequence, hash) VALUES (1, 0, '\x0000000000000000000000000000000000000000000000000000000000000000');

ALTER TABLE erasure_requests ENABLE ROW LEVEL SECURITY;
ALTER TABLE erasure_requests FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON erasure_requests
    USING (current_setting('velum.tenant', true) IN (tenant_id, '*'));
