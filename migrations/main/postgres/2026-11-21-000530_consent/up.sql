-- What people were told before they agreed, and who said what, when and how.

CREATE TABLE notices (
    id TEXT COLLATE "C" PRIMARY KEY NOT NULL,
    tenant_id TEXT COLLATE "C" NOT NULL REFERENCES tenants (id),
    purpose TEXT NOT NULL,
    version TEXT NOT NULL,
    language TEXT NOT NULL,
    body TEXT NOT NULL,
    body_sha256 BYTEA NOT NULL,
    controller_name TEXT NOT NULL,
    controller_contact TEXT NOT NULL,
    retention TEXT NOT NULL,
    data_categories TEXT NOT NULL, -- joined by line ends
    recipients TEXT NOT NULL, -- the same
    jurisdiction TEXT,
    policy_url TEXT,
    withdrawal_method TEXT,
    material_change BIGINT NOT NULL, -- 1 or 0
    generation BIGINT NOT NULL, -- material changes of the purpose's notices up to this version
    published_at BIGINT NOT NULL,
    published_by TEXT NOT NULL,
    UNIQUE (tenant_id, purpose, version, language)
);
CREATE INDEX notices_of_tenant ON notices (tenant_id, id);
CREATE INDEX notices_by_generation ON notices (tenant_id, purpose, generation);

ALTER TABLE consents ADD COLUMN notice_id TEXT COLLATE "C" REFERENCES notices (id);
ALTER TABLE consents ADD COLUMN notice_generation BIGINT NOT NULL DEFAULT 0;
ALTER TABLE consents ADD COLUMN granted_by TEXT; -- id of the credential that recorded it
ALTER TABLE consents ADD COLUMN method TEXT;
ALTER TABLE consents ADD COLUMN evidence BYTEA; -- sealed
ALTER TABLE consents ADD COLUMN given_by TEXT NOT NULL DEFAULT 'self';
ALTER TABLE consents ADD COLUMN guardian BYTEA; -- sealed
ALTER TABLE consents ADD COLUMN withdrawn_by TEXT;
ALTER TABLE consents ADD COLUMN withdrawal_method TEXT;
ALTER TABLE consents ADD COLUMN withdrawal_evidence BYTEA; -- sealed

ALTER TABLE notices ENABLE ROW LEVEL SECURITY;
ALTER TABLE notices FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON notices
    USING (current_setting('velum.tenant', true) IN (tenant_id, '*'));
