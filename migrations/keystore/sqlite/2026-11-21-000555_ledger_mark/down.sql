DROP TABLE ledger_mark;
