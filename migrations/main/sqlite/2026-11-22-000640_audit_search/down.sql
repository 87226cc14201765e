DROP INDEX audit_events_by_time;
DROP INDEX audit_events_of_action;
