"""A node's place among those that share its log: what it has in place of a database of its own."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol, runtime_checkable

from starlette.types import ASGIApp

from partyline import log
from partyline.errors import StoreUnavailable
from partyline.hub.company import Company
from partyline.hub.timers import Timers
from partyline.interfaces import Bus, Store, Tables
from partyline.metrics import Counters
from partyline.nodes.forwarding import Forwarding
from partyline.nodes.registrations import SharedRegistrations
from partyline.nodes.relayed import Relayed
from partyline.nodes.revocations import Revocations
from partyline.nodes.sessions import Sessions
from partyline.relay.classic.registry import Registrations, Registry
from partyline.relay.revocations import Revoker
from partyline.relay.services import Services
from partyline.server.site import Site

_log = log.get("cluster")

PATIENCE: Final = 2.0  # seconds that a beginning or an end waits for the engine
_AGAIN: Final = 0.5  # seconds between tries while it is away


@runtime_checkable
class Starts(Protocol):
    """Tables that are to be connected."""

    async def start(self) -> None:
        """Raises StoreUnavailable."""
        ...


class Seat:
    """An `app.Seat`, on the bus and the tables of an engine."""

    answering: ASGIApp
    company: Company
    registry_mark = ""  # registrations name their nodes in the table

    def __init__(self, store: Store, bus: Bus, tables: Tables, *, max_body: int, life: float) -> None:
        """`max_body` is that of a request, in bytes; `life` is that of a revocation, in seconds."""
        self._max_body = max_body
        self.store = store
        self.bus = bus
        self.mark = f".n{bus.node}"
        self.tables = tables
        self.registrations: Registrations = SharedRegistrations(tables.registrations)
        self.revocations = Revocations(tables.revocations, life)
        self.sessions: Sessions
        self.relayed: Relayed
        self._finding: asyncio.Task[None] | None = None

    def join(self, timers: Timers, counters: Counters) -> None:
        """The server is about to be built."""
        self.company = Company(self.bus, timers, counters)
        self.sessions = Sessions(self.tables.sessions, self.company)
        self.relayed = Relayed(self.company)
        if isinstance(self.registrations, SharedRegistrations):
            self.registrations.join(self.company)

    def take(self, services: Services, registry: Registry, revoker: Revoker, site: Site, answering: ASGIApp) -> None:
        """The server is built."""
        self.answering = answering
        if isinstance(self.registrations, SharedRegistrations):
            forwarding = Forwarding(self.company, registry, self.registrations, answering, self._max_body)
            self.answering, site.instead = forwarding, forwarding.instead
        self.revocations.revoker = revoker
        services.hub.others = lambda: self.company.others
        self.relayed.attach(services)

    async def start(self) -> None:
        """Introduce this node to the others, and find what is revoked; go on trying where the engine is not there."""
        self._finding = asyncio.get_running_loop().create_task(self._find())
        await self.company.start()
        await asyncio.wait([self._finding], timeout=PATIENCE)

    async def _find(self) -> None:
        told = False
        while True:
            try:
                if isinstance(self.tables, Starts):
                    await self.tables.start()
                await self.revocations.fetch()
                return
            except StoreUnavailable as error:
                if not told:
                    told = True
                    _log.warning("revoked tokens cannot be looked up until the engine is there", error=error.message)
                await asyncio.sleep(_AGAIN)

    async def close(self) -> None:
        """Leave the others; what is to be kept is kept."""
        if self._finding is not None:
            self._finding.cancel()
        try:
            async with asyncio.timeout(PATIENCE):
                await self.registrations.flush()
                await self.sessions.flush()
                await self.company.close()
        except (TimeoutError, StoreUnavailable):
            _log.warning("not everything could be written at the end")
        await self.tables.close()
