-- Requests of persons to be given what is known of them. They end with the person, and their packages before that.

CREATE TABLE access_requests (
    id TEXT PRIMARY KEY NOT NULL,
    tenant_id TEXT NOT NULL,
    subject_id TEXT NOT NULL,
    regulation TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT, -- of a rejection
    received_at INTEGER NOT NULL,
    due_at INTEGER NOT NULL,
    ended_at INTEGER, -- completed, rejected or cancelled
    encrypted_for TEXT, -- the kind of key of the package, once there was one
    expires_at INTEGER,
    downloads INTEGER NOT NULL DEFAULT 0, -- by the link
    link_hash BLOB UNIQUE, -- as long as there is a package
    package BLOB, -- age ciphertext, sealed
    FOREIGN KEY (tenant_id, subject_id) REFERENCES subjects (tenant_id, id) ON DELETE CASCADE
) STRICT;
CREATE INDEX access_requests_of_tenant ON access_requests (tenant_id, id);
CREATE INDEX access_requests_of_subject ON access_requests (tenant_id, subject_id);
CREATE INDEX access_requests_open ON access_requests (due_at) WHERE ended_at IS NULL;
