-- Work that is done later: each row is a job that waits, is at work under a lease, or was given up (dead). Done ones are gone.

CREATE TABLE jobs (
    id TEXT PRIMARY KEY NOT NULL,
    kind TEXT NOT NULL,
    tenant_id TEXT REFERENCES tenants (id), -- none: for every tenant
    payload TEXT NOT NULL, -- JSON: ids, never content
    unique_key TEXT, -- of its kind, one of a key is not queued twice
    due_at INTEGER NOT NULL,
    attempts INTEGER NOT NULL, -- begun, since it was queued or last put off
    lease TEXT, -- who is at it
    leased_until INTEGER,
    last_error TEXT, -- a code
    created_at INTEGER NOT NULL,
    dead_at INTEGER
) STRICT;
CREATE UNIQUE INDEX jobs_by_key ON jobs (kind, unique_key) WHERE dead_at IS NULL;
CREATE INDEX jobs_due ON jobs (due_at, id) WHERE dead_at IS NULL;
CREATE INDEX jobs_leased ON jobs (lease) WHERE lease IS NOT NULL;
