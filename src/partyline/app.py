"""The only place that builds things: from settings to a server that runs."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ssl
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from threading import get_ident
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from partyline import log, parts
from partyline.bridge import serve_relay
from partyline.checking import check, worker_count
from partyline.config import Settings, is_open
from partyline.engineio.engine import EngineIO
from partyline.engineio.limits import SessionLimits
from partyline.engines import open_bus, open_seat, open_store
from partyline.errors import ConfigError, NotFound
from partyline.hub.company import Company
from partyline.hub.hub import Hub
from partyline.hub.spreading import Part, Shared, carry
from partyline.hub.timers import Timers
from partyline.interfaces import Bus, Store
from partyline.metrics import Counters, exposition
from partyline.models import Position
from partyline.relay import openapi
from partyline.relay.access import Access
from partyline.relay.classic.api import Relay
from partyline.relay.classic.registry import Registrations, Registry
from partyline.relay.requests import peer, published
from partyline.relay.revocations import RevocationRows, Revoker
from partyline.relay.services import OtherNodes, Services
from partyline.relay.v1.api import Api
from partyline.relay.v1.publishing import make_draft
from partyline.server.gate import ErrorAnswers, Gate
from partyline.server.shell import Shell, tls_context
from partyline.server.site import Background, ConnectionLimits, Extra, Site, first_of
from partyline.socketio.recovery import SharedSessions
from partyline.socketio.server import SocketIO
from partyline.stores.sqlite.database import Database
from partyline.stores.sqlite.lock import Lock
from partyline.stores.sqlite.lock import take_over as take_lock_over
from partyline.stores.sqlite.registrations import RegistrationTable
from partyline.stores.sqlite.revocations import RevocationTable
from partyline.stores.sqlite.sessions import SessionTable
from partyline.trust.addresses import is_loopback
from partyline.trust.keys import Principal
from partyline.wire.json import to_json
from partyline.wire.relay import user_text
from partyline.wire.websocket.codec import Limits as MessageLimits

_PROGRAM = Principal((">",), (">",), admin=True, name="this program")  # the publisher for calls from this process
_CLOSING = 10.0  # seconds that a server may need after its drain to close the log

_log = log.get("app")


class Seat(Protocol):
    """What a node has of those that share its log, in place of a database of its own."""

    store: Store
    company: Company
    mark: str
    registry_mark: str
    answering: ASGIApp

    @property
    def bus(self) -> Bus: ...

    @property
    def registrations(self) -> Registrations: ...

    @property
    def revocations(self) -> RevocationRows: ...

    @property
    def sessions(self) -> SharedSessions: ...

    @property
    def relayed(self) -> OtherNodes: ...

    def join(self, timers: Timers, counters: Counters) -> None:
        """The server is about to be built: from now on there are a `company` and `sessions`."""
        ...

    def take(self, services: Services, registry: Registry, revoker: Revoker, site: Site, answering: ASGIApp) -> None:
        """The server is built; what is not for this node is kept from `answering` by `self.answering`."""
        ...

    async def start(self) -> None:
        """Introduce this node to the others."""
        ...

    async def close(self) -> None:
        """Leave them."""
        ...


@dataclass(slots=True)
class Partyline:
    """A built server, not yet listening. Made by `build`, which must run on the loop."""

    settings: Settings
    counters: Counters
    hub: Hub
    registry: Registry
    relay: Relay
    site: Site
    asgi: ASGIApp
    shell: Shell
    store: Store
    database: Database
    tls: ssl.SSLContext | None
    seat: Seat | None = None
    background: tuple[Background, ...] = ()  # extras with their own start and stop
    _started: list[Background] = field(default_factory=list)
    _seated: bool = False

    async def listen(self) -> list[str]:
        """Bind the configured address; returns the URLs. Raises ConfigError."""
        await self.start_extras()
        addresses = await self.shell.listen(self.settings.host, self.settings.port, self.tls)
        scheme = "https" if self.tls else "http"
        return [
            f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}" for host, port in addresses
        ]

    async def start_extras(self) -> None:
        """Meet the other nodes, and start the extras with background work. Raises what they raise. Idempotent."""
        if self.seat is not None and not self._seated:
            self._seated = True
            await self.seat.start()
        for extra in self.background:
            if extra not in self._started:
                await extra.start()
                self._started.append(extra)

    async def serve(self) -> None:
        """Serve until the shell is stopped, drain, and close everything."""
        tune()
        try:
            await self.shell.run_until_stopped()
        finally:
            await self.close()

    async def publish(
        self,
        topic: str,
        data: Any,
        *,
        user: int | str | None = None,
        id: str | None = None,  # noqa: A002 - the contract's word
        key: str | None = None,
        ttl: float | None = None,
        durable: bool | None = None,
    ) -> Position | None:
        """Publish `data`, anything that msgspec can write as JSON; returns its position once it is kept.

        It reaches all subscribers, as a publish over HTTP does, without keys and request limits. `user` narrows it to
        one user's connections, `id` makes a repetition harmless, `key` is for conflation, `ttl` is its life in seconds.
        `durable=False` does not keep it; None leaves that to the topic's rule, by default True. Returns None for a
        message that is not kept. May be awaited on any loop, in any thread.

        Raises InvalidValue (an invalid topic, user or id), TypeError for data that is not JSON, Conflict for an
        `id` that was another message's, StoreUnavailable while the log cannot be written. Cancelled, it is published
        all the same.
        """
        home = self.site.home
        if home.thread not in (0, get_ident()):
            return await home.wait(self.publish(topic, data, user=user, id=id, key=key, ttl=ttl, durable=durable))
        draft = make_draft(
            _PROGRAM,
            topic,
            to_json(data),
            user_id=None if user is None else user_text(user, "user"),
            message_id=id,
            key=key,
            ttl=ttl,
            durable=durable,
        )
        return (await published(self.hub, draft)).position

    async def close(self) -> None:
        """Flush and close the log and the database. Idempotent."""
        while self._started:
            extra = self._started.pop()
            try:
                async with asyncio.timeout(5.0):
                    await extra.stop()
            except Exception:
                _log.exception("an extra could not be stopped", extra=type(extra).__name__)
        if self.seat is not None and self._seated:
            self._seated = False
            await self.seat.close()
        with contextlib.suppress(TimeoutError):  # a disk that hangs must not hold the process for ever
            async with asyncio.timeout(5.0):
                await self.store.close()
                await self.database.flush()
        await asyncio.get_running_loop().run_in_executor(None, self.database.close)


def tune() -> None:
    """Set the interpreter up for a process that is only a server, once everything is built."""
    # Objects from start-up live for ever: frozen, the collector need not walk them again. Reference counting frees
    # connections' objects; the collector only finds cycles that handlers leave.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    # The writer needs the interpreter for moments between a commit and the next: with the default of 5 ms a busy
    # loop starves it (measured: from nothing to 9,000 rows a second; 18,000 to 26,000 with this).
    sys.setswitchinterval(0.0005)


@contextlib.asynccontextmanager
async def running(
    settings: Settings,
    *,
    fallback: ASGIApp | None = None,
    extras: Sequence[Extra] = (),
    store: Store | None = None,
    seat: Seat | None = None,
) -> AsyncIterator[tuple[Partyline, str]]:
    """A server in this process: `async with running(Settings(port=0)) as (partyline, url)`. Drains at the end."""
    if seat is None and store is None:
        store = await open_store(settings)
    partyline = build(settings, fallback=fallback, extras=extras, store=store, seat=seat)
    try:
        url = (await partyline.listen())[0]
        serving = asyncio.create_task(partyline.shell.run_until_stopped())
        try:
            yield partyline, url
        finally:
            partyline.shell.stop()
            await serving
    finally:
        await partyline.close()


async def take_over(settings: Settings, *, handover: bool = False) -> Lock | None:
    """The lock of the settings' database, for `build`; None if there is no file.

    Waits for a server that drains until its drain time is over and its log closed; with `handover`, also for one that
    does not drain yet. Nothing listens meanwhile (docs/decisions/0010-handover-by-the-lock.md). Raises ConfigError.
    """
    check(settings)
    if settings.db == ":memory:":
        return None
    return await take_lock_over(settings.db, settings.drain_time + _CLOSING, whoever=handover)


def build(
    settings: Settings,
    *,
    fallback: ASGIApp | None = None,
    extras: Sequence[Extra] = (),
    held: Lock | None = None,
    store: Store | None = None,
    new_epoch: bool = False,
    native: bool = True,
    relay: bool = True,
    seat: Seat | None = None,
) -> Partyline:
    """Put a server together from its settings; runs on the loop that will serve.

    `fallback` is an ASGI application for the paths that are not ours, WebSockets included; `extras` are served beside
    the relay, such as an EngineIO; `held` is the lock of the database, if it was taken before; `store` is the log, if
    it is another one than that of the settings; `new_epoch` makes all positions of the log unknown; `native` False is
    for another ASGI server, which calls what is built and listens wherever it likes; `relay` False serves the `extras`
    only; `seat` is what this node has of those that share its log. Raises ConfigError before anything is opened that
    would have to be closed again.
    """
    check(settings)
    if seat is not None:
        store = seat.store
    elif settings.workers != 1 and worker_count(settings) > 1:
        raise ConfigError("workers: this is one process; `partyline serve` runs several", field="workers")
    if settings.log is not None and store is None:
        raise ConfigError(
            "log: it has to be connected before: build(settings, store=await partyline.engines.open_store(settings))",
            field="log",
        )
    tls = tls_context(settings.certfile, settings.keyfile) if settings.certfile else None
    loopback = is_loopback(settings.host) if native else is_open(settings) and not settings.insecure
    effective = parts.effective(settings, loopback)
    perimeter = parts.perimeter(settings, loopback, native)
    counters = Counters()
    timers = Timers(asyncio.get_running_loop())
    tokens = parts.tokens(settings)
    database = Database(settings.db if seat is None else ":memory:", counters, held=held)
    try:
        if store is None:
            store = parts.store(settings, database, new_epoch=new_epoch)
        parts.require_durability(settings, store.durability)
        if seat is None and settings.log is not None:
            seat = open_seat(settings, store, counters)
        if seat is not None:
            seat.join(timers, counters)
        bus = open_bus(settings, counters, keeps=relay) if seat is None else seat.bus
        hub = Hub(store, counters, parts.room_rules(settings))
        revoker = parts.revoker(settings, RevocationTable(database) if seat is None else seat.revocations)
        registrations = RegistrationTable(database) if seat is None else seat.registrations
        mark = "" if seat is None else seat.registry_mark
        registry = Registry(registrations, timers, counters, effective, revoker=revoker, mark=mark)
        access = parts.access(settings, counters, tokens, revoker)
        services = Services(hub, store, access, timers, effective, others=None if seat is None else seat.relayed)
        classic = Relay(services, registry, pings=native)
        site = Site(
            parts.picked(ConnectionLimits, effective, message=parts.picked(MessageLimits, effective)),
            timers,
            counters,
            perimeter,
            classic.upgrade,
            hub,
            store,
            _sessions(seat, database),
            cors=parts.cors_headers(settings),
            node="" if seat is None else seat.bus.node,
            mark="" if seat is None else seat.mark,
            for_extras={SessionLimits: parts.picked(SessionLimits, settings)},
        )
        api = Api(services, site)
        if relay:
            extras = _with_relay(extras, services)
        if bus is not None:
            _put_on(bus, extras, hub, seat, named=settings.bus is not None)
        upgrades = [classic.upgrade, api.upgrade] if relay else []
        hub.displaced = site.displace
        site.route = first_of(*upgrades, *(extra.upgrade for extra in extras))
        for extra in extras:
            extra.attach(site)
        if relay:
            classic.attach(site)
            api.attach(site)
        routes: list[BaseRoute] = [*classic.routes(), *api.routes(), *openapi.routes(access)] if relay else []
        routes += [_metrics(site, access), *(route for extra in extras for route in extra.routes())]
        router = Router(routes=routes, redirect_slashes=False)
        if fallback is not None:
            router.default = _outside(router.default, fallback)
        answering: ASGIApp = parts.cors(ErrorAnswers(router, counters), settings)
        if seat is not None:
            seat.take(services, registry, revoker, site, answering)
            answering = seat.answering
        if bus is not None and (seat is None or settings.log is not None):
            hub.bus = bus
        if bus is not None:
            carry(hub, bus)
        asgi = Gate(answering, perimeter, counters, native=native, pages=site.pages)
        shell = Shell(site, asgi, websocket_fallback=fallback is not None)
        shell.on_drain = database.finishing
    except BaseException:
        database.close()
        raise
    background: tuple[Background, ...] = tuple(extra for extra in extras if isinstance(extra, Background))
    if bus is not None and seat is None:
        background = (Shared(bus), *background)
    return Partyline(
        settings, counters, hub, registry, classic, site, asgi, shell, store, database, tls, seat, background
    )


def _sessions(seat: Seat | None, database: Database) -> SessionTable | SharedSessions | None:
    """Where Socket.IO sessions outlive the process."""
    if seat is not None:
        return seat.sessions
    return None if database.path == ":memory:" else SessionTable(database)


def _with_relay(extras: Sequence[Extra], services: Services) -> Sequence[Extra]:
    """The extras, with the relay's topics in each Socket.IO server, or in a new one if there is none."""
    if not any(isinstance(extra, SocketIO | EngineIO) for extra in extras):
        extras = (*extras, SocketIO())
    for extra in extras:
        if isinstance(extra, SocketIO):
            serve_relay(extra, services)
    return extras


def _put_on(bus: Bus, extras: Sequence[Extra], hub: Hub, seat: Seat | None, *, named: bool) -> None:
    """Have each Socket.IO server without an adapter of its own on the bus. Raises ConfigError where that cannot be.

    One that recovers connections needs nodes that share the sessions, and the log, for that; without them it is on no
    bus, unless the settings name one.
    """
    for extra in extras:
        if isinstance(extra, SocketIO) and (seat is not None or named or extra.recovery_window is None):
            part = Part(bus, f"socket.io {extra.engine.path}")
            extra._spread(part, recovers=seat is not None)  # noqa: SLF001 - it is for us alone
            if seat is None:
                hub.others = extra._others  # noqa: SLF001
            else:
                seat.company.went.append(extra._lost)  # noqa: SLF001


def _outside(nowhere: ASGIApp, fallback: ASGIApp) -> ASGIApp:
    """What has a path that is not ours goes to `fallback`, unless it has come from there: where we are mounted, too."""

    async def default(scope: Scope, receive: Receive, send: Send) -> None:
        await (nowhere if "partyline.mounted" in scope else fallback)(scope, receive, send)

    return default


def _metrics(site: Site, access: Access) -> Route:
    async def metrics(request: Request) -> Response:
        if not peer(request).local:
            access.principal(request).must_be_admin("/metrics")
        try:
            counters, connections = site.counters, site.connections
            if site.elsewhere is not None:
                counters, connections = await site.elsewhere.totals()
            text = exposition(counters, connections)
        except ImportError:
            raise NotFound("/metrics needs prometheus-client: pip install 'partyline-server[metrics]'") from None
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    return Route("/metrics", metrics, methods=["GET"])
