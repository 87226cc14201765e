-- What the access layer keeps: revocations with a version, what a tenant used on a day, failed verifications of a person,
-- and answers to calls that may come twice.

CREATE TABLE revocation_head (
    id BIGINT PRIMARY KEY NOT NULL CHECK (id = 1),
    version BIGINT NOT NULL -- of the newest; 1 before the first
);
CREATE TABLE revocations (
    version BIGINT PRIMARY KEY NOT NULL, -- counts up in the order of commits
    member TEXT COLLATE "C" NOT NULL UNIQUE, -- `t:` and a token id, or `c:` and a client id
    expires_at BIGINT NOT NULL
);
CREATE INDEX revocations_by_end ON revocations (expires_at);
INSERT INTO revocations (version, member, expires_at)
    SELECT 1 + row_number() OVER (ORDER BY revoked_at), 't:' || token_id, expires_at FROM revoked_tokens;
INSERT INTO revocation_head (id, version) SELECT 1, 1 + count(*) FROM revocations;
DROP TABLE revoked_tokens;

ALTER TABLE tenants ADD COLUMN quota_per_day BIGINT; -- instead of the service's own

CREATE TABLE usage_days (
    tenant_id TEXT COLLATE "C" NOT NULL REFERENCES tenants (id),
    day BIGINT NOT NULL, -- since 1970-01-01 UTC
    enrolments BIGINT NOT NULL,
    verifications BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, day)
);

CREATE TABLE verification_attempts (
    subject_id TEXT COLLATE "C" PRIMARY KEY NOT NULL,
    tenant_id TEXT COLLATE "C" NOT NULL,
    failures BIGINT NOT NULL, -- since the last match
    blocked_until BIGINT NOT NULL,
    FOREIGN KEY (tenant_id, subject_id) REFERENCES subjects (tenant_id, id) ON DELETE CASCADE
);

CREATE TABLE idempotency_records (
    id BYTEA PRIMARY KEY NOT NULL, -- keyed hash of tenant, operation and key
    tenant_id TEXT COLLATE "C" NOT NULL REFERENCES tenants (id),
    subject_id TEXT COLLATE "C", -- whose erasure takes the record along
    fingerprint BYTEA NOT NULL, -- keyed hash of what was asked
    claim TEXT NOT NULL, -- the call that works on it, or did
    claimed_until BIGINT NOT NULL,
    status BIGINT, -- of the answer; none while the call is at work
    location TEXT,
    answer BYTEA, -- sealed
    created_at BIGINT NOT NULL,
    FOREIGN KEY (tenant_id, subject_id) REFERENCES subjects (tenant_id, id) ON DELETE CASCADE
);
CREATE INDEX idempotency_records_by_age ON idempotency_records (created_at);
CREATE INDEX idempotency_records_of_subject ON idempotency_records (tenant_id, subject_id);

ALTER TABLE usage_days ENABLE ROW LEVEL SECURITY;
ALTER TABLE usage_days FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON usage_days
    USING (current_setting('velum.tenant', true) IN (tenant_id, '*'));
ALTER TABLE verification_attempts ENABLE ROW LEVEL SECURITY;
ALTER TABLE verification_attempts FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON verification_attempts
    USING (current_setting('velum.tenant', true) IN (tenant_id, '*'));
ALTER TABLE idempotency_records ENABLE ROW LEVEL SECURITY;
ALTER TABLE idempotency_records FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON idempotency_records
    USING (current_setting('velum.tenant', true) IN (tenant_id, '*'));
