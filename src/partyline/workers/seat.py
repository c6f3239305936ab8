"""What a worker has of its keeper and of the other workers, in place of a database of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final, cast

import msgspec
from starlette.types import ASGIApp

from partyline import log
from partyline.errors import Overloaded, StoreUnavailable
from partyline.hub.envelopes import node_name
from partyline.hub.hub import Hub
from partyline.hub.spreading import carry
from partyline.interfaces import Store, Table
from partyline.relay.revocations import Revoker
from partyline.server.site import Site
from partyline.stores.shared import SharedStore
from partyline.stores.sqlite.registrations import Row
from partyline.trust.revocations import Kind
from partyline.wire.forwarding import Counts
from partyline.wire.keeper import Count
from partyline.workers.elsewhere import Elsewhere
from partyline.workers.member import Member
from partyline.workers.sharing import KeeperBus, KeeperLog, KeeperTable, KeeperTables

_log = log.get("workers")

_FOR_LONG: Final = 365 * 86400.0  # seconds that a registration lives at most; the registry ends it before
_PATIENCE: Final = 2.0  # seconds that the keeper may need for an answer
_AGAIN: Final = 0.2  # seconds between tries while the keeper is away

_encode: Final = msgspec.msgpack.Encoder().encode


class _Kept(msgspec.Struct, frozen=True, array_like=True):
    """A registration, and the mark of its id: the worker with that number has it."""

    mark: int
    row: Row


_decode_kept: Final = msgspec.msgpack.Decoder(_Kept).decode


class Registrations:
    """Registrations of one worker (`relay.classic.registry.Registrations`), written to its keeper later."""

    def __init__(self, table: KeeperTable, mark: int) -> None:
        self._table = table
        self._mark = mark
        self._found: list[Row] = []
        self._changed: dict[bytes, Row | None] = {}  # None: gone
        self._writing: asyncio.Task[None] | None = None

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
        self._change(row.id_hash, row)

    def delete(self, key: bytes) -> None:
        self._change(key, None)

    async def flush(self) -> None:
        while self._writing is not None:
            await asyncio.wait((self._writing,))

    def _change(self, key: bytes, row: Row | None) -> None:
        self._changed[key] = row
        if self._writing is None:
            self._writing = asyncio.get_running_loop().create_task(self._write())

    async def _write(self) -> None:
        try:
            while self._changed:
                changed, self._changed = self._changed, {}
                done = await asyncio.gather(*(self._put(*one) for one in changed.items()))
                if not all(done):
                    await asyncio.sleep(_AGAIN)
        finally:
            self._writing = None

    async def _put(self, key: bytes, row: Row | None) -> bool:
        try:
            if row is None:
                await self._table.take(key.hex())
            else:
                await self._table.put(key.hex(), _encode(_Kept(self._mark, row)), _FOR_LONG)
        except StoreUnavailable:
            self._changed.setdefault(key, row)  # unless it has changed since
            return False
        return True


class Revocations:
    """Revocations of all workers (`relay.revocations.RevocationRows`): one worker's revocation holds in all."""

    def __init__(self, table: Table, life: float) -> None:
        self._table = table
        self._life = life
        self._known: dict[tuple[str, str], float] = {}
        self.revoker: Revoker | None = None

    async def fetch(self) -> None:
        """Load what was revoked, and follow what is. Raises StoreUnavailable."""
        await self._table.watch(self._changed)

    def load(self) -> list[tuple[str, str, float]]:
        return [(kind, name, at) for (kind, name), at in sorted(self._known.items(), key=lambda item: item[1])]

    async def save(self, kind: str, name: str, at: float, *, oldest: float) -> None:
        await self._table.put(f"{kind} {name}", _encode(at), self._life)

    def _changed(self, key: str, value: bytes | None) -> None:
        if value is None:
            return
        kind, _, name = key.partition(" ")
        at = msgspec.msgpack.decode(value, type=float)
        self._known[kind, name] = at
        if self.revoker is not None:
            try:
                self.revoker.apply(cast("Kind", kind), name, at)
            except Overloaded as error:
                _log.error("a revocation of another worker does not hold here", error=error.message)


class Seat:
    """An `app.Seat`."""

    answering: ASGIApp
    store: Store

    def __init__(self, number: int, count: int, folder: str, *, max_body: int, life: float) -> None:
        """This is worker `number` of `count`; their sockets are in `folder`. A revocation lives `life` seconds."""
        self.mark = f".{number}"
        self.member = Member(f"{folder}/keeper.sock", node_name())
        self.bus = KeeperBus(self.member)
        self.tables = KeeperTables(self.member)
        self.registrations = Registrations(self.tables.registrations, number)
        self.revocations = Revocations(self.tables.revocations, life)
        self._count = count
        self._number = number
        self._folder = folder
        self._max_body = max_body
        self.elsewhere: Elsewhere

    async def open(self) -> None:
        """Connect to the keeper. Raises StoreUnavailable."""
        self.store = await SharedStore.open(KeeperLog(self.member))
        await self.bus.start(lambda node, data: None)
        await self.registrations.fetch(self._count)
        await self.revocations.fetch()

    def take(self, site: Site, hub: Hub, revoker: Revoker, answering: ASGIApp) -> None:
        elsewhere = Elsewhere(self._number, self._count, self._folder, site.counters, self._max_body)
        elsewhere.connections = lambda: site.connections
        elsewhere.keeper = self._counts
        self.elsewhere = site.elsewhere = elsewhere
        self.answering = elsewhere.wrap(answering)
        self.revocations.revoker = revoker
        carry(hub, self.bus)

    async def _counts(self) -> list[Counts]:
        try:
            async with asyncio.timeout(_PATIENCE):
                totals, limits = await self.member.ask(Count, gives=tuple[dict[str, int], dict[str, int]])
        except (StoreUnavailable, TimeoutError):
            return []
        return [Counts(0, totals, limits)]

    async def close(self) -> None:
        """Leave the other workers, when everything that has to be kept is kept."""
        self.elsewhere.close()
        try:
            async with asyncio.timeout(_PATIENCE):
                await self.registrations.flush()
                await self.bus.close()
        except (TimeoutError, StoreUnavailable):
            _log.warning("the keeper has not taken everything")


class Spread:
    """An `interfaces.Adapter` over the bus of the workers, for the Socket.IO server on one path."""

    def __init__(self, member: Member, bus: KeeperBus, path: str) -> None:
        member.left.append(lambda node: self.lost(node))
        self.node = bus.node
        self.lost: Callable[[str], None] = lambda node: None
        self._bus = bus
        self._subject = f"socket.io {path}"

    async def start(self, received: Callable[[bytes], None]) -> None:
        self._bus.listen(self._subject, lambda node, data: received(data))
        await self._bus.ready()

    def publish(self, data: bytes) -> None:
        self._bus.publish(self._subject, data)

    async def close(self) -> None:
        self._bus.unlisten(self._subject)
