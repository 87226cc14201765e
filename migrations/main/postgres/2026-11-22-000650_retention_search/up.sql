-- The daily run, and the page that says what it will delete, find what is old enough without reading every row.

CREATE INDEX consents_withdrawn ON consents (tenant_id, withdrawn_at) WHERE withdrawn_at IS NOT NULL;
CREATE INDEX consents_expiring ON consents (tenant_id, expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX enrolments_by_age ON enrolments (tenant_id, created_at, subject_id);
DROP INDEX consents_of_subject;
CREATE INDEX consents_of_subject ON consents (tenant_id, subject_id, purpose, withdrawn_at, expires_at);
