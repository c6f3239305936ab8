"""What a worker has of its keeper and of the other workers, in place of a database of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

import msgspec
from starlette.types import ASGIApp

from partyline.errors import StoreUnavailable
from partyline.hub.envelopes import node_name
from partyline.hub.timers import Timers
from partyline.metrics import Counters
from partyline.nodes import seat
from partyline.nodes.behind import Behind
from partyline.relay.classic.registry import Registry
from partyline.relay.revocations import Revoker
from partyline.relay.services import Services
from partyline.server.site import Site
from partyline.stores.shared import SharedStore
from partyline.stores.sqlite.registrations import Row
from partyline.wire.forwarding import Counts
from partyline.wire.keeper import Count
from partyline.workers.elsewhere import Elsewhere
from partyline.workers.member import Member
from partyline.workers.sharing import KeeperBus, KeeperLog, KeeperTable, KeeperTables

_FOR_LONG: Final = 365 * 86400.0  # seconds that a registration lives at most; the registry ends it before
_PATIENCE: Final = 2.0  # seconds that the keeper may need for an answer


class _Kept(msgspec.Struct, frozen=True, array_like=True):
    """A registration, and the mark of its id: the worker with that number has it."""

    mark: int
    row: Row


_encode: Final = msgspec.msgpack.Encoder().encode
_decode_kept: Final = msgspec.msgpack.Decoder(_Kept).decode


class Registrations:
    """Registrations of one worker (`relay.classic.registry.Registrations`), written to its keeper later."""

    def __init__(self, table: KeeperTable, mark: int) -> None:
        self._table = table
        self._behind: Behind[_Kept] = Behind(table, _encode)
        self._mark = mark
        self._found: list[Row] = []

    async def fetch(self, count: int) -> None:
        """Find those of this worker, one of `count`. Raises StoreUnavailable."""
        for _, value in await self._table.all():
            found = _decode_kept(value)
            if found.mark % count == self._mark:
                self._found.append(found.row)

    def load(self) -> Iterable[Row]:
        found, self._found = self._found, []
        return found

    def save(self, row: Row) -> None:
        self._behind.put(row.id_hash.hex(), _Kept(self._mark, row), _FOR_LONG)

    def delete(self, key: bytes) -> None:
        self._behind.take(key.hex())

    async def flush(self) -> None:
        await self._behind.flush()


class Seat(seat.Seat):
    """The same for a worker."""

    bus: KeeperBus
    registrations: Registrations

    def __init__(self, number: int, count: int, folder: str, *, max_body: int, life: float) -> None:
        """`number` of `count` workers, which meet in `folder`."""
        self.member = Member(f"{folder}/keeper.sock", node_name())
        tables = KeeperTables(self.member)
        self._log = KeeperLog(self.member)
        super().__init__(None, KeeperBus(self.member), tables, max_body=max_body, life=life)  # type: ignore[arg-type]
        self.mark = self.registry_mark = f".{number}"
        self.registrations = Registrations(tables.registrations, number)
        self._count = count
        self._number = number
        self._folder = folder
        self.elsewhere: Elsewhere

    async def open(self) -> None:
        """Connect to the keeper. Raises StoreUnavailable."""
        self.store = await SharedStore.open(self._log)
        await self.registrations.fetch(self._count)
        await self.revocations.fetch()

    async def start(self) -> None:
        await self.company.start()

    def join(self, timers: Timers, counters: Counters) -> None:
        super().join(timers, counters)
        self.member.left.append(self.company.cluster.lose)

    def take(self, services: Services, registry: Registry, revoker: Revoker, site: Site, answering: ASGIApp) -> None:
        super().take(services, registry, revoker, site, answering)
        elsewhere = Elsewhere(self._number, self._count, self._folder, site.counters, site.direct, self._max_body)
        elsewhere.connections = lambda: site.connections
        elsewhere.keeper = self._counts
        self.elsewhere = site.elsewhere = elsewhere
        site.instead = elsewhere.instead
        self.answering = elsewhere.wrap(answering)

    async def _counts(self) -> list[Counts]:
        try:
            async with asyncio.timeout(_PATIENCE):
                totals, limits = await self.member.ask(Count, gives=tuple[dict[str, int], dict[str, int]])
        except (StoreUnavailable, TimeoutError):
            return []
        return [Counts(0, totals, limits)]

    async def close(self) -> None:
        self.elsewhere.close()
        await super().close()
