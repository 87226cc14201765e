-- Work that is done later: each row is a job that waits, is at work under a lease, or was given up (dead). Done ones are gone.

CREATE TABLE jobs (
    id TEXT COLLATE "C" PRIMARY KEY NOT NULL,
    kind TEXT COLLATE "C" NOT NULL,
    tenant_id TEXT COLLATE "C" REFERENCES tenants (id), -- none: for every tenant
    payload TEXT NOT NULL, -- JSON: ids, never content
    unique_key TEXT COLLATE "C", -- of its kind, one of a key is not queued twice
    due_at BIGINT NOT NULL,
    attempts BIGINT NOT NULL, -- begun, since it was queued or last put off
    lease TEXT COLLATE "C", -- who is at it
    leased_until BIGINT,
    last_error TEXT, -- a code
    created_at BIGINT NOT NULL,
    dead_at BIGINT
);
CREATE UNIQUE INDEX jobs_by_key ON jobs (kind, unique_key) WHERE dead_at IS NULL;
CREATE INDEX jobs_due ON jobs (due_at, id) WHERE dead_at IS NULL;
CREATE INDEX jobs_leased ON jobs (lease) WHERE lease IS NOT NULL;

ALTER TABLE jobs ENABLE ROW LEVEL SECURITY;
ALTER TABLE jobs FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON jobs
    USING (current_setting('velum.tenant', true) IN (tenant_id, '*'));
