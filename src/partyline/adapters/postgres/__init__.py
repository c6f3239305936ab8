"""The log in PostgreSQL, for several nodes: appending, following, reading, and retention."""
