DROP TRIGGER audit_checkpoints_no_delete ON audit_checkpoints;
DROP TRIGGER audit_checkpoints_append_only ON audit_checkpoints;
CREATE TRIGGER audit_checkpoints_append_only BEFORE UPDATE OR DELETE ON audit_checkpoints
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
DROP TRIGGER audit_events_no_delete ON audit_events;
DROP TRIGGER audit_events_append_only ON audit_events;
CREATE TRIGGER audit_events_append_only BEFORE UPDATE OR DELETE ON audit_events
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
DROP FUNCTION refuse_deletion_of_checkpoints_left();
DROP FUNCTION refuse_deletion_of_entries_left();
DROP FUNCTION entries_that_went(TEXT);
DROP TABLE audit_beginnings;
DROP FUNCTION refuse_other_than_forward();
