-- Keys for servers that call us without buying tokens. Of the key itself only a keyed hash is here.

CREATE TABLE api_keys (
    id TEXT PRIMARY KEY NOT NULL,
    tenant_id TEXT NOT NULL REFERENCES tenants (id),
    name TEXT NOT NULL,
    prefix TEXT NOT NULL, -- the first characters, for people to tell keys apart
    key_hash BLOB NOT NULL UNIQUE,
    scopes TEXT NOT NULL, -- joined by spaces
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    revoked_at INTEGER,
    last_used_at INTEGER, -- to the minute
    successor_id TEXT -- the key that was made when this one was rolled
) STRICT;
CREATE INDEX api_keys_of_tenant ON api_keys (tenant_id, id);
