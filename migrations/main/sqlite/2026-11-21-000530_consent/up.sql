-- What people were told before they agreed, and who said what, when and how.

CREATE TABLE notices (
    id TEXT PRIMARY KEY NOT NULL,
    tenant_id TEXT NOT NULL REFERENCES tenants (id),
    purpose TEXT NOT NULL,
    version TEXT NOT NULL,
    language TEXT NOT NULL,
    body TEXT NOT NULL,
    body_sha256 BLOB NOT NULL,
    controller_name TEXT NOT NULL,
    controller_contact TEXT NOT NULL,
    retention TEXT NOT NULL,
    data_categories TEXT NOT NULL, -- joined by line ends
    recipients TEXT NOT NULL, -- the same
    jurisdiction TEXT,
    policy_url TEXT,
    withdrawal_method TEXT,
    material_change INTEGER NOT NULL, -- 1 or 0
    generation INTEGER NOT NULL, -- material changes of the purpose's notices up to this version
    published_at INTEGER NOT NULL,
    published_by TEXT NOT NULL,
    UNIQUE (tenant_id, purpose, version, language)
) STRICT;
CREATE INDEX notices_of_tenant ON notices (tenant_id, id);
CREATE INDEX notices_by_generation ON notices (tenant_id, purpose, generation);

ALTER TABLE consents ADD COLUMN notice_id TEXT REFERENCES notices (id);
ALTER TABLE consents ADD COLUMN notice_generation INTEGER NOT NULL DEFAULT 0;
ALTER TABLE consents ADD COLUMN granted_by TEXT; -- id of the credential that recorded it
ALTER TABLE consents ADD COLUMN method TEXT;
ALTER TABLE consents ADD COLUMN evidence BLOB; -- sealed
ALTER TABLE consents ADD COLUMN given_by TEXT NOT NULL DEFAULT 'self';
ALTER TABLE consents ADD COLUMN guardian BLOB; -- sealed
ALTER TABLE consents ADD COLUMN withdrawn_by TEXT;
ALTER TABLE consents ADD COLUMN withdrawal_method TEXT;
ALTER TABLE consents ADD COLUMN withdrawal_evidence BLOB; -- sealed
