-- Officers: persons who sign in at the console. What is sealed is sealed under the officer's own data key.

CREATE TABLE officers (
    id TEXT COLLATE "C" PRIMARY KEY NOT NULL,
    tenant_id TEXT COLLATE "C" NOT NULL REFERENCES tenants (id),
    name BYTEA NOT NULL, -- sealed
    name_index BYTEA NOT NULL UNIQUE, -- keyed hash: one name opens one account of the whole service
    password_hash BYTEA NOT NULL, -- sealed
    password_until BIGINT, -- of one that was handed out: it must have been changed by then
    totp_secret BYTEA NOT NULL, -- sealed
    totp_step BIGINT NOT NULL, -- the newest whose code was taken; no code of it or before it is taken again
    created_at BIGINT NOT NULL,
    disabled_at BIGINT,
    UNIQUE (tenant_id, id)
);

CREATE TABLE officer_sessions (
    token_hash BYTEA PRIMARY KEY NOT NULL,
    tenant_id TEXT COLLATE "C" NOT NULL,
    officer_id TEXT COLLATE "C" NOT NULL,
    started_at BIGINT NOT NULL,
    last_used_at BIGINT NOT NULL, -- to the minute
    FOREIGN KEY (tenant_id, officer_id) REFERENCES officers (tenant_id, id) ON DELETE CASCADE
);
CREATE INDEX officer_sessions_of_officer ON officer_sessions (tenant_id, officer_id);

-- Of names, whether or not anybody has them: who tries learns nothing from being slowed down.
CREATE TABLE sign_in_attempts (
    name_index BYTEA PRIMARY KEY NOT NULL,
    failures BIGINT NOT NULL, -- in a row
    blocked_until BIGINT NOT NULL,
    counted_at BIGINT NOT NULL
);
CREATE INDEX sign_in_attempts_by_age ON sign_in_attempts (counted_at);

ALTER TABLE officers ENABLE ROW LEVEL SECURITY;
ALTER TABLE officers FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON officers
    USING (current_setting('velum.tenant', true) IN (tenant_id, '*'));
ALTER TABLE officer_sessions ENABLE ROW LEVEL SECURITY;
ALTER TABLE officer_sessions FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON officer_sessions
    USING (current_setting('velum.tenant', true) IN (tenant_id, '*'));
