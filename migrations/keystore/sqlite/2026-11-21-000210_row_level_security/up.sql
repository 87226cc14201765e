-- SQLite knows no row-level security: its file is the one process's own.
SELECT 1;
