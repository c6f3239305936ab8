"""Revocations on a table that all nodes share: what one of them revokes holds for all."""

from __future__ import annotations

from typing import Final, cast

import msgspec

from partyline import log
from partyline.errors import Overloaded, StoreUnavailable
from partyline.interfaces import Table
from partyline.nodes.behind import Behind
from partyline.relay.revocations import Revoker
from partyline.trust.revocations import Kind

_log = log.get("cluster")

_encode: Final = msgspec.msgpack.Encoder().encode


class Revocations:
    """`relay.revocations.RevocationRows`. Each lives for `life` seconds."""

    def __init__(self, table: Table, life: float) -> None:
        self._table = table
        self._life = life
        self._behind: Behind[float] = Behind(table, _encode)
        self._known: dict[tuple[str, str], float] = {}
        self.revoker: Revoker | None = None

    async def fetch(self) -> None:
        """Find what was revoked, and follow it. Raises StoreUnavailable."""
        await self._table.watch(self._changed)

    def load(self) -> list[tuple[str, str, float]]:
        return [(kind, name, at) for (kind, name), at in sorted(self._known.items(), key=lambda item: item[1])]

    async def save(self, kind: str, name: str, at: float, *, oldest: float) -> None:
        key = f"{kind} {name}"
        try:
            await self._table.put(key, _encode(at), self._life)
        except StoreUnavailable:
            self._behind.put(key, at, self._life)  # as soon as the engine is there
            raise

    def _changed(self, key: str, value: bytes | None) -> None:
        if value is None:
            return
        kind, _, name = key.partition(" ")
        at = msgspec.msgpack.decode(value, type=float)
        if self.revoker is None:
            self._known[kind, name] = at
            return
        try:
            self.revoker.apply(cast("Kind", kind), name, at)
        except Overloaded as error:
            _log.error("a revocation of another node does not hold here", error=error.message)
