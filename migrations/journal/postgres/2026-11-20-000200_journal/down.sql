DROP TABLE audit_head;
DROP TABLE audit_lines;
DROP FUNCTION refuse_change();
DROP TABLE forgotten_subjects;
DROP TABLE budget_counters;
DROP TABLE opened_verifications;
