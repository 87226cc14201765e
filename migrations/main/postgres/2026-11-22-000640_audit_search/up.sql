-- An officer searches the audit log by act and by day.

CREATE INDEX audit_events_of_action ON audit_events (tenant_id, action, sequence);
CREATE INDEX audit_events_by_time ON audit_events (tenant_id, at, sequence);
