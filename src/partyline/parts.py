"""From settings to what each part takes: limits, rules, the log, who may come. `app.build` puts the parts together."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from partyline.checking import is_open, max_connections
from partyline.config import ApiKey, Settings
from partyline.engineio.limits import SessionLimits
from partyline.hub.hub import RoomRules
from partyline.hub.timers import Timers
from partyline.interfaces import Store
from partyline.metrics import Counters
from partyline.relay.access import Access
from partyline.relay.classic.api import RelaySettings
from partyline.relay.classic.registry import Registry, RegistryLimits
from partyline.relay.classic.session import ClassicRules
from partyline.relay.clients import Listed
from partyline.relay.revocations import Revoker
from partyline.relay.signers import signers
from partyline.relay.v1.session import Rules
from partyline.server.site import ConnectionLimits
from partyline.stores.memory import MemoryStore
from partyline.stores.memory import Retention as MemoryRetention
from partyline.stores.retention import Bounds, Retention
from partyline.stores.sqlite.database import Database
from partyline.stores.sqlite.log import SqliteStore
from partyline.stores.sqlite.registrations import RegistrationTable
from partyline.stores.sqlite.revocations import RevocationTable
from partyline.trust.keys import KeyRing, Principal
from partyline.trust.perimeter import Perimeter, allowed_host, allowed_origin, canonical_origin, trusted_network
from partyline.trust.tokens import Tokens, revocation_life
from partyline.wire.websocket.connection import Limits as MessageLimits


def room_rules(settings: Settings) -> RoomRules:
    """What is kept of each topic, and what a slow subscriber to it misses."""
    return RoomRules(settings.ephemeral_topics, settings.drop_oldest_topics, settings.conflate_topics)


def revoker(settings: Settings, database: Database) -> Revoker:
    """Which tokens are revoked, as long as one of them could still be good."""
    life = revocation_life(settings.jwt_max_life, (key.leeway for key in settings.jwt_keys))
    return Revoker(RevocationTable(database), life)


def registry(
    settings: Settings,
    database: Database,
    timers: Timers,
    counters: Counters,
    revoker: Revoker,
    connected: set[Listed],
) -> Registry:
    """The registrations of the classic relay."""
    limits = RegistryLimits(
        settings.registrations_per_user,
        settings.max_registrations,
        settings.unused_registration_life,
        settings.resume_window,
        settings.topics_per_connection,
        settings.max_registration_bytes,
    )
    return Registry(RegistrationTable(database), timers, counters, limits, revoker=revoker, connected=connected)


def tokens(settings: Settings) -> Tokens | None:
    """Who signs tokens. Raises ConfigError for a key that cannot be used."""
    return Tokens(signers(settings.jwt_keys), settings.jwt_max_life) if settings.jwt_keys else None


def access(settings: Settings, counters: Counters, tokens: Tokens | None, revoker: Revoker) -> Access:
    """Who may do what, by key and by token."""
    keys = KeyRing([(key.hash, _principal(key)) for key in settings.api_keys])
    return Access(keys, counters, settings.auth_failures_per_minute, tokens, revoker)


def v1_rules(settings: Settings) -> Rules:
    """What v1 sessions go by."""
    return Rules(
        settings.first_command_timeout, settings.ping_interval, settings.topics_per_connection, settings.compress_from
    )


def connection_limits(settings: Settings, loopback: bool) -> ConnectionLimits:
    """What one connection, and all of them, may take. Two are off where only this machine can come."""
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
        message=MessageLimits(
            settings.max_message,
            settings.max_message if settings.max_inflated is None else settings.max_inflated,
            settings.max_fragments,
        ),
    )


def session_limits(settings: Settings) -> SessionLimits:
    """What one client of Engine.IO or Socket.IO may take."""
    return SessionLimits(
        upgrade_timeout=settings.upgrade_timeout,
        connect_timeout=settings.connect_timeout,
        max_attachments=settings.max_attachments,
        max_pending_events=settings.max_pending_events,
        max_pending_bytes=settings.max_pending_bytes,
        rooms_per_connection=settings.rooms_per_connection,
    )


def relay_settings(settings: Settings, loopback: bool, native: bool) -> RelaySettings:
    """What the classic relay goes by."""
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


def store(settings: Settings, database: Database, *, new_epoch: bool) -> Store:
    """The log: in the database file, or in memory if there is no file."""
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


def perimeter(settings: Settings, loopback: bool, native: bool) -> Perimeter:
    """Which Hosts and Origins are let in, and whose forwarded headers are believed."""
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


def cors(app: ASGIApp, settings: Settings) -> ASGIApp:
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


def cors_headers(settings: Settings) -> Callable[[bytes], list[tuple[bytes, bytes]]]:
    """The same headers for answers that are made without ASGI."""
    if "*" in settings.cors_origins:
        return lambda origin: [(b"access-control-allow-origin", b"*")]
    credentials = [(b"access-control-allow-credentials", b"true")] if settings.cors_credentials else []
    return lambda origin: [*credentials, (b"access-control-allow-origin", origin), (b"vary", b"Origin")]
