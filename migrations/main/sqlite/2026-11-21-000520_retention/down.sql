DROP INDEX verifications_by_age;
ALTER TABLE subjects DROP COLUMN last_used_at;
