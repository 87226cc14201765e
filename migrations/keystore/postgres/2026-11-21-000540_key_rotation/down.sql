DROP TABLE wrapping_keys;
