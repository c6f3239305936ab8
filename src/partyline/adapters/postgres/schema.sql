-- The schema of a log in PostgreSQL, version 1. `partyline.` stands for the schema that the log's address names.

-- One row: which log this is. Whoever appends holds it, so the order of offsets is the order of commits.
CREATE TABLE partyline.store (
  id        integer PRIMARY KEY CHECK (id = 1),
  version   integer NOT NULL,
  epoch     text NOT NULL,                 -- 16 hex digits: the first half of every position
  origin    text NOT NULL,                 -- the server that has the log, and its timeline: partyline.origin()
  head      bigint NOT NULL,               -- the highest offset ever given
  rooms     integer NOT NULL               -- how many there are
) WITH (fillfactor = 10);

-- The durable messages of all rooms, in one order.
CREATE TABLE partyline.log (
  "offset"  bigint PRIMARY KEY,
  room      text COLLATE "C" NOT NULL,
  "user"    text COLLATE "C",              -- whom it is for; NULL: everybody
  ttl       float8,                        -- its life in seconds; NULL: for ever
  identity  bytea NOT NULL,                -- 128 bits of BLAKE2 over (publisher, room, id): how a retry is found
  time      float8 NOT NULL,               -- seconds since 1970, by this server's clock
  head      text NOT NULL,                 -- JSON array: id, key, sender, durable, publisher
  data      bytea NOT NULL                 -- the message, JSON
);
CREATE INDEX log_by_room ON partyline.log (room, "offset");
CREATE INDEX log_by_identity ON partyline.log (identity);

-- The rooms that have messages in the log.
CREATE TABLE partyline.rooms (
  name      text COLLATE "C" PRIMARY KEY,
  pruned    bigint NOT NULL,               -- the highest offset of it that is gone, 0 if nothing is
  messages  bigint NOT NULL DEFAULT 0,     -- and their bytes, up to pruning.counted
  bytes     bigint NOT NULL DEFAULT 0,
  due       float8                         -- when something of it may have to go
);
CREATE INDEX rooms_by_due ON partyline.rooms (due);
CREATE INDEX rooms_by_pruned ON partyline.rooms (pruned) WHERE pruned > 0;

-- The highest offset that is gone of rooms of which nothing is left, by the pattern of the rule that bounded them.
CREATE TABLE partyline.forgotten (
  rule      text COLLATE "C" PRIMARY KEY,  -- '' for rooms without a rule
  regex     text NOT NULL,                 -- the pattern as a regular expression
  "offset"  bigint NOT NULL
);

-- One row: how far retention is.
CREATE TABLE partyline.pruning (
  id        integer PRIMARY KEY CHECK (id = 1),
  counted   bigint NOT NULL,
  pruned    bigint NOT NULL,               -- the highest offset that is gone
  bounds    text NOT NULL                  -- those that rooms.due goes by
);

-- The timeline that this server writes: another one after the promotion of a standby. Fails on a standby.
CREATE FUNCTION partyline.timeline() RETURNS text LANGUAGE sql AS
  'SELECT substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)';

CREATE FUNCTION partyline.origin() RETURNS text LANGUAGE sql AS
  'SELECT system_identifier || ''-'' || partyline.timeline() FROM pg_control_system()';

-- Whether the log has this epoch, and is where it got it.
CREATE FUNCTION partyline.is_of(of_epoch text) RETURNS boolean LANGUAGE sql AS
  'SELECT epoch = of_epoch AND right(origin, 8) = partyline.timeline() FROM partyline.store';

-- Number and keep drafts, all or none; in one call, so that no node that hangs can hold the row of the store. `told`:
-- stored    they have the offsets after `head`, and the time `at`
-- fenced    the log has another epoch
-- known     an identity is in the log and not older than `lasting` seconds: nothing was kept
-- full      there would be too many rooms: nothing was kept
CREATE FUNCTION partyline.append(
  of_epoch text, now float8, lasting float8, max_rooms integer,
  rooms text[], users text[], ttls float8[], identities bytea[], heads text[], data bytea[],
  OUT told text, OUT head bigint, OUT at float8
) LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE
  store partyline.store%ROWTYPE;
  fresh text[];
BEGIN
  SELECT * INTO store FROM partyline.store s FOR UPDATE;
  IF store.epoch <> of_epoch OR right(store.origin, 8) <> partyline.timeline() THEN
    told := 'fenced';
    RETURN;
  END IF;
  -- The commit is durable, whatever the role's default: it waits for the disk, and for standbys that are synchronous.
  IF current_setting('synchronous_commit') IN ('off', 'local', 'remote_write') THEN
    PERFORM set_config('synchronous_commit', 'on', true);
  END IF;
  head := store.head;
  at := coalesce(now, extract(epoch FROM clock_timestamp()));
  IF EXISTS (SELECT FROM partyline.log l WHERE l.identity = ANY (identities) AND l.time >= at - lasting) THEN
    told := 'known';
    RETURN;
  END IF;
  fresh := ARRAY(
    SELECT DISTINCT u.name FROM unnest(rooms) AS u(name)
    WHERE NOT EXISTS (SELECT FROM partyline.rooms r WHERE r.name = u.name)
  );
  IF cardinality(fresh) > 0 THEN
    IF store.rooms + cardinality(fresh) > max_rooms THEN
      told := 'full';
      RETURN;
    END IF;
    -- It may have been here before, and lost all it had.
    INSERT INTO partyline.rooms (name, pruned)
      SELECT u.name, coalesce((SELECT max(f."offset") FROM partyline.forgotten f WHERE u.name ~ f.regex), 0)
      FROM unnest(fresh) AS u(name);
  END IF;
  INSERT INTO partyline.log ("offset", room, "user", ttl, identity, time, head, data)
    SELECT store.head + number, d.room, d."user", d.ttl, d.identity, at, d.head, d.data
    FROM unnest(rooms, users, ttls, identities, heads, data)
      WITH ORDINALITY AS d(room, "user", ttl, identity, head, data, number);
  UPDATE partyline.store s
    SET head = store.head + cardinality(identities), rooms = store.rooms + cardinality(fresh);
  PERFORM pg_notify('partyline.', '');
  told := 'stored';
END $$;

-- At most so many messages after an offset, and at most that many bytes or one message; one row without any where there
-- are none, and none at all where the log has another epoch. Plans are kept, so one that was made for an empty log must
-- not be a scan of a full one.
CREATE FUNCTION partyline.tail(of_epoch text, after bigint, most integer, most_bytes bigint)
RETURNS TABLE (
  pruned bigint, "offset" bigint, room text, "user" text, ttl float8, "time" float8, head text, data bytea
) LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
BEGIN
  RETURN QUERY
    SELECT p.pruned, m."offset", m.room, m."user", m.ttl, m.time, m.head, m.data
    FROM partyline.pruning p LEFT JOIN (
      SELECT n.*, sum(octet_length(n.data)) OVER (ORDER BY n."offset") - octet_length(n.data) AS before
      FROM (SELECT * FROM partyline.log l WHERE l."offset" > after ORDER BY l."offset" LIMIT most) AS n
    ) AS m ON m.before < most_bytes
    WHERE partyline.is_of(of_epoch) ORDER BY m."offset";
END $$;

-- Registrations, sessions and revocations, where nodes share them: what there is, and how it became so.
CREATE TABLE partyline.shelf (
  name      text COLLATE "C" NOT NULL,     -- registrations, sessions or revocations
  key       bytea NOT NULL,
  value     bytea NOT NULL,
  until     float8 NOT NULL,               -- seconds since 1970: the end of its life
  PRIMARY KEY (name, key)
);
CREATE INDEX shelf_by_until ON partyline.shelf (until);

-- The changes of the last hour, in order.
CREATE TABLE partyline.changes (
  number    bigint PRIMARY KEY,
  at        float8 NOT NULL,
  name      text COLLATE "C" NOT NULL,
  key       bytea NOT NULL,
  value     bytea,                         -- NULL: it was taken
  until     float8 NOT NULL
);

-- One row: the number of the newest change. Whoever changes something holds it.
CREATE TABLE partyline.shelves (
  id        integer PRIMARY KEY CHECK (id = 1),
  changed   bigint NOT NULL
) WITH (fillfactor = 10);
INSERT INTO partyline.shelves VALUES (1, 0);

-- Put a value on a shelf for some seconds, or take what is there: `put` NULL. `was` is what was there and still lived.
CREATE FUNCTION partyline.change(of_name text, of_key bytea, put bytea, life float8, now float8, OUT was bytea)
LANGUAGE plpgsql AS $$
DECLARE
  next bigint;
BEGIN
  UPDATE partyline.shelves SET changed = changed + 1 RETURNING changed INTO next;
  IF current_setting('synchronous_commit') IN ('off', 'local', 'remote_write') THEN
    PERFORM set_config('synchronous_commit', 'on', true);
  END IF;
  now := coalesce(now, extract(epoch FROM clock_timestamp()));
  SELECT s.value INTO was FROM partyline.shelf s WHERE s.name = of_name AND s.key = of_key AND s.until > now;
  IF put IS NULL THEN
    DELETE FROM partyline.shelf s WHERE s.name = of_name AND s.key = of_key;
  ELSE
    INSERT INTO partyline.shelf VALUES (of_name, of_key, put, now + life)
      ON CONFLICT (name, key) DO UPDATE SET value = excluded.value, until = excluded.until;
  END IF;
  INSERT INTO partyline.changes VALUES (next, now, of_name, of_key, put, now + life);
  -- Each change lets go of two that are over: so there are never more than lived, or came in an hour.
  DELETE FROM partyline.shelf s WHERE (s.name, s.key) IN (
    SELECT o.name, o.key FROM partyline.shelf o WHERE o.until <= now ORDER BY o.until LIMIT 2
  );
  DELETE FROM partyline.changes c WHERE c.at < now - 3600 AND c.number IN (
    SELECT o.number FROM partyline.changes o ORDER BY o.number LIMIT 2
  );
  PERFORM pg_notify('partyline.shelves', '');
END $$;

-- What nodes say to each other on the bus, for a minute. No crash has to leave it: at most once is all that a bus
-- promises.
CREATE UNLOGGED TABLE partyline.said (
  number    bigint PRIMARY KEY,
  at        float8 NOT NULL,
  subject   bytea NOT NULL,
  message   bytea NOT NULL
);
CREATE SEQUENCE partyline.said_number;

-- Say some of it. The lock is held until all of it can be seen, so numbers are seen in their order.
CREATE FUNCTION partyline.say(subjects bytea[], messages bytea[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  now float8;
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);
  PERFORM pg_advisory_xact_lock(hashtextextended('partyline.bus', 0));
  now := extract(epoch FROM clock_timestamp());
  FOR i IN 1 .. cardinality(subjects) LOOP
    INSERT INTO partyline.said VALUES (nextval('partyline.said_number'), now, subjects[i], messages[i]);
  END LOOP;
  DELETE FROM partyline.said s WHERE s.at < now - 60 AND s.number IN (
    SELECT o.number FROM partyline.said o ORDER BY o.number LIMIT 2 * cardinality(subjects)
  );
  PERFORM pg_notify('partyline.bus', '');
END $$;
