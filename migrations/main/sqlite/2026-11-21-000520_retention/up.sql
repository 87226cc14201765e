-- When a person was last enrolled or verified: what unused templates are told by, longer than verifications are kept.

ALTER TABLE subjects ADD COLUMN last_used_at INTEGER;
UPDATE subjects SET last_used_at =
    (SELECT max(created_at) FROM enrolments WHERE enrolments.subject_id = subjects.id);
UPDATE subjects SET last_used_at =
    (SELECT max(created_at) FROM verifications WHERE verifications.subject_id = subjects.id)
    WHERE EXISTS (SELECT 1 FROM verifications
        WHERE verifications.subject_id = subjects.id AND verifications.created_at > coalesce(subjects.last_used_at, 0));
CREATE INDEX verifications_by_age ON verifications (tenant_id, created_at);
