"""Registrations on a table that all nodes share: the node that a client reaches has its registration from then on.

A row names the node that has the registration. That node, if it is there, lets go of its connection and hands over what
it knows; whoever then takes the row has the registration.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from partyline.hub.company import Company
from partyline.interfaces import Table
from partyline.nodes.behind import Behind
from partyline.stores.sqlite.registrations import Row

_LIFE: Final = 86400.0  # seconds that a row lives while its registration is in use; it is renewed at half of that
_SUBJECT: Final = "registration"


class _Kept(msgspec.Struct, frozen=True, array_like=True):
    node: str
    row: Row


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(_Kept).decode


class SharedRegistrations:
    """`relay.classic.registry.Shared`."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._behind: Behind[_Kept] = Behind(table, _encode)
        self._company: Company
        self._hand_over: Callable[[bytes], Row | None] = lambda key: None
        self._used: dict[bytes, Row] = {}  # those with a connection, which have no end
        self._renewing: asyncio.TimerHandle | None = None

    def join(self, company: Company) -> None:
        """The node has a name, and can be asked."""
        self._company = company
        company.answer(_SUBJECT, self._asked)

    def serve(self, hand_over: Callable[[bytes], Row | None]) -> None:
        self._hand_over = hand_over

    def load(self) -> Iterable[Row]:
        return ()  # each is looked for when its client comes

    def save(self, row: Row, life: float | None = None) -> None:
        if life is None:
            self._used[row.id_hash] = row
            if self._renewing is None:
                self._renewing = asyncio.get_running_loop().call_later(_LIFE / 2, self._renew)
        else:
            self._used.pop(row.id_hash, None)
        self._behind.put(row.id_hash.hex(), _Kept(self._company.node, row), _LIFE if life is None else life)

    def delete(self, key: bytes) -> None:
        self._used.pop(key, None)
        self._behind.take(key.hex())

    async def owner(self, key: bytes) -> str | None:
        value = await self._table.get(key.hex())
        node = None if value is None else _decode(value).node
        return node if node and node != self._company.node and await self._company.has(node) else None

    async def claim(self, key: bytes) -> Row | None:
        value = await self._table.get(key.hex())
        if value is None:
            return None
        asked = _decode(value).node
        answer = await self._ask(asked, key)
        taken = None if answer == b"" else await self._table.take(key.hex())  # of those who ask, one gets it
        if taken is None or _decode(taken).node != asked:  # somebody else was faster; its next change is a new row
            return None
        return _decode(answer or taken).row

    async def _ask(self, node: str, key: bytes) -> bytes | None:
        """What a node hands over; empty if it has nothing, None if it is gone."""
        if node == self._company.node:
            return b""  # let go meanwhile
        return await self._company.ask(node, _SUBJECT, key) if await self._company.has(node) else None

    async def flush(self) -> None:
        await self._behind.flush()

    def close(self) -> None:
        """Renew nothing more."""
        if self._renewing is not None:
            self._renewing.cancel()

    async def _asked(self, node: str, key: bytes) -> bytes:
        """Another node has taken a registration: its client is there."""
        row = self._hand_over(key)
        if row is None:
            return b""
        self._used.pop(key, None)
        await self._behind.leave(key.hex())
        return _encode(_Kept(self._company.node, row))

    def _renew(self) -> None:
        self._renewing = None
        for row in tuple(self._used.values()):
            self.save(row)
