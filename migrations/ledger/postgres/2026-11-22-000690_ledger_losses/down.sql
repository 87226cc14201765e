DROP TABLE ledger_losses;
