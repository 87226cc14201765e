-- Tokens that were ended before their time, and how clients prove who they are without a secret.

CREATE TABLE revoked_tokens (
    token_id TEXT COLLATE "C" PRIMARY KEY NOT NULL,
    client_id TEXT COLLATE "C" NOT NULL REFERENCES clients (id),
    expires_at BIGINT NOT NULL, -- the token's own end: after it the row says nothing new and is removed
    revoked_at BIGINT NOT NULL
);
CREATE INDEX revoked_tokens_by_end ON revoked_tokens (expires_at);

CREATE TABLE used_assertions (
    client_id TEXT COLLATE "C" NOT NULL REFERENCES clients (id),
    assertion_id TEXT COLLATE "C" NOT NULL, -- the `jti` that the client chose, hashed
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (client_id, assertion_id)
);
CREATE INDEX used_assertions_by_end ON used_assertions (expires_at);

ALTER TABLE clients ADD COLUMN public_key TEXT; -- RSA, PEM; a client that has one has no secret (an empty hash)
