-- The schema of a Partyline database, version 5. Applied as it stands to a new file; older files are brought here step
-- by step (stores/sqlite/opening.py). PRAGMA user_version holds the version.

-- One row: which database this is, and what outlives the messages.
CREATE TABLE store (
  id         INTEGER PRIMARY KEY CHECK (id = 1),
  created    REAL NOT NULL,               -- seconds since 1970
  epoch      TEXT NOT NULL,               -- 16 hex digits: the first half of every position
  head       INTEGER NOT NULL DEFAULT 0,  -- the log's highest offset when something was last pruned
  forgotten  INTEGER NOT NULL DEFAULT 0,  -- the highest offset pruned of rooms of which nothing is left
  probes     INTEGER NOT NULL DEFAULT 0   -- counts the commits that tried whether the disk takes one again
) STRICT;

-- What POST /register handed out. Ids are credentials: only their hashes are here.
CREATE TABLE registrations (
  id_hash  BLOB PRIMARY KEY,              -- SHA-256 of the id in /ws/<id>
  user     TEXT NOT NULL,
  topics   TEXT NOT NULL,                 -- JSON array of topic names
  grants   TEXT NOT NULL,                 -- JSON array of topic patterns its creator may subscribe to
  used     INTEGER NOT NULL,              -- 1 once a connection was made with it
  created  REAL NOT NULL,                 -- seconds since 1970
  confirmed TEXT,                         -- the position its client has surely got; NULL: it does not resume
  token    TEXT                           -- JSON array [jti, iat] of the token that made it; NULL: a key did
) STRICT, WITHOUT ROWID;

-- Tokens that count no more, each kept until none is left that it could concern.
CREATE TABLE revocations (
  kind  TEXT NOT NULL,                    -- sub or jti: what of a token `name` is
  name  TEXT NOT NULL,
  at    REAL NOT NULL,                    -- seconds since 1970
  PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID;

-- The durable messages of all rooms, in one order.
CREATE TABLE log (
  offset    INTEGER PRIMARY KEY,
  room      TEXT NOT NULL,
  identity  INTEGER,                      -- 48 bits of BLAKE2 over (publisher, room, id): how a retry is found
  time      INTEGER NOT NULL,             -- microseconds since 1970, the wall clock's, for people
  at        INTEGER NOT NULL,             -- milliseconds of the log's own clock, which never goes back: for retention
  head      TEXT NOT NULL,                -- JSON array: id, user, key, sender, ttl, durable, publisher
  data      BLOB NOT NULL,                -- the message, JSON
  checksum  INTEGER NOT NULL              -- CRC-32 over all of the above but identity
) STRICT;

CREATE INDEX log_by_room ON log (room);   -- and by offset within a room
CREATE INDEX log_by_identity ON log (identity) WHERE identity IS NOT NULL;

-- As store.forgotten, of rooms that a retention rule bounded, by the pattern of the rule.
CREATE TABLE forgotten (
  topic   TEXT PRIMARY KEY,
  offset  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The rooms that have messages in the log.
CREATE TABLE rooms (
  name    TEXT PRIMARY KEY,
  pruned  INTEGER NOT NULL                -- the highest offset of it that is gone, 0 if nothing is
) STRICT, WITHOUT ROWID;

-- Socket.IO sessions that may go on after a reconnect. Their private ids are credentials: only hashes are here.
CREATE TABLE sessions (
  pid_hash   BLOB PRIMARY KEY,            -- SHA-256 of the private id
  namespace  TEXT NOT NULL,
  sid        TEXT NOT NULL,               -- the socket's public id
  rooms      TEXT NOT NULL,               -- JSON array of the rooms it is in
  data       TEXT NOT NULL,               -- JSON object: what the application keeps with it
  start      TEXT NOT NULL                -- a position up to which it has surely got everything
) STRICT, WITHOUT ROWID;

-- What the workers of a machine know in common beside the log: registrations, sessions, revocations.
CREATE TABLE shared (
  name   TEXT NOT NULL,                   -- of the table
  key    TEXT NOT NULL,
  value  BLOB NOT NULL,
  until  REAL NOT NULL,                   -- the end of its life, seconds since 1970
  PRIMARY KEY (name, key)
) STRICT, WITHOUT ROWID;
