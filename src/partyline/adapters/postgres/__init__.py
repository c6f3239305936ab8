"""The log in PostgreSQL, for several nodes: appending, following, reading, and what goes when it is old."""
