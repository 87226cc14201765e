DROP TABLE ledger_head;
DROP TABLE ledger_entries;
DROP FUNCTION refuse_change();
