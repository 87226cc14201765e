DROP INDEX consents_of_subject;
CREATE INDEX consents_of_subject ON consents (tenant_id, subject_id, purpose, withdrawn_at, expires_at);
DROP INDEX consents_by_generation;
