-- The schema of a Partyline database, version 1. Applied as it stands to a new file; older files are brought here step
-- by step (stores/sqlite/database.py). PRAGMA user_version holds the version.

-- One row: which database this is.
CREATE TABLE store (
  id       INTEGER PRIMARY KEY CHECK (id = 1),
  created  REAL NOT NULL                  -- seconds since 1970
) STRICT;

-- What POST /register handed out. Ids are credentials: only their hashes are here.
CREATE TABLE registrations (
  id_hash  BLOB PRIMARY KEY,              -- SHA-256 of the id in /ws/<id>
  user     TEXT NOT NULL,
  topics   TEXT NOT NULL,                 -- JSON array of topic names
  grants   TEXT NOT NULL,                 -- JSON array of topic patterns its creator may subscribe to
  used     INTEGER NOT NULL,              -- 1 once a connection was made with it
  created  REAL NOT NULL                  -- seconds since 1970
) STRICT, WITHOUT ROWID;
