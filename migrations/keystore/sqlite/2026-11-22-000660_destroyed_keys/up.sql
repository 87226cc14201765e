-- Which data keys a destruction took, for the certificate: JSON with the SHA-256 of each wrapped key and the name of the key
-- that had wrapped it. NULL in the row of a key that is there, and of one that was destroyed before this was noted.

ALTER TABLE data_keys ADD COLUMN destroyed_keys TEXT;
