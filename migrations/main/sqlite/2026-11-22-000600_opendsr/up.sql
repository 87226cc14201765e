-- Requests that controllers pass on by OpenDSR. Each is a name of the controller's for an erasure request of ours, and outlives
-- the person as that one does: nothing here says who it was.

CREATE TABLE opendsr_requests (
    tenant_id TEXT NOT NULL REFERENCES tenants (id),
    id TEXT NOT NULL, -- the controller's: a UUID
    erasure_id TEXT, -- none: nobody was found. No reference, for a replay of the ledger writes that row anew
    fingerprint BLOB NOT NULL, -- of what was sent, under a key of the service
    received_at INTEGER NOT NULL,
    due_at INTEGER NOT NULL,
    receivers INTEGER NOT NULL, -- how many are to be told of changes
    changes INTEGER NOT NULL, -- how many there were
    key_id TEXT, -- in the key store, as if of a person, what seals the addresses: it outlives the person's own
    addresses BLOB, -- of the receivers, sealed, until the last of them was told the end
    PRIMARY KEY (tenant_id, id)
) STRICT;
CREATE INDEX opendsr_requests_by_erasure ON opendsr_requests (tenant_id, erasure_id);
CREATE INDEX opendsr_requests_with_addresses ON opendsr_requests (key_id) WHERE key_id IS NOT NULL;

-- What a receiver has yet to be told, in the order of the changes.
CREATE TABLE opendsr_callbacks (
    id TEXT PRIMARY KEY NOT NULL,
    tenant_id TEXT NOT NULL,
    request_id TEXT NOT NULL,
    receiver INTEGER NOT NULL, -- from 0
    change INTEGER NOT NULL, -- from 1
    state TEXT NOT NULL,
    UNIQUE (tenant_id, request_id, receiver, change),
    FOREIGN KEY (tenant_id, request_id) REFERENCES opendsr_requests (tenant_id, id)
) STRICT;

