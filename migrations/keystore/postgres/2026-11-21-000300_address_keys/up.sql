-- One key for each period: it hashes the addresses of callers, and its row goes when the next period begins.

CREATE TABLE address_keys (
    starts_at BIGINT PRIMARY KEY NOT NULL,
    kek_id TEXT NOT NULL,
    wrapped BYTEA NOT NULL -- see src/vault/envelope.rs
);
