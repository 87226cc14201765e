-- Requests that controllers pass on by OpenDSR. Each is a name of the controller's for an erasure request of ours, and outlives
-- the person as that one does: nothing here says who it was.

CREATE TABLE opendsr_requests (
    tenant_id TEXT COLLATE "C" NOT NULL REFERENCES tenants (id),
    id TEXT COLLATE "C" NOT NULL, -- the controller's: a UUID
    erasure_id TEXT COLLATE "C", -- none: nobody was found. No reference, for a replay of the ledger writes that row anew
    fingerprint BYTEA NOT NULL, -- of what was sent, under a key of the service
    received_at BIGINT NOT NULL,
    due_at BIGINT NOT NULL,
    receivers BIGINT NOT NULL, -- how many are to be told of changes
    changes BIGINT NOT NULL, -- how many there were
    key_id TEXT COLLATE "C", -- in the key store, as if of a person, what seals the addresses: it outlives the person's own
    addresses BYTEA, -- of the receivers, sealed, until the last of them was told the end
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX opendsr_requests_by_erasure ON opendsr_requests (tenant_id, erasure_id);
CREATE INDEX opendsr_requests_with_addresses ON opendsr_requests (key_id) WHERE key_id IS NOT NULL;

-- What a receiver has yet to be told, in the order of the changes.
CREATE TABLE opendsr_callbacks (
    id TEXT COLLATE "C" PRIMARY KEY NOT NULL,
    tenant_id TEXT COLLATE "C" NOT NULL,
    request_id TEXT COLLATE "C" NOT NULL,
    receiver BIGINT NOT NULL, -- from 0
    change BIGINT NOT NULL, -- from 1
    state TEXT COLLATE "C" NOT NULL,
    UNIQUE (tenant_id, request_id, receiver, change),
    FOREIGN KEY (tenant_id, request_id) REFERENCES opendsr_requests (tenant_id, id)
);

ALTER TABLE opendsr_requests ENABLE ROW LEVEL SECURITY;
ALTER TABLE opendsr_requests FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON opendsr_requests
    USING (current_setting('velum.tenant', true) IN (tenant_id, '*'));
ALTER TABLE opendsr_callbacks ENABLE ROW LEVEL SECURITY;
ALTER TABLE opendsr_callbacks FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON opendsr_callbacks
    USING (current_setting('velum.tenant', true) IN (tenant_id, '*'));
