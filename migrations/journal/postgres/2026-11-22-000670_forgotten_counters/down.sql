ALTER TABLE forgotten_subjects DROP COLUMN counters;
