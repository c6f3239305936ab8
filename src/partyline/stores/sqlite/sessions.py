"""The sessions table: Socket.IO sessions that may be resumed after a reconnect, written later."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from partyline.interfaces import SessionRow
from partyline.models import Position
from partyline.stores.sqlite.behind import WriteBehind


class SessionTable(WriteBehind[SessionRow]):
    """An `interfaces.SessionTable` in the database."""

    table = "sessions"
    columns = ("pid_hash", "namespace", "sid", "rooms", "data", "start")

    def read(self, pid_hash: bytes, namespace: str, sid: str, rooms: str, data: str, start: str) -> SessionRow:
        names = msgspec.json.decode(rooms, type=tuple[str, ...])
        values = msgspec.json.decode(data, type=dict[str, Any])
        return SessionRow(pid_hash, namespace, sid, names, values, Position.parse(start))

    def values(self, row: SessionRow) -> tuple[object, ...]:
        rooms, data = json.dumps(row.rooms, ensure_ascii=False), msgspec.json.encode(row.data).decode()
        return row.pid_hash, row.namespace, row.sid, rooms, data, str(row.start)
