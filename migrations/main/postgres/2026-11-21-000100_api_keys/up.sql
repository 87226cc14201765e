-- Keys for servers that call us without buying tokens. Of the key itself only a keyed hash is here.

CREATE TABLE api_keys (
    id TEXT COLLATE "C" PRIMARY KEY NOT NULL,
    tenant_id TEXT COLLATE "C" NOT NULL REFERENCES tenants (id),
    name TEXT NOT NULL,
    prefix TEXT NOT NULL, -- the first characters, for people to tell keys apart
    key_hash BYTEA NOT NULL UNIQUE,
    scopes TEXT NOT NULL, -- joined by spaces
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    revoked_at BIGINT,
    last_used_at BIGINT, -- to the minute
    successor_id TEXT COLLATE "C" -- the key that was made when this one was rolled
);
CREATE INDEX api_keys_of_tenant ON api_keys (tenant_id, id);
