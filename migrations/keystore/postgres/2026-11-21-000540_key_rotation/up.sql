-- The key-encryption keys that ever wrapped a row here, by name. Who wraps holds the row of its key until commit; a key that
-- was retired wraps nothing any more.

CREATE TABLE wrapping_keys (
    id TEXT COLLATE "C" PRIMARY KEY NOT NULL,
    retired_at BIGINT -- microseconds since 1970-01-01 UTC
);
