"""Where messages and registrations are kept: in memory, or in SQLite."""
