-- How many counters were removed when a subject was forgotten, for the certificate. NULL where this was not noted yet.

ALTER TABLE forgotten_subjects ADD COLUMN counters INTEGER;
