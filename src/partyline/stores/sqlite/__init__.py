"""SQLite from the standard library: `database` (file, lock, schema, writer thread) and the tables kept in it."""
