DROP INDEX consents_of_subject;
CREATE INDEX consents_of_subject ON consents (tenant_id, subject_id, purpose);
DROP INDEX enrolments_by_age;
DROP INDEX consents_expiring;
DROP INDEX consents_withdrawn;
