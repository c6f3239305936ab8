"""Pages of the log for views. However few messages a view sees, a statement looks at a bounded number of rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from partyline.adapters.postgres.connecting import Address, Connection
from partyline.adapters.postgres.placing import ROW, message, regex
from partyline.interfaces import Fenced, View
from partyline.models import Message, Page
from partyline.stores.retention import lost

_FEW: Final = 64  # rooms that are looked up one by one; for more the log is walked
_PIECE: Final = 256  # rows of few rooms that one statement looks at, at least
_SCAN: Final = 5_000  # the same of a log that is walked
_PIECES: Final = 8  # statements of one page, at most
_MAX_BYTES: Final = 4 * 1024 * 1024  # of a page's data; one message may be more
_LIVES: Final = "(ttl IS NULL OR time + ttl > coalesce($5, extract(epoch FROM clock_timestamp())::float8))"

# Which rooms of a view there are, and what they have lost. $2: rooms, $3: its patterns as one regular expression.
_VIEW: Final = f"""
SELECT s.head,
  ARRAY(SELECT name FROM partyline.rooms WHERE name = ANY ($2)),
  ARRAY(SELECT name FROM partyline.rooms WHERE name ~ $3 LIMIT {_FEW + 1}),
  greatest(
    (SELECT max(pruned) FROM partyline.rooms WHERE name = ANY ($2)),
    (SELECT pruned FROM partyline.rooms WHERE pruned > 0 AND name ~ $3 ORDER BY pruned DESC LIMIT 1),
    0
  ),
  (SELECT json_object_agg(rule, "offset")::text FROM partyline.forgotten)
FROM partyline.store s WHERE partyline.is_of($1)
"""

_OF_ROOMS: Final = """
SELECT l."offset" FROM unnest($7::text[]) AS r(name) CROSS JOIN LATERAL (
  SELECT "offset" FROM partyline.log WHERE room = r.name AND "offset" > $1 AND "offset" <= $2 ORDER BY "offset" LIMIT $3
) AS l ORDER BY "offset" LIMIT $3
"""
_OF_ALL: Final = """
SELECT "offset" FROM partyline.log WHERE "offset" > $1 AND "offset" <= $2 ORDER BY "offset" LIMIT $3
"""


def _next(looked: str) -> str:
    """The next $6 messages of a view among $3 rows after $1, up to $2. Each row begins with the last offset that was
    looked at, with how many rows these were, and how many of them the view sees."""
    return f"""
WITH looked AS MATERIALIZED ({looked}),
seen AS MATERIALIZED (
  SELECT "offset", sum(octet_length(data)) OVER (ORDER BY "offset") - octet_length(data) AS before
  FROM looked JOIN partyline.log USING ("offset")
  WHERE ("user" IS NULL OR "user" = $4) AND {_LIVES} AND (room = ANY ($7) OR room ~ $8)
)
SELECT till.*, found.* FROM (
  SELECT max("offset"), count(*), (SELECT count(*) FROM seen) FROM looked
) AS till LEFT JOIN (
  SELECT {ROW} FROM seen JOIN partyline.log USING ("offset") WHERE before < {_MAX_BYTES} ORDER BY "offset" LIMIT $6
) AS found ON true ORDER BY found."offset"
"""


_NEXT_OF_ROOMS: Final = _next(_OF_ROOMS)
_NEXT_OF_ALL: Final = _next(_OF_ALL)

_NEWEST: Final = f"""
SELECT fits.*, found.* FROM (SELECT partyline.is_of($1)) AS fits LEFT JOIN (
  SELECT {ROW} FROM (
    SELECT *, sum(octet_length(data)) OVER (ORDER BY "offset" DESC) - octet_length(data) AS before
    FROM (SELECT * FROM partyline.log WHERE room = $2 AND "offset" < $3 AND {_LIVES} ORDER BY "offset" DESC LIMIT $4) l
  ) AS sized WHERE before < {_MAX_BYTES}
) AS found ON true ORDER BY "offset"
"""


async def read(
    address: Address, connection: Connection, epoch: str, view: View, after: int, limit: int, now: float | None
) -> Page:
    """As `SharedLog.read`."""
    wanted = list(view.rooms)
    patterns = "|".join(map(regex, view.patterns)) or None
    about = await connection.fetchrow(address.sql(_VIEW), epoch, wanted, patterns)
    if about is None:
        raise Fenced
    head, rooms, others, pruned, forgotten = about
    gone = lost(msgspec.json.decode(forgotten or "{}"), view.rooms.difference(rooms), view.patterns)
    oldest = max(pruned, gone) + 1
    rooms = list({*rooms, *others})
    few = len(rooms) <= _FEW
    statement = address.sql(_NEXT_OF_ROOMS if few else _NEXT_OF_ALL)
    most = max(limit + 1, _PIECE if few else _SCAN)

    messages: list[Message] = []
    at, size = after, 0
    for _ in range(_PIECES):
        if at >= head or size >= _MAX_BYTES:
            break
        rows = await connection.fetch(
            statement, at, head, most, view.user, now, limit + 1 - len(messages), rooms, None if few else patterns
        )
        last, looked, seen = rows[0][:3]
        found = [message(*row[3:]) for row in rows if row[3] is not None]
        at = head if looked < most else last
        if len(messages) + len(found) > limit:
            at = (found.pop().offset or 0) - 1
            return Page((*messages, *found), at, at < head, oldest)
        if len(found) < seen:  # more would be too large
            at, size = found[-1].offset or 0, _MAX_BYTES
        messages += found
        size += sum(len(one.draft.data) for one in found)
    return Page(tuple(messages), max(at, after), at < head, oldest)


async def newest(
    address: Address, connection: Connection, epoch: str, room: str, before: int, limit: int, now: float | None
) -> Sequence[Message]:
    """As `SharedLog.newest`."""
    rows = await connection.fetch(address.sql(_NEWEST), epoch, room, before, limit, now)
    if not rows[0][0]:
        raise Fenced
    return [message(*row) for _, *row in rows if row[0] is not None]
