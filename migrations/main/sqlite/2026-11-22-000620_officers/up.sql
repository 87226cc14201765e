-- Officers: persons who sign in at the console. What is sealed is sealed under the officer's own data key.

CREATE TABLE officers (
    id TEXT PRIMARY KEY NOT NULL,
    tenant_id TEXT NOT NULL REFERENCES tenants (id),
    name BLOB NOT NULL, -- sealed
    name_index BLOB NOT NULL UNIQUE, -- keyed hash: one name opens one account of the whole service
    password_hash BLOB NOT NULL, -- sealed
    password_until INTEGER, -- of one that was handed out: it must have been changed by then
    totp_secret BLOB NOT NULL, -- sealed
    totp_step INTEGER NOT NULL, -- the newest whose code was taken; no code of it or before it is taken again
    created_at INTEGER NOT NULL,
    disabled_at INTEGER,
    UNIQUE (tenant_id, id)
) STRICT;

CREATE TABLE officer_sessions (
    token_hash BLOB PRIMARY KEY NOT NULL,
    tenant_id TEXT NOT NULL,
    officer_id TEXT NOT NULL,
    started_at INTEGER NOT NULL,
    last_used_at INTEGER NOT NULL, -- to the minute
    FOREIGN KEY (tenant_id, officer_id) REFERENCES officers (tenant_id, id) ON DELETE CASCADE
) STRICT;
CREATE INDEX officer_sessions_of_officer ON officer_sessions (tenant_id, officer_id);

-- Of names, whether or not anybody has them: who tries learns nothing from being slowed down.
CREATE TABLE sign_in_attempts (
    name_index BLOB PRIMARY KEY NOT NULL,
    failures INTEGER NOT NULL, -- in a row
    blocked_until INTEGER NOT NULL,
    counted_at INTEGER NOT NULL
) STRICT;
CREATE INDEX sign_in_attempts_by_age ON sign_in_attempts (counted_at);
