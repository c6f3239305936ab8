"""From settings to what each part takes: limits, rules, the log, who may come. `app.build` puts the parts together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from partyline.checking import max_connections
from partyline.config import Settings, is_open
from partyline.engines import retention
from partyline.entries import ApiKey
from partyline.errors import ConfigError
from partyline.hub.hub import RoomRules
from partyline.interfaces import Durability
from partyline.metrics import Counters
from partyline.relay.access import Access
from partyline.relay.revocations import RevocationRows, Revoker
from partyline.relay.signers import signers
from partyline.stores.memory import MemoryStore
from partyline.stores.memory import Retention as MemoryRetention
from partyline.stores.sqlite.database import Database
from partyline.stores.sqlite.store import SqliteStore
from partyline.trust.keys import KeyRing, Principal
from partyline.trust.perimeter import Perimeter, allowed_host, allowed_origin, canonical_origin, trusted_network
from partyline.trust.tokens import Tokens, revocation_life

_T = TypeVar("_T")
_Number = TypeVar("_Number", int, float)


def room_rules(settings: Settings) -> RoomRules:
    """What is kept of each topic, and what a slow subscriber to it misses."""
    return RoomRules(settings.ephemeral_topics, settings.drop_oldest_topics, settings.conflate_topics)


def revoker(settings: Settings, table: RevocationRows) -> Revoker:
    """The revocations, each kept as long as a token that it affects could still be valid."""
    life = revocation_life(settings.jwt_max_life, (key.leeway for key in settings.jwt_keys))
    return Revoker(table, life)


def tokens(settings: Settings) -> Tokens | None:
    """The verifier of tokens. Raises ConfigError for a key that cannot be used."""
    return Tokens(signers(settings.jwt_keys), settings.jwt_max_life) if settings.jwt_keys else None


def access(settings: Settings, counters: Counters, tokens: Tokens | None, revoker: Revoker) -> Access:
    """Who may do what, by key and by token."""
    keys = KeyRing([(key.hash, _principal(key)) for key in settings.api_keys])
    return Access(keys, counters, settings.auth_failures_per_minute, tokens, revoker)


def effective(settings: Settings, loopback: bool) -> Settings:
    """The settings with their defaults resolved. Some limits are off if only this machine can connect."""

    def limit(value: _Number | None, default: _Number) -> _Number:
        return (type(default)(0) if loopback else default) if value is None else value

    return replace(
        settings,
        max_connections=max_connections(settings),
        max_connections_per_address=limit(settings.max_connections_per_address, 1_000),
        max_inflated=settings.max_message if settings.max_inflated is None else settings.max_inflated,
        events_per_second=limit(settings.events_per_second, 100.0),
        registrations_per_second=limit(settings.registrations_per_second, 100.0),
    )


def picked(kind: type[_T], settings: Settings, **others: object) -> _T:
    """Limits of a `kind` whose fields have the names of settings, except for `others`."""
    names = {item.name for item in fields(cast("Any", kind))} - others.keys()
    return kind(**{name: getattr(settings, name) for name in names}, **others)


def store(settings: Settings, database: Database, *, new_epoch: bool) -> SqliteStore | MemoryStore:
    """The log: in the database file, or in memory if there is no file."""
    kept = retention(settings)
    if settings.db != ":memory:":
        return SqliteStore(database, kept, idempotency_window=settings.idempotency_window, new_epoch=new_epoch)
    return MemoryStore(
        MemoryRetention(kept.max_age, kept.max_messages, kept.max_rooms, kept.rules, max_bytes=settings.max_log_bytes),
        idempotency_window=settings.idempotency_window,
        counters=database.counters,
    )


def require_durability(settings: Settings, durability: Durability) -> None:
    """Raises ConfigError where the log keeps less than the settings require."""
    if durability < Durability.named(settings.require_durability):
        kept = f"db = {settings.db!r}" if settings.log is None else "this log"
        raise ConfigError(
            f"require_durability: {settings.require_durability} is required, and with {kept} an accepted "
            f"message survives {durability.survived}; choose another log, or require {durability}",
            field="require_durability",
        )


def _principal(key: ApiKey) -> Principal:
    """Who asks with a key; a piece of its hash tells it from the others."""
    return Principal(key.publish, key.subscribe, key.admin, name="key " + key.hash.removeprefix("sha256:")[:16])


def perimeter(settings: Settings, loopback: bool, native: bool) -> Perimeter:
    """Which Hosts and Origins are admitted, and whose forwarded headers are trusted."""
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


def cors_headers(settings: Settings) -> Callable[[bytes | None], list[tuple[bytes, bytes]]]:
    """The same headers for answers that are made without ASGI, by the request's origin, if it has one."""
    anybody = "*" in settings.cors_origins
    credentials = [(b"access-control-allow-credentials", b"true")] if settings.cors_credentials else []

    def headers(origin: bytes | None) -> list[tuple[bytes, bytes]]:
        vary = (b"vary", b"Origin")
        if origin is None:
            return [vary]
        return [*credentials, (b"access-control-allow-origin", b"*" if anybody else origin), vary]

    return headers
