-- Since when, and why, what is known of a person is kept and nothing else is done with it; both or neither.

ALTER TABLE subjects ADD COLUMN restricted_at BIGINT;
ALTER TABLE subjects ADD COLUMN restriction TEXT COLLATE "C";
