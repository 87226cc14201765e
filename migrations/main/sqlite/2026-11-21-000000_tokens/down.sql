ALTER TABLE clients DROP COLUMN public_key;
DROP TABLE used_assertions;
DROP TABLE revoked_tokens;
