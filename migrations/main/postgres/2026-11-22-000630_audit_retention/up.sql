-- Where what is left of an audit log begins. The oldest entries may go once a signed checkpoint stands for them; the
-- checkpoint stays.
CREATE TABLE audit_beginnings (
    tenant_id TEXT COLLATE "C" PRIMARY KEY NOT NULL REFERENCES tenants (id),
    size BIGINT NOT NULL, -- entries that may go
    hash BYTEA NOT NULL,
    peaks BYTEA NOT NULL -- of the Merkle tree over them
);
CREATE FUNCTION refuse_other_than_forward() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.size > OLD.size THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'an audit log is only ever shortened from its beginning';
END
$$;
CREATE TRIGGER audit_beginnings_forward BEFORE UPDATE OR DELETE ON audit_beginnings
    FOR EACH ROW EXECUTE FUNCTION refuse_other_than_forward();

CREATE FUNCTION entries_that_went(tenant TEXT) RETURNS BIGINT LANGUAGE sql STABLE AS $$
    SELECT coalesce((SELECT size FROM audit_beginnings WHERE tenant_id = tenant), 0)
$$;
CREATE FUNCTION refuse_deletion_of_entries_left() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.sequence > entries_that_went(OLD.tenant_id) THEN
        RAISE EXCEPTION 'the audit log is append-only';
    END IF;
    RETURN OLD;
END
$$;
CREATE FUNCTION refuse_deletion_of_checkpoints_left() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.size >= entries_that_went(OLD.tenant_id) THEN
        RAISE EXCEPTION 'the audit log is append-only';
    END IF;
    RETURN OLD;
END
$$;
DROP TRIGGER audit_events_append_only ON audit_events;
CREATE TRIGGER audit_events_append_only BEFORE UPDATE ON audit_events
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER audit_events_no_delete BEFORE DELETE ON audit_events
    FOR EACH ROW EXECUTE FUNCTION refuse_deletion_of_entries_left();
DROP TRIGGER audit_checkpoints_append_only ON audit_checkpoints;
CREATE TRIGGER audit_checkpoints_append_only BEFORE UPDATE ON audit_checkpoints
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER audit_checkpoints_no_delete BEFORE DELETE ON audit_checkpoints
    FOR EACH ROW EXECUTE FUNCTION refuse_deletion_of_checkpoints_left();

ALTER TABLE audit_beginnings ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit_beginnings FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON audit_beginnings
    USING (current_setting('velum.tenant', true) IN (tenant_id, '*'));
