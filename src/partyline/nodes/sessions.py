"""Socket.IO sessions on a table that all nodes share: a client that comes back finds its session on any of them.

A row names the node that has the session. That node, if it is there, lets go of its connection and hands over what it
knows to the one that asks first; whoever then takes the row has the session. So nobody has it twice, and nothing that a
living node knows is lost; of a dead one remains what it has written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from partyline.hub.company import Company
from partyline.interfaces import SessionRow, Table
from partyline.models import Position
from partyline.nodes.behind import Behind

_LIFE: Final = 3600.0  # seconds that a row lives while its session is in use; it is renewed at half of that
_SUBJECT: Final = "session"


class _Row(msgspec.Struct, frozen=True, array_like=True):
    """A session, and the node that has it. `data` is JSON."""

    node: str
    pid_hash: bytes
    namespace: str
    sid: str
    rooms: tuple[str, ...]
    data: bytes
    start: Position
    hole: int = -1


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(_Row).decode

HandOver = Callable[[bytes], tuple[SessionRow, int] | None]


class Sessions:
    """A `socketio.recovery.SharedSessions` on a table."""

    renewal = _LIFE / 2

    def __init__(self, table: Table, company: Company) -> None:
        self.node = company.node
        self._table = table
        self._behind: Behind[_Row] = Behind(table, _encode)
        self._company = company
        self._hand_overs: list[HandOver] = []
        company.answer(_SUBJECT, self._asked)

    def serve(self, hand_over: HandOver) -> None:
        self._hand_overs.append(hand_over)

    def load(self) -> Iterable[SessionRow]:
        return ()  # each is looked for when its client comes

    def save(self, row: SessionRow) -> None:
        self._behind.put(row.pid_hash.hex(), self._row(row, -1), _LIFE)

    def leave(self, row: SessionRow, hole: int, life: float) -> None:
        self._behind.put(row.pid_hash.hex(), self._row(row, hole), life)

    def delete(self, pid_hash: bytes) -> None:
        self._behind.take(pid_hash.hex())

    async def claim(self, pid_hash: bytes) -> tuple[SessionRow, int] | None:
        key = pid_hash.hex()
        value = await self._table.get(key)
        if value is None:
            return None
        asked = _decode(value).node
        answer = await self._ask(asked, pid_hash)
        taken = None if answer == b"" else await self._table.take(key)  # of those who ask, one gets it
        if taken is None or _decode(taken).node != asked:  # somebody else was faster; its next change is a new row
            return None
        return _session(_decode(answer or taken))

    async def _ask(self, node: str, pid_hash: bytes) -> bytes | None:
        """What a node hands over; empty if it has nothing, None if it is gone."""
        if node == self.node:
            return b""  # let go meanwhile
        return await self._company.ask(node, _SUBJECT, pid_hash) if await self._company.has(node) else None

    async def flush(self) -> None:
        await self._behind.flush()

    async def _asked(self, node: str, pid_hash: bytes) -> bytes:
        """Another node has taken a session: it is in use there from now on."""
        for hand_over in self._hand_overs:
            handed = hand_over(pid_hash)
            if handed is not None:
                await self._behind.leave(pid_hash.hex())
                return _encode(self._row(*handed))
        return b""  # it is over, or on its way back here

    def _row(self, row: SessionRow, hole: int) -> _Row:
        data: Any = row.data
        return _Row(
            self.node, row.pid_hash, row.namespace, row.sid, row.rooms, msgspec.json.encode(data), row.start, hole
        )


def _session(row: _Row) -> tuple[SessionRow, int]:
    data = msgspec.json.decode(row.data, type=dict[str, Any])
    return SessionRow(row.pid_hash, row.namespace, row.sid, row.rooms, data, row.start), row.hole
