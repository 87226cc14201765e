-- Retention finds consents that a later notice superseded, and whether a template has one that stands, by index alone.

CREATE INDEX consents_by_generation ON consents (tenant_id, notice_generation, purpose);
DROP INDEX consents_of_subject;
CREATE INDEX consents_of_subject ON consents
    (tenant_id, subject_id, purpose, withdrawn_at, expires_at, notice_generation);
