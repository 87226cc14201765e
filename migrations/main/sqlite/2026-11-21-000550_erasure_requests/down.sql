DROP TABLE ledger_mark;
DROP TABLE erasure_requests;
