-- The key store. A row is a living key or the tombstone of a destroyed one, never both.

CREATE TABLE data_keys (
    subject_id TEXT PRIMARY KEY NOT NULL,
    tenant_id TEXT NOT NULL,
    kek_id TEXT,
    wrapped BLOB, -- see src/vault/envelope.rs
    created_at INTEGER NOT NULL, -- microseconds since 1970-01-01 UTC, as all instants
    destroyed_at INTEGER,
    CHECK ((wrapped IS NULL) = (kek_id IS NULL)),
    CHECK ((wrapped IS NULL) = (destroyed_at IS NOT NULL))
) STRICT;
