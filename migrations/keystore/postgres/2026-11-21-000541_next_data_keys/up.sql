-- While a person's data key is exchanged, the row holds the next one too: what is sealed from then on is sealed under it, and
-- it follows when everything older was sealed anew.
ALTER TABLE data_keys ADD COLUMN next_kek_id TEXT;
ALTER TABLE data_keys ADD COLUMN next_wrapped BYTEA CHECK (next_wrapped IS NULL OR (wrapped IS NOT NULL AND next_kek_id IS NOT NULL));
ALTER TABLE data_keys ADD COLUMN next_since BIGINT;
