-- The keyholder's journal. Instants are microseconds since 1970-01-01 UTC, days are counted from there.

CREATE TABLE opened_verifications (
    verification_id TEXT COLLATE "C" PRIMARY KEY NOT NULL,
    opened_at BIGINT NOT NULL
);

CREATE TABLE budget_counters (
    day BIGINT NOT NULL,
    scope TEXT COLLATE "C" NOT NULL,
    id TEXT COLLATE "C" NOT NULL, -- digest of the subject, id of the tenant, or 'all'
    opened BIGINT NOT NULL,
    PRIMARY KEY (day, scope, id)
);

CREATE TABLE forgotten_subjects (
    subject_digest BYTEA PRIMARY KEY NOT NULL,
    forgotten_at BIGINT NOT NULL
);

CREATE TABLE audit_lines (
    sequence BIGINT PRIMARY KEY NOT NULL,
    at BIGINT NOT NULL,
    event TEXT NOT NULL,
    reason TEXT NOT NULL,
    caller TEXT NOT NULL,
    tenant_id TEXT NOT NULL,
    subject_digest BYTEA NOT NULL,
    verification_id TEXT NOT NULL,
    hash BYTEA NOT NULL
);

-- One row: the end of the chain. Each writer takes it first.
CREATE TABLE audit_head (
    id INTEGER PRIMARY KEY NOT NULL CHECK (id = 1),
    sequence BIGINT NOT NULL,
    hash BYTEA NOT NULL
);
INSERT INTO audit_head (id, sequence, hash) VALUES (1, 0, '\x0000000000000000000000000000000000000000000000000000000000000000');

-- Lines are only ever appended.
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'audit lines are append-only';
END
$$;
CREATE TRIGGER audit_lines_append_only BEFORE UPDATE OR DELETE ON audit_lines
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
