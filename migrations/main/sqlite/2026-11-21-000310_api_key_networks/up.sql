-- From where an API key may call: CIDR networks joined by commas; without any, from everywhere.

ALTER TABLE api_keys ADD COLUMN allowed_networks TEXT;
