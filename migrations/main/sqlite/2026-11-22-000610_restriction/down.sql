ALTER TABLE subjects DROP COLUMN restriction;
ALTER TABLE subjects DROP COLUMN restricted_at;
