"""The only place that builds things: from settings to a server that runs."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import re
import resource
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from partyline import __version__, log
from partyline.bridge import serve_relay
from partyline.config import ApiKey, Settings
from partyline.engineio.engine import EngineIO
from partyline.errors import ConfigError, InvalidValue, NotFound
from partyline.hub.hub import Hub, RoomRules
from partyline.hub.timers import Timers
from partyline.interfaces import Store
from partyline.metrics import Counters, exposition
from partyline.models import Position
from partyline.relay import openapi
from partyline.relay.access import Access
from partyline.relay.api import Api
from partyline.relay.classic import ClassicRules
from partyline.relay.http import Relay, RelaySettings
from partyline.relay.line import LineRules, LineServices, make_draft
from partyline.relay.registry import Registry, RegistryLimits
from partyline.relay.requests import peer, published
from partyline.relay.revocations import Revoker
from partyline.relay.signers import check_keys, signers
from partyline.server.gate import ErrorAnswers, Gate
from partyline.server.shell import Shell, tls_context
from partyline.server.site import Background, ConnectionLimits, Extra, Site, first_of
from partyline.socketio.server import SocketIO
from partyline.stores.memory import MemoryStore
from partyline.stores.memory import Retention as MemoryRetention
from partyline.stores.retention import Bounds, Retention
from partyline.stores.sqlite.database import Database
from partyline.stores.sqlite.lock import Lock
from partyline.stores.sqlite.lock import take_over as take_lock_over
from partyline.stores.sqlite.log import SqliteStore
from partyline.stores.sqlite.registrations import RegistrationTable
from partyline.stores.sqlite.revocations import RevocationTable
from partyline.stores.sqlite.sessions import SessionTable
from partyline.topics import check_pattern, check_topic
from partyline.trust.addresses import is_loopback
from partyline.trust.keys import KeyRing, Principal
from partyline.trust.perimeter import Perimeter, allowed_host, allowed_origin, canonical_origin, trusted_network
from partyline.trust.tokens import Tokens, revocation_life
from partyline.wire.json import to_json
from partyline.wire.relay import user_text
from partyline.wire.websocket.connection import Limits as MessageLimits

_RESERVED_DESCRIPTORS = 256  # for the database, logs and listeners
_PROGRAM = Principal((">",), (">",), admin=True, name="this program")  # who publishes from this process
_CLOSING = 10.0  # seconds that a server may need behind its drain to close the log

_PUBLIC_URL = re.compile(r"(?:https?|wss?)://[!-~]+")

_log = log.get("app")


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
    background: tuple[Background, ...] = ()  # extras that run, too
    _started: list[Background] = field(default_factory=list)

    async def listen(self) -> list[str]:
        """Bind the configured address; returns the URLs. Raises ConfigError."""
        await self.start_extras()
        addresses = await self.shell.listen(self.settings.host, self.settings.port, self.tls)
        scheme = "https" if self.tls else "http"
        return [
            f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}" for host, port in addresses
        ]

    async def start_extras(self) -> None:
        """Start the extras that have something to do besides answering. Raises what they raise. Idempotent."""
        for extra in self.background:
            if extra not in self._started:
                await extra.start()
                self._started.append(extra)

    async def serve(self) -> None:
        """Serve until the shell is stopped, drain, and let go of everything."""
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
        """Publish `data`, anything that msgspec can write as JSON; where it stands in the log once it is kept there.

        It reaches whoever is subscribed, as a publish over HTTP does, past keys and limits of requests. `user` narrows
        it to one user's connections, `id` makes a repetition harmless, `key` is what conflation goes by, `ttl` its life
        in seconds. `durable` False does not keep it; None leaves that to the topic's rule, and is True in general. None
        is returned for what is not kept. To be called on the server's loop.

        Raises InvalidValue (a topic, a user, an id that is none), TypeError for data that is no JSON, Conflict for an
        `id` that was another message's, StoreUnavailable while the log cannot be written. Cancelled, it is published
        all the same.
        """
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
        (receipt,) = await published(self.hub, draft)
        return receipt.position

    async def close(self) -> None:
        """Flush and close the log and the database. Idempotent."""
        while self._started:
            extra = self._started.pop()
            try:
                async with asyncio.timeout(5.0):
                    await extra.stop()
            except Exception:
                _log.exception("an extra could not be stopped", extra=type(extra).__name__)
        with contextlib.suppress(TimeoutError):  # a disk that hangs must not hold the process for ever
            async with asyncio.timeout(5.0):
                await self.store.close()
                await self.database.flush()
        await asyncio.get_running_loop().run_in_executor(None, self.database.close)


def tune() -> None:
    """Set the interpreter up for a process that is nothing but a server, once everything is built."""
    # Start-up's objects live for ever: taken out of the collector's sight, they need not be walked again. What
    # connections make is freed by reference counting; the collector only looks for what handlers left behind.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    # The writer needs the interpreter for moments between a commit and the next: with the default of 5 ms a busy
    # loop starves it (measured: from nothing to 9,000 rows a second; 18,000 to 26,000 with this).
    sys.setswitchinterval(0.0005)


@contextlib.asynccontextmanager
async def running(
    settings: Settings, *, fallback: ASGIApp | None = None, extras: Sequence[Extra] = ()
) -> AsyncIterator[tuple[Partyline, str]]:
    """A server in this process: `async with running(Settings(port=0)) as (partyline, url)`. Drains at the end."""
    partyline = build(settings, fallback=fallback, extras=extras)
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
    """The lock of the settings' database, for `build`; None where there is no file.

    A server that drains is waited for until its drain time is over and its log closed; with `handover` one that does
    not drain yet, too. Nothing listens meanwhile (docs/decisions/0010-handover-by-the-lock.md). Raises ConfigError.
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
    new_epoch: bool = False,
    native: bool = True,
    relay: bool = True,
) -> Partyline:
    """Put a server together from its settings; runs on the loop that will serve.

    `fallback` is an ASGI application for the paths that are not ours, WebSockets included; `extras` are served beside
    the relay, such as an EngineIO; `held` is the lock of the database, if it was taken before; `new_epoch` makes all
    positions of the log unknown; `native` False is for another ASGI server, which calls what is built and listens
    wherever it likes; `relay` False serves the `extras` only. Raises ConfigError before anything is opened that would
    have to be closed again.
    """
    check(settings)
    tls = tls_context(settings.certfile, settings.keyfile) if settings.certfile else None
    loopback = is_loopback(settings.host) if native else is_open(settings) and not settings.insecure
    perimeter = _perimeter(settings, loopback, native)
    counters = Counters()
    timers = Timers(asyncio.get_running_loop())
    keys = KeyRing([(key.hash, _principal(key)) for key in settings.api_keys])
    tokens = Tokens(signers(settings.jwt_keys), settings.jwt_max_life) if settings.jwt_keys else None
    database = Database(settings.db, counters, held=held)
    try:
        store = _store(settings, database, new_epoch=new_epoch)
        rules = RoomRules(settings.ephemeral_topics, settings.drop_oldest_topics, settings.conflate_topics)
        hub = Hub(store, counters, rules)
        revoker = Revoker(
            RevocationTable(database),
            revocation_life(settings.jwt_max_life, (key.leeway for key in settings.jwt_keys)),
        )
        registry = Registry(
            RegistrationTable(database),
            timers,
            counters,
            RegistryLimits(
                settings.registrations_per_user,
                settings.max_registrations,
                settings.unused_registration_life,
                settings.resume_window,
                settings.topics_per_connection,
            ),
            revoker=revoker,
        )
        access = Access(keys, counters, settings.auth_failures_per_minute, tokens, revoker)
        classic = Relay(hub, store, timers, registry, access, counters, _relay_settings(settings, loopback, native))
        line_rules = LineRules(
            settings.first_command_timeout,
            settings.ping_interval,
            settings.topics_per_connection,
            settings.compress_from,
        )
        services = LineServices(hub, store, access, timers, line_rules, f"partyline/{__version__}")
        site = Site(
            _connection_limits(settings, loopback),
            timers,
            counters,
            perimeter,
            classic.upgrade,
            hub,
            store,
            None if settings.db == ":memory:" else SessionTable(database),
            cors=_cors_headers(settings),
        )
        api = Api(
            services,
            site,
            max_body=settings.max_body,
            max_batch_body=settings.max_batch_body,
            deflate=settings.permessage_deflate,
        )
        if relay and not any(isinstance(extra, SocketIO | EngineIO) for extra in extras):
            extras = (*extras, SocketIO())  # for the relay's topics
        for extra in extras:
            if relay and isinstance(extra, SocketIO):
                serve_relay(extra, services)
        upgrades = [classic.upgrade, api.upgrade] if relay else []
        site.route = first_of(*upgrades, *(extra.upgrade for extra in extras))
        for extra in extras:
            extra.attach(site)
        routes: list[BaseRoute] = [*classic.routes(), *api.routes(), *openapi.routes(access)] if relay else []
        routes += _own_routes(site, access)
        routes += [route for extra in extras for route in extra.routes()]
        router = Router(routes=routes, redirect_slashes=False)
        if fallback is not None:
            router.default = _outside(router.default, fallback)
        answering = ErrorAnswers(router, counters)
        asgi = Gate(_cors(answering, settings), perimeter, counters, native=native, pages=site.pages)
        shell = Shell(site, asgi, websocket_fallback=fallback is not None)
        shell.on_drain = database.finishing
    except BaseException:
        database.close()
        raise
    background = tuple(extra for extra in extras if isinstance(extra, Background))
    return Partyline(settings, counters, hub, registry, classic, site, asgi, shell, store, database, tls, background)


def check(settings: Settings) -> None:
    """What settings must be together. Raises ConfigError naming the setting and the way out."""
    open_mode = is_open(settings)
    if open_mode and not settings.insecure and not is_loopback(settings.host):
        raise ConfigError(
            f"host: {settings.host} can be reached by others, and without api_keys or jwt_keys everybody may do "
            "everything: configure a key (`partyline key`), bind 127.0.0.1, or say --insecure if that is meant",
            field="host",
        )
    anybody = next((origin for origin in settings.cors_origins if origin in ("*", "null")), None)
    if anybody is not None and (open_mode or settings.cors_credentials):
        why = "in open mode (no api_keys, no jwt_keys)" if open_mode else "together with cors_credentials"
        raise ConfigError(
            f"cors_origins: {anybody} cannot be used {why}: any page in a visitor's browser could use this server; "
            "name the origins",
            field="cors_origins",
        )
    for origin in settings.cors_origins:
        allowed_origin(origin)
    if settings.keyfile and not settings.certfile:
        raise ConfigError("keyfile: a key without certfile means nothing: name the certificate too", field="keyfile")
    if settings.public_url is not None:
        url = urlsplit(settings.public_url)
        if not _PUBLIC_URL.fullmatch(settings.public_url) or not url.netloc or url.query or url.fragment:
            raise ConfigError(
                f"public_url: {settings.public_url!r} is not an address such as https://chat.example.org (in ASCII)",
                field="public_url",
            )
    for name in settings.allowed_hosts:
        allowed_host(name)
    for proxy in settings.trusted_proxies:
        trusted_network(proxy)
    try:
        for topic in settings.default_topics:
            check_topic(topic, "default_topics")
        for name in ("ephemeral_topics", "drop_oldest_topics", "conflate_topics"):
            for pattern in getattr(settings, name):
                check_pattern(pattern, name)
        for rule in settings.retention:
            check_pattern(rule.topic, "retention")
        for key in settings.api_keys:
            for pattern in (*key.publish, *key.subscribe):
                check_pattern(pattern, "api_keys")
        check_keys(settings.jwt_keys)
    except InvalidValue as error:
        raise ConfigError(error.message, field=error.field) from None
    limit = descriptor_limit()
    if settings.max_connections is not None and settings.max_connections > limit - _RESERVED_DESCRIPTORS:
        raise ConfigError(
            f"max_connections: {settings.max_connections} need {settings.max_connections + _RESERVED_DESCRIPTORS} file "
            f"descriptors, and this process may have {limit}: raise it with `ulimit -n`, or lower the setting",
            field="max_connections",
        )


def is_open(settings: Settings) -> bool:
    """Whether everybody who reaches the server may do everything: open mode."""
    return not (settings.api_keys or settings.jwt_keys)


def descriptor_limit() -> int:
    """How many file descriptors this process may open; the soft limit is raised to the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft


def max_connections(settings: Settings) -> int:
    """The setting, or what the descriptors leave."""
    return settings.max_connections or max(1, descriptor_limit() - _RESERVED_DESCRIPTORS)


def _connection_limits(settings: Settings, loopback: bool) -> ConnectionLimits:
    per_address, per_second = settings.max_connections_per_address, settings.events_per_second
    return ConnectionLimits(
        max_connections=max_connections(settings),
        max_connections_per_address=(0 if loopback else 1_000) if per_address is None else per_address,
        max_head_bytes=settings.max_head_bytes,
        max_headers=settings.max_headers,
        head_timeout=settings.head_timeout,
        body_timeout=settings.body_timeout,
        keep_alive_timeout=settings.keep_alive_timeout,
        tls_handshake_timeout=settings.tls_handshake_timeout,
        close_timeout=settings.close_timeout,
        ping_interval=settings.ping_interval,
        ping_timeout=settings.ping_timeout,
        outbox_bytes=settings.outbox_bytes,
        events_per_second=(0.0 if loopback else 100.0) if per_second is None else per_second,
        events_burst=settings.events_burst,
        compress_from=settings.compress_from,
        drain_time=settings.drain_time,
        upgrade_timeout=settings.upgrade_timeout,
        connect_timeout=settings.connect_timeout,
        max_attachments=settings.max_attachments,
        max_pending_events=settings.max_pending_events,
        max_pending_bytes=settings.max_pending_bytes,
        rooms_per_connection=settings.rooms_per_connection,
        message=MessageLimits(
            settings.max_message,
            settings.max_message if settings.max_inflated is None else settings.max_inflated,
            settings.max_fragments,
        ),
    )


def _relay_settings(settings: Settings, loopback: bool, native: bool) -> RelaySettings:
    rate = settings.registrations_per_second
    return RelaySettings(
        default_topics=settings.default_topics,
        public_url=settings.public_url,
        max_body=settings.max_body,
        topics_per_connection=settings.topics_per_connection,
        permessage_deflate=settings.permessage_deflate,
        classic=ClassicRules(
            settings.classic_errors, settings.topics_per_connection, settings.compress_from, settings.ping_interval
        ),
        registrations_per_second=(0.0 if loopback else 100.0) if rate is None else rate,
        resume_window=settings.resume_window,
        pings=native,
    )


def _store(settings: Settings, database: Database, *, new_epoch: bool) -> Store:
    """The log: in the database file, or in memory where there is none."""
    rules = tuple(
        (
            rule.topic,
            Bounds(
                settings.max_age if rule.max_age is None else rule.max_age,
                settings.max_messages if rule.max_messages is None else rule.max_messages,
                rule.max_bytes,
            ),
        )
        for rule in settings.retention
    )
    if settings.db != ":memory:":
        kept = Retention(settings.max_age, settings.max_messages, settings.max_rooms, rules)
        return SqliteStore(database, kept, idempotency_window=settings.idempotency_window, new_epoch=new_epoch)
    return MemoryStore(
        MemoryRetention(
            settings.max_age, settings.max_messages, settings.max_rooms, rules, max_bytes=settings.max_log_bytes
        ),
        idempotency_window=settings.idempotency_window,
        counters=database.counters,
    )


def _principal(key: ApiKey) -> Principal:
    """Who asks with a key; a piece of its hash tells it from the others."""
    return Principal(key.publish, key.subscribe, key.admin, name="key " + key.hash.removeprefix("sha256:")[:16])


def _perimeter(settings: Settings, loopback: bool, native: bool) -> Perimeter:
    hosts = {allowed_host(name) for name in settings.allowed_hosts}
    own: set[str] = set()
    if loopback or not native:
        hosts.add("localhost")
    if settings.public_url is not None:
        url = urlsplit(settings.public_url)
        hosts.add((url.hostname or "").lower())
        scheme = {"ws": "http", "wss": "https"}.get(url.scheme, url.scheme)
        if (origin := canonical_origin(f"{scheme}://{url.netloc}")) is not None:
            own.add(origin)
    return Perimeter(
        allowed_hosts=frozenset(hosts),
        cors_origins=frozenset(map(allowed_origin, settings.cors_origins)),
        own_origins=frozenset(own),
        trusted_proxies=tuple(map(trusted_network, settings.trusted_proxies)),
        open_mode=is_open(settings),
        insecure=settings.insecure,
        local_only=not native and is_open(settings) and not settings.insecure,
    )


def _outside(nowhere: ASGIApp, fallback: ASGIApp) -> ASGIApp:
    """What has a path that is not ours goes to `fallback`, unless it has come from there: where we are mounted, too."""

    async def default(scope: Scope, receive: Receive, send: Send) -> None:
        await (nowhere if "partyline.mounted" in scope else fallback)(scope, receive, send)

    return default


def _cors(app: ASGIApp, settings: Settings) -> ASGIApp:
    """CORS answers, errors included, for every origin that came as far as this: the gate has refused all others."""
    anybody = "*" in settings.cors_origins
    return CORSMiddleware(
        app,
        allow_origins=("*",) if anybody else (),
        allow_origin_regex=None if anybody else ".*",
        allow_methods=("*",),
        allow_headers=("*",),
        allow_credentials=settings.cors_credentials,
        max_age=600,
    )


def _cors_headers(settings: Settings) -> Callable[[bytes], list[tuple[bytes, bytes]]]:
    """The same headers for answers that are made without ASGI."""
    if "*" in settings.cors_origins:
        return lambda origin: [(b"access-control-allow-origin", b"*")]
    credentials = [(b"access-control-allow-credentials", b"true")] if settings.cors_credentials else []
    return lambda origin: [*credentials, (b"access-control-allow-origin", origin), (b"vary", b"Origin")]


def _own_routes(site: Site, access: Access) -> list[Route]:
    async def metrics(request: Request) -> Response:
        if not peer(request).local:
            access.principal(request).must_be_admin("/metrics")
        try:
            text = exposition(site.counters, site.connections)
        except ImportError:
            raise NotFound("/metrics needs prometheus-client: pip install 'partyline[metrics]'") from None
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    return [Route("/metrics", metrics, methods=["GET"])]
