DROP TABLE idempotency_records;
DROP TABLE verification_attempts;
DROP TABLE usage_days;
ALTER TABLE tenants DROP COLUMN quota_per_day;
DROP TABLE revocations;
DROP TABLE revocation_head;
CREATE TABLE revoked_tokens (
    token_id TEXT COLLATE "C" PRIMARY KEY NOT NULL,
    client_id TEXT COLLATE "C" NOT NULL REFERENCES clients (id),
    expires_at BIGINT NOT NULL, -- the token's own end: after it the row says nothing new and is removed
    revoked_at BIGINT NOT NULL
);
CREATE INDEX revoked_tokens_by_end ON revoked_tokens (expires_at);
