ALTER TABLE data_keys DROP COLUMN next_wrapped;
ALTER TABLE data_keys DROP COLUMN next_kek_id;
ALTER TABLE data_keys DROP COLUMN next_since;
