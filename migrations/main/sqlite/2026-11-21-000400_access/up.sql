-- What the access layer keeps: revocations with a version, what a tenant used on a day, failed verifications of a person,
-- and answers to calls that may come twice.

CREATE TABLE revocation_head (
    id INTEGER PRIMARY KEY NOT NULL CHECK (id = 1),
    version INTEGER NOT NULL -- of the newest; 1 before the first
) STRICT;
CREATE TABLE revocations (
    version INTEGER PRIMARY KEY NOT NULL, -- counts up in the order of commits
    member TEXT NOT NULL UNIQUE, -- `t:` and a token id, or `c:` and a client id
    expires_at INTEGER NOT NULL
) STRICT;
CREATE INDEX revocations_by_end ON revocations (expires_at);
INSERT INTO revocations (version, member, expires_at)
    SELECT 1 + row_number() OVER (ORDER BY revoked_at), 't:' || token_id, expires_at FROM revoked_tokens;
INSERT INTO revocation_head (id, version) SELECT 1, 1 + count(*) FROM revocations;
DROP TABLE revoked_tokens;

ALTER TABLE tenants ADD COLUMN quota_per_day INTEGER; -- instead of the service's own

CREATE TABLE usage_days (
    tenant_id TEXT NOT NULL REFERENCES tenants (id),
    day INTEGER NOT NULL, -- since 1970-01-01 UTC
    enrolments INTEGER NOT NULL,
    verifications INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, day)
) STRICT;

CREATE TABLE verification_attempts (
    subject_id TEXT PRIMARY KEY NOT NULL,
    tenant_id TEXT NOT NULL,
    failures INTEGER NOT NULL, -- since the last match
    blocked_until INTEGER NOT NULL,
    FOREIGN KEY (tenant_id, subject_id) REFERENCES subjects (tenant_id, id) ON DELETE CASCADE
) STRICT;

CREATE TABLE idempotency_records (
    id BLOB PRIMARY KEY NOT NULL, -- keyed hash of tenant, operation and key
    tenant_id TEXT NOT NULL REFERENCES tenants (id),
    subject_id TEXT, -- whose erasure takes the record along
    fingerprint BLOB NOT NULL, -- keyed hash of what was asked
    claim TEXT NOT NULL, -- the call that works on it, or did
    claimed_until INTEGER NOT NULL,
    status INTEGER, -- of the answer; none while the call is at work
    location TEXT,
    answer BLOB, -- sealed
    created_at INTEGER NOT NULL,
    FOREIGN KEY (tenant_id, subject_id) REFERENCES subjects (tenant_id, id) ON DELETE CASCADE
) STRICT;
CREATE INDEX idempotency_records_by_age ON idempotency_records (created_at);
CREATE INDEX idempotency_records_of_subject ON idempotency_records (tenant_id, subject_id);
