-- Requests of persons to be given what is known of them. They end with the person, and their packages before that.

CREATE TABLE access_requests (
    id TEXT COLLATE "C" PRIMARY KEY NOT NULL,
    tenant_id TEXT COLLATE "C" NOT NULL,
    subject_id TEXT COLLATE "C" NOT NULL,
    regulation TEXT COLLATE "C" NOT NULL,
    state TEXT COLLATE "C" NOT NULL,
    reason TEXT, -- of a rejection
    received_at BIGINT NOT NULL,
    due_at BIGINT NOT NULL,
    ended_at BIGINT, -- completed, rejected or cancelled
    encrypted_for TEXT COLLATE "C", -- the kind of key of the package, once there was one
    expires_at BIGINT,
    downloads BIGINT NOT NULL DEFAULT 0, -- by the link
    link_hash BYTEA UNIQUE, -- as long as there is a package
    package BYTEA, -- age ciphertext, sealed
    FOREIGN KEY (tenant_id, subject_id) REFERENCES subjects (tenant_id, id) ON DELETE CASCADE
);
CREATE INDEX access_requests_of_tenant ON access_requests (tenant_id, id);
CREATE INDEX access_requests_of_subject ON access_requests (tenant_id, subject_id);
CREATE INDEX access_requests_open ON access_requests (due_at) WHERE ended_at IS NULL;

ALTER TABLE access_requests ENABLE ROW LEVEL SECURITY;
ALTER TABLE access_requests FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON access_requests
    USING (current_setting('velum.tenant', true) IN (tenant_id, '*'));
