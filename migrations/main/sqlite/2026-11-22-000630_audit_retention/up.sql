-- Where what is left of an audit log begins. The oldest entries may go once a signed checkpoint stands for them; the
-- checkpoint stays.
CREATE TABLE audit_beginnings (
    tenant_id TEXT PRIMARY KEY NOT NULL REFERENCES tenants (id),
    size INTEGER NOT NULL, -- entries that may go
    hash BLOB NOT NULL,
    peaks BLOB NOT NULL -- of the Merkle tree over them
) STRICT;
CREATE TRIGGER audit_beginnings_forward BEFORE UPDATE ON audit_beginnings WHEN NEW.size <= OLD.size
BEGIN
    SELECT RAISE(ABORT, 'an audit log is only ever shortened from its beginning');
END;
CREATE TRIGGER audit_beginnings_no_delete BEFORE DELETE ON audit_beginnings
BEGIN
    SELECT RAISE(ABORT, 'an audit log is only ever shortened from its beginning');
END;

DROP TRIGGER audit_events_no_delete;
CREATE TRIGGER audit_events_no_delete BEFORE DELETE ON audit_events
WHEN OLD.sequence > coalesce((SELECT size FROM audit_beginnings WHERE tenant_id = OLD.tenant_id), 0)
BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;
DROP TRIGGER audit_checkpoints_no_delete;
CREATE TRIGGER audit_checkpoints_no_delete BEFORE DELETE ON audit_checkpoints
WHEN OLD.size >= coalesce((SELECT size FROM audit_beginnings WHERE tenant_id = OLD.tenant_id), 0)
BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;
