"""The sessions table: Socket.IO sessions that may go on after a reconnect, written later."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, cast

import msgspec

from partyline.errors import InvalidValue
from partyline.interfaces import SessionRow
from partyline.models import Position
from partyline.stores.sqlite.behind import WriteBehind
from partyline.stores.sqlite.database import Database
from partyline.stores.sqlite.opening import damaged


class SessionTable:
    """An `interfaces.SessionTable` in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rows: WriteBehind[SessionRow] = WriteBehind(database, "sessions", "pid_hash", 6, _values)

    def load(self) -> Iterator[SessionRow]:
        """What an earlier process left. Raises ConfigError if the file is damaged."""
        for row in self._database.rows("SELECT pid_hash, namespace, sid, rooms, data, start FROM sessions"):
            pid_hash, namespace, sid, rooms, data, start = cast("tuple[bytes, str, str, str, str, str]", row)
            try:
                names = msgspec.json.decode(rooms, type=list[str])
                values = msgspec.json.decode(data, type=dict[str, Any])
                position = Position.parse(start)
            except (msgspec.MsgspecError, InvalidValue) as error:
                raise damaged(self._database.path, f"a session: {error}") from None
            yield SessionRow(pid_hash, namespace, sid, tuple(names), values, position)

    def save(self, row: SessionRow) -> None:
        self._rows.put(row.pid_hash, row)

    def delete(self, pid_hash: bytes) -> None:
        self._rows.delete(pid_hash)


def _values(row: SessionRow) -> tuple[object, ...]:
    return (
        row.pid_hash,
        row.namespace,
        row.sid,
        json.dumps(row.rooms, ensure_ascii=False),
        msgspec.json.encode(row.data).decode(),
        str(row.start),
    )
