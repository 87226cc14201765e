-- The audit log of each tenant (src/audit): entries, the end of the log, and what was signed of it.

CREATE TABLE audit_events (
    tenant_id TEXT COLLATE "C" NOT NULL REFERENCES tenants (id),
    sequence BIGINT NOT NULL, -- from 1, without gaps
    at BIGINT NOT NULL,
    action TEXT NOT NULL,
    actor TEXT NOT NULL,
    request_id TEXT,
    subject_digest BYTEA, -- keyed hash of a subject's id
    object TEXT,
    reason TEXT,
    hash BYTEA NOT NULL, -- over the entry and all before it
    PRIMARY KEY (tenant_id, sequence)
);
CREATE INDEX audit_events_of_subject ON audit_events (tenant_id, subject_digest, sequence);

-- One row for each tenant: each writer takes it, last of all.
CREATE TABLE audit_heads (
    tenant_id TEXT COLLATE "C" PRIMARY KEY NOT NULL REFERENCES tenants (id),
    size BIGINT NOT NULL,
    hash BYTEA NOT NULL,
    peaks BYTEA NOT NULL -- of the Merkle tree
);
INSERT INTO audit_heads (tenant_id, size, hash, peaks) SELECT id, 0, '\x', '\x' FROM tenants;

CREATE TABLE audit_checkpoints (
    tenant_id TEXT COLLATE "C" NOT NULL REFERENCES tenants (id),
    size BIGINT NOT NULL,
    at BIGINT NOT NULL,
    jws TEXT NOT NULL,
    PRIMARY KEY (tenant_id, size)
);

-- Entries and checkpoints are only ever appended.
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is append-only';
END
$$;
CREATE TRIGGER audit_events_append_only BEFORE UPDATE OR DELETE ON audit_events
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER audit_checkpoints_append_only BEFORE UPDATE OR DELETE ON audit_checkpoints
    FOR EACH ROW EXECUTE FUNCTION refuse_change();

ALTER TABLE audit_events ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit_events FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON audit_events
    USING (current_setting('velum.tenant', true) IN (tenant_id, '*'));
ALTER TABLE audit_heads ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit_heads FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON audit_heads
    USING (current_setting('velum.tenant', true) IN (tenant_id, '*'));
ALTER TABLE audit_checkpoints ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit_checkpoints FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON audit_checkpoints
    USING (current_setting('velum.tenant', true) IN (tenant_id, '*'));
